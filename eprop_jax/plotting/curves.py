"""Curves over seeds: what a rule learns, and how near its gradient is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from eprop_jax import checks
from eprop_jax.plotting import style

MARKED = 25
"""A line of more points has no marks, which would run together."""


def learning_curves(
    ax: Any, steps: Any, curves: Mapping[str, Any], *, label: str | None = None,
    yscale: str = "linear",
) -> Any:  # fmt: skip
    """Test accuracy, or another quantity, against updates: the mean over seeds, and a band from the
    lowest to the highest.

    Args:
      ax: a matplotlib Axes.
      steps: [S], updates done.
      curves: {rule: [seeds, S]}.
      label: what `curves` hold, drawn as they are. By default they are accuracies from 0 to 1, and
        are drawn in %.
      yscale: "linear" or "log".

    Raises:
      TypeError: for what is no Axes, or no numbers.
      ValueError: if a curve is not [seeds, S], or not positive on a logarithmic axis.

    >>> from matplotlib.figure import Figure
    >>> from eprop_jax import plotting
    >>> ax = plotting.learning_curves(Figure().subplots(), [10, 20], {"BPTT": [[0.8, 0.9]]})
    >>> ax.get_ylabel()
    'test accuracy (%)'
    >>> ax = plotting.learning_curves(
    ...     Figure().subplots(), [10, 20], {"BPTT": [[0.8, 0.01]]}, label="loss", yscale="log")
    >>> ax.get_ylabel(), ax.get_yscale()
    ('loss', 'log')
    """
    style.axes(ax)
    steps = style.array("steps", steps, 1)
    checks.one_of("yscale", yscale, ("linear", "log"))
    for i, (name, curve) in enumerate(checks.mapping("curves", curves).items()):
        y = style.array(f"curves[{name!r}]", curve, 2) * (100 if label is None else 1)
        if y.shape[1] != len(steps):
            raise ValueError(f"curves[{name!r}]: got {y.shape[1]} points, wanted {len(steps)}")
        if yscale == "log" and np.any(y <= 0):
            raise ValueError(
                f"curves[{name!r}]: got {np.nanmin(y)}, wanted positive numbers on a logarithmic axis"
            )
        mark = style.MARKS[i % 7] if len(steps) <= MARKED else ""
        ax.plot(steps, y.mean(0), label=name, marker=mark, markersize=3.5, linewidth=1.3,
                **style.line(i))  # fmt: skip
        ax.fill_between(
            steps, y.min(0), y.max(0), color=style.COLOURS[i % 7], alpha=0.15, linewidth=0
        )
    ax.set(xlabel="updates", ylabel="test accuracy (%)" if label is None else label, yscale=yscale)
    if yscale == "log":
        style.plain_decades(ax)
    ax.legend(fontsize="small", loc="lower right" if label is None else "best")
    ax.grid(alpha=0.3)
    return ax


def fidelity(ax: Any, values: Mapping[str, tuple[Any, Any]], *, quantity: str = "cosine") -> Any:
    """How well each order's gradient approximates BPTT's: the mean over seeds against the order.

    Args:
      ax: a matplotlib Axes.
      values: {name: (orders [m], [seeds, m])}.
      quantity: "cosine" (linear axis) or "relative_error" (logarithmic; 0 is not drawn).

    Raises:
      TypeError: for what is no Axes, or no numbers.
      ValueError: for another quantity, or values that are not [seeds, m].

    >>> from matplotlib.figure import Figure
    >>> from eprop_jax import plotting
    >>> ax = plotting.fidelity(Figure().subplots(), {"GRU": ([1, 2], [[0.9, 1.0]])})
    >>> ax.get_xlabel()
    'order m'
    """
    style.axes(ax)
    labels = {
        "cosine": "cosine to BPTT's gradient",
        "relative_error": "relative error of the gradient",
    }
    checks.one_of("quantity", quantity, sorted(labels))
    ticks = set()
    for i, (name, pair) in enumerate(checks.mapping("values", values).items()):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(
                f"values[{name!r}]: got {type(pair).__name__}, wanted a pair (orders, [seeds, m])"
            )
        orders, value = pair
        orders = style.array(f"values[{name!r}][0]", orders, 1)
        ticks |= set(orders.tolist())
        y = style.array(f"values[{name!r}]", value, 2).mean(0)
        if len(y) != len(orders):
            raise ValueError(f"values[{name!r}]: got {len(y)} orders, wanted {len(orders)}")
        if quantity == "relative_error":
            y = np.where(y > 0, y, np.nan)
        ax.plot(orders, y, label=name, marker=style.MARKS[i % 7], markersize=5, **style.line(i))
    if quantity == "relative_error":
        ax.set_yscale("log")
    ax.set(xlabel="order m", ylabel=labels[quantity], xticks=sorted(ticks))
    ax.legend(fontsize="small")
    ax.grid(alpha=0.3)
    return ax
