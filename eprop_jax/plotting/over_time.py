"""What a network does over time: spikes, voltages, traces, learning signals, outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from eprop_jax import checks
from eprop_jax.plotting import style

INPUT_BAND = 0.3
"""The inputs' band is this share of the units' height, however many lines there are."""


def raster(
    ax: Any, spikes: Any, *, dt: float = 1.0, digits: Sequence[tuple[float, str]] = (),
    inputs: Any = None,
) -> Any:  # fmt: skip
    """Which unit spikes when, and which input line.

    Args:
      ax: a matplotlib Axes.
      spikes: [T, n], non-zero where a unit spikes.
      dt: ms a step.
      digits: (start in ms, label) of each part, parted by lines.
      inputs: [T, n_in], non-zero where an input line spikes: a band below, in another colour.

    Raises:
      TypeError: for what is no Axes, or no numbers.
      ValueError: if `spikes` has not two axes, or `inputs` is not [T, n_in].

    >>> from matplotlib.figure import Figure
    >>> from eprop_jax import plotting
    >>> ax = plotting.raster(Figure().subplots(), [[0, 1], [1, 1]])
    >>> ax.get_xlabel()
    'time (ms)'
    """
    style.axes(ax)
    checks.positive("dt", checks.number("dt", dt))
    spikes = style.array("spikes", spikes, 2)
    T, n = spikes.shape
    bottom = -1.0
    if inputs is not None:
        inputs = style.array("inputs", inputs, 2)
        if len(inputs) != T:
            raise ValueError(f"inputs: got {len(inputs)} steps, wanted {T}, as in spikes")
        bottom = _input_band(ax, inputs, dt, n)
    t, unit = np.nonzero(spikes)
    ax.plot(t * dt, unit, color="black", **_TICKS)
    _parts(ax, digits, dt)
    ax.set(
        xlim=(-0.5 * dt, (T - 0.5) * dt), ylim=(bottom, 1.07 * n),
        xlabel="time (ms)", ylabel="unit",
    )  # fmt: skip
    return ax


_TICKS = {"marker": "|", "linestyle": "", "markersize": 2.5, "markeredgewidth": 0.8}


def _input_band(ax: Any, inputs: np.ndarray, dt: float, n: int) -> float:
    """Draw the input lines below unit 0; returns where the axis ends."""
    from matplotlib.ticker import MaxNLocator

    n_in, height = inputs.shape[1], INPUT_BAND * n
    top = -1.0 - 0.05 * n
    row = height / n_in
    t, line = np.nonzero(inputs)
    ax.plot(t * dt, top - row * (line + 0.5), color=style.COLOURS[1], label="inputs", **_TICKS)
    ax.axhline((top - 1.0) / 2, color="grey", linewidth=0.6)
    ticks = [k for k in MaxNLocator(6, integer=True).tick_values(0, n - 1) if 0 <= k < n]
    ax.set_yticks([*ticks, top - height / 2], [*(f"{k:.0f}" for k in ticks), f"{n_in} inputs"])
    ax.get_yticklabels()[-1].set_color(style.COLOURS[1])
    return top - height - 0.02 * n


def membrane(ax: Any, v: Any, threshold: Any, spikes: Any = None, *, dt: float = 1.0) -> Any:
    """The voltage of one unit, and the threshold that it has to pass.

    Args:
      ax: a matplotlib Axes.
      v: [T], the voltage, before a spike is subtracted (the `v` of `ej.cells.alif`'s state).
      threshold: a number, or [T] where it moves (ALIF: v_th + β a^t).
      spikes: [T], non-zero where the unit spikes; marked above the voltage.
      dt: ms a step.

    Raises:
      TypeError: for what is no Axes, or no numbers.
      ValueError: if `v` has not one axis, or the others do not fit it.

    >>> from matplotlib.figure import Figure
    >>> from eprop_jax import plotting
    >>> ax = plotting.membrane(Figure().subplots(), [0.2, 1.1], 1.0, [0, 1])
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['voltage v', 'threshold', 'spike']
    """
    style.axes(ax)
    checks.positive("dt", checks.number("dt", dt))
    v = style.array("v", v, 1)
    T = len(v)
    moving = np.ndim(threshold) > 0
    threshold = style.like("threshold", threshold, (T,) if moving else (), "a number or one a step")
    threshold = np.broadcast_to(threshold, T)
    t = np.arange(T) * dt
    ax.plot(t, v, color=style.COLOURS[0], linewidth=1.2, label="voltage v")
    ax.plot(t, threshold, color=style.COLOURS[1], linestyle="--", linewidth=1.2, label="threshold")
    low, high = ax.get_ylim()
    top = high
    if spikes is not None:
        at = np.nonzero(style.like("spikes", spikes, (T,), "one a step"))[0]
        top = high + 0.1 * (high - low)
        ax.plot(t[at], np.full(len(at), high + 0.04 * (high - low)), linestyle="", marker="v",
                color="black", markersize=4, label="spike")  # fmt: skip
    # room for the legend above all that is drawn
    ax.set(xlabel="time (ms)", ylabel="voltage", xlim=(-0.5 * dt, (T - 0.5) * dt),
           ylim=(low, top + 0.14 * (high - low)))  # fmt: skip
    ax.legend(fontsize="small", loc="upper center", ncols=3)
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
      TypeError: for what is no Axes, or no numbers.
      ValueError: if `e` has not two axes, or not one column a label.

    >>> from matplotlib.figure import Figure
    >>> from eprop_jax import plotting
    >>> ax = plotting.traces(Figure().subplots(), [[0.0], [1.0]], ["3 → 4"])
    >>> ax.get_ylabel()
    'eligibility trace e'
    """
    _lines(ax, "e", e, labels, dt, digits, "synapse (pre → post)", "a trace")
    ax.set_ylabel("eligibility trace e")
    return ax


def learning_signals(
    ax: Any, L: Any, labels: Sequence[str], *, dt: float = 1.0,
    digits: Sequence[tuple[float, str]] = (),
) -> Any:  # fmt: skip
    """Learning signals over time (Eq. 40): L_j^t = Σ_k B_jk ∂L/∂y_k^t, what e-prop tells unit j.

    Args:
      ax: a matplotlib Axes.
      L: [T, k], the signals of k units.
      labels: k names.
      dt: ms a step.
      digits: as in `raster`.

    Raises:
      TypeError: for what is no Axes, or no numbers.
      ValueError: if `L` has not two axes, or not one column a label.

    >>> from matplotlib.figure import Figure
    >>> from eprop_jax import plotting
    >>> ax = plotting.learning_signals(Figure().subplots(), [[0.0], [-0.2]], ["4"])
    >>> ax.get_ylabel()
    'learning signal L'
    """
    style.axes(ax).axhline(0.0, color="grey", linewidth=0.6, zorder=0)
    _lines(ax, "L", L, labels, dt, digits, "unit", "a signal")
    ax.set_ylabel("learning signal L")
    return ax


def targets(ax: Any, outputs: Any, targets: Any, *, dt: float = 1.0, mask: Any = None) -> Any:
    """What the read-out says, solid, and what it should say, dashed.

    Args:
      ax: a matplotlib Axes.
      outputs: [T, n_out].
      targets: [T, n_out].
      dt: ms a step.
      mask: [T]: a step's weight in the loss, or True where it is scored. Steps of weight zero are
        shaded.

    Raises:
      TypeError: for what is no Axes, or no numbers.
      ValueError: if `outputs` has not two axes, or the others do not fit it.

    >>> from matplotlib.figure import Figure
    >>> from eprop_jax import plotting
    >>> ax = plotting.targets(Figure().subplots(), [[0.1], [0.8]], [[0.0], [1.0]], mask=[0, 1])
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['output', 'target', 'not scored']
    """
    style.axes(ax)
    checks.positive("dt", checks.number("dt", dt))
    outputs = style.array("outputs", outputs, 2)
    T, n_out = outputs.shape
    targets = style.like("targets", targets, (T, n_out), "as outputs")
    t = np.arange(T) * dt
    for k in range(n_out):
        colour, name = style.COLOURS[k % 7], f" {k}" if n_out > 1 else ""
        ax.plot(t, outputs[:, k], color=colour, linewidth=1.4, label=f"output{name}")
        ax.plot(
            t, targets[:, k], color=colour, linewidth=1.2, linestyle="--", label=f"target{name}"
        )
    if mask is not None:
        unscored = style.like("mask", mask, (T,), "one a step") == 0
        edges = np.diff(unscored.astype(int), prepend=0, append=0)
        for i, (start, stop) in enumerate(
            zip(np.nonzero(edges == 1)[0], np.nonzero(edges == -1)[0])
        ):
            ax.axvspan((start - 0.5) * dt, (stop - 0.5) * dt, color="0.9", linewidth=0, zorder=0,
                       label=None if i else "not scored")  # fmt: skip
    low, high = ax.get_ylim()  # room for the legend above the lines
    rows = -(-(2 * n_out + (mask is not None)) // 4)
    ax.set(xlabel="time (ms)", ylabel="output y", xlim=(-0.5 * dt, (T - 0.5) * dt),
           ylim=(low, high + (0.06 + 0.1 * rows) * (high - low)))  # fmt: skip
    ax.legend(fontsize="small", loc="upper center", ncols=4)
    return ax


def _lines(
    ax: Any, name: str, values: Any, labels: Sequence[str], dt: float,
    digits: Sequence[tuple[float, str]], title: str, each: str,
) -> None:  # fmt: skip
    """One line a column, named below."""
    style.axes(ax)
    checks.positive("dt", checks.number("dt", dt))
    values = style.array(name, values, 2)
    if values.shape[1] != len(labels):
        raise ValueError(f"labels: got {len(labels)}, wanted {values.shape[1]}, one {each}")
    for k, label in enumerate(labels):
        ax.plot(np.arange(len(values)) * dt, values[:, k], label=label, **style.line(k))
    _parts(ax, digits, dt)
    ax.set(xlim=(-0.5 * dt, (len(values) - 0.5) * dt), xlabel="time (ms)")
    low, high = ax.get_ylim()  # room for the legend below the lines, and for names above
    ax.set_ylim(low - 0.25 * (high - low), high + 0.1 * (high - low))
    ax.legend(
        fontsize="small", title=title, title_fontsize="small",
        loc="lower center", ncols=max(1, len(labels)),
    )  # fmt: skip


def _parts(ax: Any, parts: Sequence[tuple[float, str]], dt: float) -> None:
    for start, label in parts:
        if start > 0:
            ax.axvline(start - 0.5 * dt, color="grey", linewidth=0.8)
        ax.annotate(label, (start, 1.0), xycoords=("data", "axes fraction"), xytext=(2, -2),
                    textcoords="offset points", va="top", fontsize="small",
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
