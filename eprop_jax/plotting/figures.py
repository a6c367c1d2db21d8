"""Whole figures, written to a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from eprop_jax import checks
from eprop_jax.plotting.curves import fidelity, learning_curves
from eprop_jax.plotting.over_time import raster, traces

TASK = "digits"
LEAST = 0.1
"""% of test examples: where an error of 0 is drawn, below that of one example in 450"""


def error_curves(ax: Any, found: list) -> Any:
    """Learning curves on a logarithmic axis: a layer that is frozen ends at some 50 %, the rules at a
    few, and those are to be told apart."""
    curves = {r.name: np.maximum(100 * (1 - r.curve), LEAST) for r in found}
    learning_curves(ax, found[0].steps, curves, label="test error (%)", yscale="log")
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16)}  # there is no room among them
    ax.legend(fontsize="small", ncols=3, frameon=False, **below)
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
    panels = demo_panels(results, orders, recording)
    columns = 2 if len(panels) in (2, 4) else 3
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.2 * columns, 4.0 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, (title, draw) in zip(axes, panels):
        draw(ax).set_title(title, fontsize="medium")
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    figure.suptitle(f"Handwritten digits, read row by row: {' and '.join(map(str.upper, results))}")
    figure.savefig(path, dpi=130)


def demo_panels(results: Mapping[str, list], orders: Mapping[str, Any], recording: Any) -> list:
    """[(title, what draws it on an Axes)]; the titles name task, cell and who trained."""
    panels = []
    for cell, found in results.items():
        title = (
            f"{TASK}, {cell.upper()}: test error (mean, range of {len(found[0].accuracy)} seeds)"
        )
        panels.append((title, lambda ax, found=found: error_curves(ax, found)))
    for quantity, title in (
        ("relative_error", "the gap to BPTT's gradient"),
        ("cosine", "direction of the gradient"),
    ):
        values = {
            f"{cell.upper()}, {when}": (by.orders, getattr(getattr(by, at), quantity))
            for cell, by in orders.items()
            for at, when in (("start", "untrained"), ("end", f"trained by {results[cell][0].name}"))
        }
        title = f"{TASK}, {' and '.join(map(str.upper, orders))}: {title}"
        panels.append((title, lambda ax, v=values, q=quantity: fidelity(ax, v, quantity=q)))
    if recording is not None:
        r = recording
        digits = [(i * r.steps, f"digit {label}") for i, label in enumerate(r.labels)]
        names = [f"{i} → {j}" for i, j in r.synapses]
        stack = isinstance(r.spikes, tuple)
        by = f"trained by {results['alif'][0].name}"
        for l, spikes in enumerate(r.spikes if stack else [r.spikes]):
            title = f"{TASK}, ALIF{f', layer {l}' if stack else ''}: spikes, {by}"
            panels.append((title, lambda ax, h=spikes: raster(ax, h, digits=digits)))
        title = f"{TASK}, ALIF{', layer 0' if stack else ''}: three eligibility traces, {by}"
        panels.append((title, lambda ax: traces(ax, r.traces, names, digits=digits)))
    return panels
