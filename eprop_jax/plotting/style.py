"""What all pictures share: colours, marks, dashes, and the refusal of arrays that do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np

from eprop_jax import checks

# Okabe and Ito's colours, told apart by colour-blind readers too; marks and dashes say it again.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))


def line(i: int) -> dict[str, Any]:
    """Colour and dashes of the i-th line."""
    return {"color": COLOURS[i % 7], "linestyle": DASHES[i % 7]}


def plain_decades(ax: Any) -> None:
    """On a logarithmic y axis 0.2, 5, 10, in place of powers of ten, where it spans few of them."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    low, high = ax.get_ylim()
    if 0 < high < 1e4 * low and 1e-3 < low:
        ax.yaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())


def axes(ax: Any) -> Any:
    """What can be drawn on."""
    if not hasattr(ax, "plot") or not hasattr(ax, "annotate"):
        raise TypeError(f"ax: got {type(ax).__name__}, wanted a matplotlib Axes")
    return ax


def array(name: str, value: Any, ndim: int) -> np.ndarray:
    """`value` as an array of so many axes."""
    value = np.asarray(checks.real(name, value))
    if value.ndim != ndim:
        raise ValueError(f"{name}: got shape {list(value.shape)}, wanted {ndim} axes")
    return value


def like(name: str, value: Any, shape: tuple[int, ...], meaning: str) -> np.ndarray:
    """`value` as an array of this shape."""
    value = np.asarray(checks.real(name, value))
    if value.shape != shape:
        raise ValueError(f"{name}: got shape {list(value.shape)}, wanted {list(shape)}, {meaning}")
    return value
