"""What a unit does under a step of its drive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax import checks
from eprop_jax.network import unitwise
from eprop_jax.network.types import Cell
from eprop_jax.plotting import style


class Response(NamedTuple):
    """Of unit 0, step by step."""

    output: np.ndarray
    """h, [T]"""
    state: dict[str, np.ndarray]
    """by component, [T]"""


def step_response(
    ax: Any,
    cell: Cell,
    size: Any,
    *,
    shown: Sequence[str] = (),
    start: int = 20,
    stop: int = 120,
    steps: int = 160,
    dt: float = 1.0,
    units: Mapping[str, str] | None = None,
    highest: float | None = None,
) -> Any:
    """The output and the state of a cell's unit 0, whose drive is `size` from step `start` to `stop`.

    It hears nothing else: no other unit, and not itself. Spikes (an output of 0 and 1 alone) are drawn
    as ticks above the first component, any other output as a line.

    Args:
      ax: a matplotlib Axes.
      cell: any.
      size: a number; of a cell with several drives, of each, or {drive: number} of those named.
      shown: components of the state, one or two; the second has its axis at the right. Default: the
        first, where the output spikes, else none.
      start, stop, steps: of the step, and of all that is drawn.
      dt: ms a step.
      units: {component: unit}, to be printed.
      highest: the first component is drawn no higher, as the peak of a spike, which a step overshoots.

    Raises:
      TypeError: for what is no Axes or no cell.
      ValueError: for a drive or component that the cell does not have, or steps that are not in order.

    >>> from matplotlib.figure import Figure
    >>> import eprop_jax as ej
    >>> from eprop_jax import plotting
    >>> cell = ej.cells.lif(1, 1, tau_m=20.0)
    >>> ax = plotting.step_response(Figure().subplots(), cell, 0.08, shown=("v",))
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('time (ms)', 'v')
    """
    style.axes(ax)
    checks.positive("dt", checks.number("dt", dt))
    found = response(cell, size, start, stop, steps)
    spiking = bool(np.all((found.output == 0) | (found.output == 1)))
    every = tuple(found.state)
    shown = checks.names("shown", tuple(shown) or every[: int(spiking)], every)
    units, t = dict(units or {}), np.arange(steps) * dt
    label = lambda name: f"{name} ({units[name]})" if name in units else name
    first = ("h", found.output) if not spiking else (shown[0], found.state[shown[0]])
    if highest is not None:
        checks.number("highest", highest)
        first = first[0], np.minimum(first[1], highest)
    ax.axvspan(start * dt, stop * dt, color="0.93", linewidth=0, zorder=0)
    ax.plot(t, first[1], color=style.COLOURS[0], linewidth=1.1)
    ax.set_ylabel(label(first[0]), color=style.COLOURS[0])
    low, high = ax.get_ylim()
    if spiking:
        at = t[found.output > 0]
        ax.plot(at, np.full(len(at), high + 0.08 * (high - low)), linestyle="", marker="|",
                color="black", markersize=7)  # fmt: skip
        high += 0.16 * (high - low)
    ax.set(xlabel="time (ms)", xlim=(0, (steps - 1) * dt), ylim=(low, high))
    others = shown[1:2] if spiking else shown[:1]
    for name in others:
        right = ax.twinx()
        right.plot(t, found.state[name], color=style.COLOURS[1], linestyle="--", linewidth=1.1)
        right.set_ylabel(label(name), color=style.COLOURS[1])
        right.spines["top"].set_visible(False)
        low, high = right.get_ylim()
        right.set_ylim(low, high + (0.2 * (high - low) if spiking else 0.0))  # below the ticks
    ax.spines["top"].set_visible(False)
    ax.spines["right"].set_visible(bool(others))
    return ax


def response(cell: Cell, size: Any, start: int, stop: int, steps: int) -> Response:
    """What `step_response` draws."""
    checks.instance("cell", cell, Cell, "an ej.Cell")
    checks.size("steps", steps)
    if not 0 <= checks.steps("start", start) < checks.steps("stop", stop) <= steps:
        raise ValueError(
            f"start, stop: got {start}, {stop}, wanted 0 <= start < stop <= steps, {steps}"
        )
    like = jax.eval_shape(lambda: cell.init(jax.random.key(0)))
    drives = unitwise.gate_names(like)
    sizes: dict[str, Any] = dict(size) if isinstance(size, Mapping) else dict.fromkeys(drives, size)
    checks.names("size", tuple(sizes), drives)
    for x in sizes.values():
        checks.number("size", x)
    on = ((np.arange(steps) >= start) & (np.arange(steps) < stop)).astype(float)
    params = cell.init(jax.random.key(0))

    def at(c, on_t):
        of = lambda g: jnp.full(cell.n_units, sizes.get(g, 0.0)) * on_t
        c = unitwise.dynamics(cell, params, c, unitwise.of_gates({g: of(g) for g in drives}))
        return c, (unitwise.output(cell, params, c)[0], unitwise.floats(c))

    _, (h, state) = jax.lax.scan(at, cell.initial_state(params, ()), jnp.asarray(on, float))
    c = jax.eval_shape(lambda p: cell.initial_state(p, ()), params)
    by_name = {name: np.asarray(state[r][:, 0]) for name, r in unitwise.components(c).items()}
    return Response(np.asarray(h), by_name)
