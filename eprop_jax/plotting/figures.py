"""Whole figures, written to a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eprop_jax import checks
from eprop_jax.plotting.curves import fidelity, learning_curves
from eprop_jax.plotting.over_time import raster, traces


def demo_figure(path: Path, results: Mapping[str, list], orders: Mapping[str, Any], recording: Any):
    """The demo's picture as a PNG: a panel of learning curves a cell, fidelity, raster and traces.

    Args:
      path: where to write it; its folder exists.
      results: {cell: [`demo.Result`]}.
      orders: {cell: `demo.OrderFidelity`}.
      recording: a `demo.Recording` of spiking units, or None.

    Raises:
      ImportError: if matplotlib is not there.
      TypeError: if `path` is no path, or the others no dicts by cell.

    >>> import pathlib, tempfile
    >>> from eprop_jax import plotting, tasks
    >>> from eprop_jax.cli import demo
    >>> done, by_order = demo.run("gru", tasks.digits(), rules=["frozen"], seeds=1, updates=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "demo.png"
    ...     plotting.demo_figure(path, {"gru": done}, {"gru": by_order}, None)
    ...     path.stat().st_size > 10_000
    True
    """
    from matplotlib.figure import Figure

    checks.folder("path", path)
    checks.mapping("results", results)
    checks.mapping("orders", orders)
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
        stack = isinstance(r.spikes, tuple)
        for l, spikes in enumerate(r.spikes if stack else [r.spikes]):
            title = "ALIF: spikes of the trained network" + (f", layer {l}" if stack else "")
            panels.append((title, lambda ax, h=spikes: raster(ax, h, digits=digits)))
        panels.append(("ALIF: three eligibility traces" + (" of layer 0" if stack else ""),
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
