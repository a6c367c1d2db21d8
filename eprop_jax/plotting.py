"""Pictures of learning: functions of arrays and a matplotlib Axes, which they draw on and return.

matplotlib is an extra (`pip install "eprop_jax[examples]"`) and is imported inside functions only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Okabe and Ito's colours, told apart by colour-blind readers too; marks and dashes say it again.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))


def raster(
    ax: Any, spikes: Any, *, dt: float = 1.0, digits: Sequence[tuple[float, str]] = ()
) -> Any:
    """Which unit spikes when.

    Args:
      ax: a matplotlib Axes.
      spikes: [T, n], non-zero where a unit spikes.
      dt: ms a step.
      digits: (start in ms, label) of each part, parted by lines.

    Raises:
      ValueError: if `spikes` has not two axes.

    >>> from matplotlib.figure import Figure
    >>> from eprop_jax import plotting
    >>> ax = plotting.raster(Figure().subplots(), [[0, 1], [1, 1]])
    >>> ax.get_xlabel()
    'time (ms)'
    """
    spikes = _array("spikes", spikes, 2)
    t, unit = np.nonzero(spikes)
    ax.plot(t * dt, unit, "|", color="black", markersize=2.5, markeredgewidth=0.8)
    _parts(ax, digits)
    ax.set(
        xlim=(-0.5 * dt, (spikes.shape[0] - 0.5) * dt), ylim=(-1, 1.07 * spikes.shape[1]),
        xlabel="time (ms)", ylabel="unit",
    )  # fmt: skip
    return ax


def traces(
    ax: Any, e: Any, labels: Sequence[str], *, dt: float = 1.0,
    digits: Sequence[tuple[float, str]] = (),
) -> Any:  # fmt: skip
    """Eligibility traces over time.

    Args:
      ax: a matplotlib Axes.
      e: [T, k], the traces of k synapses.
      labels: k names.
      dt: ms a step.
      digits: as in `raster`.

    Raises:
      ValueError: if `e` has not two axes, or not one column a label.

    >>> from matplotlib.figure import Figure
    >>> from eprop_jax import plotting
    >>> ax = plotting.traces(Figure().subplots(), [[0.0], [1.0]], ["3 → 4"])
    >>> ax.get_ylabel()
    'eligibility trace e'
    """
    e = _array("e", e, 2)
    if e.shape[1] != len(labels):
        raise ValueError(f"labels: got {len(labels)}, wanted {e.shape[1]}, one a trace")
    for k, label in enumerate(labels):
        style = {"color": COLOURS[k % 7], "linestyle": DASHES[k % 7]}
        ax.plot(np.arange(len(e)) * dt, e[:, k], label=label, **style)
    _parts(ax, digits)
    ax.set(xlim=(-0.5 * dt, (len(e) - 0.5) * dt), xlabel="time (ms)", ylabel="eligibility trace e")
    low, high = ax.get_ylim()  # room for the legend below the traces, and for names above
    ax.set_ylim(low - 0.25 * (high - low), high + 0.1 * (high - low))
    ax.legend(
        fontsize="small", title="synapse (pre → post)", title_fontsize="small",
        loc="lower center", ncols=max(1, len(labels)),
    )  # fmt: skip
    return ax


def learning_curves(ax: Any, steps: Any, curves: Mapping[str, Any]) -> Any:
    """Test accuracy against updates: the mean over seeds, and a band from the worst to the best.

    Args:
      ax: a matplotlib Axes.
      steps: [S], updates done.
      curves: {rule: accuracy [seeds, S], from 0 to 1}.

    Raises:
      ValueError: if a curve is not [seeds, S].

    >>> from matplotlib.figure import Figure
    >>> from eprop_jax import plotting
    >>> ax = plotting.learning_curves(Figure().subplots(), [10, 20], {"BPTT": [[0.8, 0.9]]})
    >>> ax.get_ylabel()
    'test accuracy (%)'
    """
    steps = _array("steps", steps, 1)
    for i, (name, curve) in enumerate(curves.items()):
        y = 100 * _array(f"curves[{name!r}]", curve, 2)
        if y.shape[1] != len(steps):
            raise ValueError(f"curves[{name!r}]: got {y.shape[1]} points, wanted {len(steps)}")
        style = {"color": COLOURS[i % 7], "linestyle": DASHES[i % 7]}
        ax.plot(steps, y.mean(0), label=name, marker=MARKS[i % 7], markersize=3.5, **style)
        ax.fill_between(steps, y.min(0), y.max(0), color=style["color"], alpha=0.15, linewidth=0)
    ax.set(xlabel="updates", ylabel="test accuracy (%)")
    ax.legend(fontsize="small", loc="lower right")
    ax.grid(alpha=0.3)
    return ax


def fidelity(ax: Any, values: Mapping[str, tuple[Any, Any]], *, quantity: str = "cosine") -> Any:
    """How well each order's gradient approximates BPTT's: the mean over seeds against the order.

    Args:
      ax: a matplotlib Axes.
      values: {name: (orders [m], [seeds, m])}.
      quantity: "cosine" (linear axis) or "relative_error" (logarithmic; 0 is not drawn).

    Raises:
      ValueError: for another quantity, or values that are not [seeds, m].

    >>> from matplotlib.figure import Figure
    >>> from eprop_jax import plotting
    >>> ax = plotting.fidelity(Figure().subplots(), {"GRU": ([1, 2], [[0.9, 1.0]])})
    >>> ax.get_xlabel()
    'order m'
    """
    labels = {
        "cosine": "cosine to BPTT's gradient",
        "relative_error": "relative error of the gradient",
    }
    if quantity not in labels:
        raise ValueError(f"quantity: got {quantity!r}, wanted one of {sorted(labels)}")
    ticks = set()
    for i, (name, (orders, value)) in enumerate(values.items()):
        orders = _array(f"values[{name!r}][0]", orders, 1)
        ticks |= set(orders.tolist())
        y = _array(f"values[{name!r}]", value, 2).mean(0)
        if len(y) != len(orders):
            raise ValueError(f"values[{name!r}]: got {len(y)} orders, wanted {len(orders)}")
        if quantity == "relative_error":
            y = np.where(y > 0, y, np.nan)
        style = {"color": COLOURS[i % 7], "linestyle": DASHES[i % 7], "marker": MARKS[i % 7]}
        ax.plot(orders, y, label=name, markersize=5, **style)
    if quantity == "relative_error":
        ax.set_yscale("log")
    ax.set(xlabel="order m", ylabel=labels[quantity], xticks=sorted(ticks))
    ax.legend(fontsize="small")
    ax.grid(alpha=0.3)
    return ax


def demo_figure(path: Path, results: Mapping[str, list], orders: Mapping[str, Any], recording: Any):
    """The demo's picture as a PNG: a panel of learning curves a cell, fidelity, raster and traces.

    Args:
      path: where to write it; its folder exists.
      results: {cell: [`demo.Result`]}.
      orders: {cell: `demo.OrderFidelity`}.
      recording: a `demo.Recording` of spiking units, or None.

    Raises:
      ImportError: if matplotlib is not there.

    >>> import pathlib, tempfile
    >>> from eprop_jax import demo, plotting, tasks
    >>> done, by_order = demo.run("gru", tasks.digits(), rules=["frozen"], seeds=1, updates=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "demo.png"
    ...     plotting.demo_figure(path, {"gru": done}, {"gru": by_order}, None)
    ...     path.stat().st_size > 10_000
    True
    """
    from matplotlib.figure import Figure

    panels = []
    for cell, found in results.items():
        curves = {r.name: r.curve for r in found}
        title = f"{cell.upper()}: learning curves (mean, range of {len(found[0].accuracy)} seeds)"
        panels.append((title, lambda ax, s=found[0].steps, c=curves: learning_curves(ax, s, c)))
    for quantity, title in (
        ("relative_error", "each order closes the gap to BPTT (none is left at m = T)"),
        ("cosine", "direction of the gradient"),
    ):
        values = {
            f"{cell.upper()}, {when} training": (by.orders, getattr(getattr(by, at), quantity))
            for cell, by in orders.items()
            for at, when in (("start", "before"), ("end", "after"))
        }
        panels.append((title, lambda ax, v=values, q=quantity: fidelity(ax, v, quantity=q)))
    if recording is not None:
        r = recording
        digits = [(i * r.steps, f"digit {label}") for i, label in enumerate(r.labels)]
        names = [f"{i} → {j}" for i, j in r.synapses]
        panels.append(("ALIF: spikes of the trained network",
                       lambda ax: raster(ax, r.spikes, digits=digits)))  # fmt: skip
        panels.append(("ALIF: three eligibility traces",
                       lambda ax: traces(ax, r.traces, names, digits=digits)))  # fmt: skip

    columns = 2 if len(panels) in (2, 4) else 3
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.2 * columns, 4.0 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, (title, draw) in zip(axes, panels):
        draw(ax).set_title(title, fontsize="medium")
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    figure.suptitle("Handwritten digits, one row of pixels at a time")
    figure.savefig(path, dpi=130)


def _parts(ax: Any, parts: Sequence[tuple[float, str]]) -> None:
    for start, label in parts:
        if start > 0:
            ax.axvline(start - 0.5, color="grey", linewidth=0.8)
        ax.annotate(label, (start, 1.0), xycoords=("data", "axes fraction"), xytext=(2, -2),
                    textcoords="offset points", va="top", fontsize="small",
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip


def _array(name: str, value: Any, ndim: int) -> np.ndarray:
    value = np.asarray(value)
    if value.ndim != ndim:
        raise ValueError(f"{name}: got shape {list(value.shape)}, wanted {ndim} axes")
    return value
