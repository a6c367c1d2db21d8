"""Maps without time as synapses: sums of what is heard, and then weights.

Units stand in NIR's order, (channels, *places) flattened. What a map without weights does (Flatten,
SumPool2d, AvgPool2d, Delay, the zeros around a convolution) is a table of which units are added, and
how many steps late; a chain of such maps is one table.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from eprop_jax.interop.nir.graph import CONV, DENSE, Graph, conv_sides, each, refuse
from eprop_jax.network import synapses
from eprop_jax.network.synapses import Kind, Synapses, use

NOTHING = -1


class Sums(NamedTuple):
    """What is heard, before weights: each row adds some units of what stands before it."""

    unit: np.ndarray
    """[rows, m], or NOTHING"""
    late: np.ndarray
    """[rows, m], in steps"""
    factor: float = 1.0


def plain(n: int, at: int = 0) -> Sums:
    """n units, from unit number `at` on, as they are."""
    return Sums(at + np.arange(n)[:, None], np.zeros((n, 1), int))


def then(first: Sums, unit: np.ndarray, late: Any = 0, factor: float = 1.0) -> Sums:
    """The rows of `first`, added as `unit` [rows, m] says, `late` steps later."""
    reach = np.vstack([first.unit, np.full_like(first.unit[:1], NOTHING)])[unit]
    steps = np.vstack([first.late, np.zeros_like(first.late[:1])])[unit]
    steps = steps + np.broadcast_to(late, unit.shape)[..., None]
    flat = (len(unit), -1)
    return Sums(reach.reshape(flat), steps.reshape(flat), first.factor * factor)


def below(parts: list[Sums]) -> Sums:
    """The rows of all, one below the other."""
    m = max(part.unit.shape[1] for part in parts)
    wide = lambda x, fill: np.pad(x, [(0, 0), (0, m - x.shape[1])], constant_values=fill)
    units = np.vstack([wide(x.unit, NOTHING) for x in parts])
    return Sums(units, np.vstack([wide(x.late, 0) for x in parts]), parts[0].factor)


def added(parts: list[Sums]) -> Sums:
    """The rows of all, added."""
    units, late = np.hstack([x.unit for x in parts]), np.hstack([x.late for x in parts])
    return Sums(units, late, parts[0].factor)


def weightless(graph: Graph, name: str, heard: Sums, dt: float) -> Sums:
    """What a node without weights makes of what it hears."""
    node, kind = graph.nodes[name], graph.kind(name)
    if kind == "Delay":
        late = delay_steps(name, node, graph.size(name), dt)
        return then(heard, np.arange(len(heard.unit))[:, None], late[:, None])
    if kind in ("SumPool2d", "AvgPool2d"):
        size, stride, pad = (
            each(getattr(node, k), 2) for k in ("kernel_size", "stride", "padding")
        )
        factor = 1 / math.prod(size) if kind == "AvgPool2d" else 1.0
        grid = _padded(graph.heard(name), [(p, p) for p in pad])
        windows = np.lib.stride_tricks.sliding_window_view(grid, size, (1, 2))
        windows = windows[:, :: stride[0], :: stride[1]]
        return then(heard, windows.reshape(-1, math.prod(size)), factor=factor)
    return heard  # Flatten: the units stand as they did


def is_plain(graph: Graph, name: str) -> bool:
    """Does it leave all as it is?"""
    return graph.kind(name) == "Flatten"


def delay_steps(name: str, node: Any, n: int, dt: float) -> np.ndarray:
    """[n]: a Delay as steps of dt."""
    delay = np.broadcast_to(np.asarray(node.delay, float), (n,) if np.size(node.delay) == 1 else
                            np.shape(node.delay)).ravel()  # fmt: skip
    steps = np.round(delay / dt)
    if not np.all(np.isfinite(delay) & (delay >= 0)):
        raise refuse(name, f"a delay of {delay} s", "times from 0 on")
    if np.any(np.abs(delay / dt - steps) > 1e-5 * np.maximum(steps, 1)):
        raise refuse(name, f"a delay of {delay} s", f"whole steps of dt={dt} s")
    return steps.astype(int)


def _padded(shape: tuple[int, ...], sides: list[tuple[int, int]]) -> np.ndarray:
    """The number of each unit on its grid (channels, *places), with NOTHING around."""
    units = np.arange(math.prod(shape)).reshape(shape)
    return np.pad(units, [(0, 0), *sides], constant_values=NOTHING)


# -- kinds of synapses -----------------------------------------------------------------------------


def hearing(kind: Kind, sums: Sums, order: np.ndarray | None = None) -> Kind:
    """`kind`, which hears these sums; the units that it drives stand in this order."""

    def kind_of(n_pre: int, n_post: int) -> Synapses:
        rows, delay = len(sums.unit), int(sums.late.max(initial=0))
        s = kind(rows, n_post)
        alone = (
            order is None and delay == 0 and sums.factor == 1 and np.array_equal(
                sums.unit, np.arange(n_pre)[:, None]
            )
        )  # fmt: skip
        if alone:
            return s
        nothing = (1 + delay) * n_pre
        at = np.where(sums.unit == NOTHING, nothing, sums.unit + sums.late * n_pre)
        to = np.arange(n_post) if order is None else order
        back_again = np.argsort(to)

        def heard(pre):
            filled = jnp.concatenate([pre, jnp.zeros_like(pre[..., :1])], -1)
            found = filled.at[..., jnp.asarray(at)].get(mode="promise_in_bounds").sum(-1)
            return found if sums.factor == 1 else found * jnp.asarray(sums.factor, found.dtype)

        def drive(w, pre):
            return s.drive(w, heard(pre))[..., to]

        def view(pre):
            seen = s.view(heard(pre))
            return seen if seen.shape[-1] == 1 else seen[..., to]

        found = s._replace(
            n_pre=n_pre, drive=drive, view=view, tie=lambda x: s.tie(x[..., back_again]),
            back=None, collect=lambda pre, da: use.collected(s)(heard(pre), da[..., back_again]),
            own=None, part=None, delay=delay, matrix=False, name=f"{s.name}, of sums",
        )  # fmt: skip

        def own(w):
            matrix = use.matrix(found, w).reshape(1 + delay, n_pre, n_post)
            return jnp.diagonal(matrix.sum(0))

        return found._replace(own=own)

    return kind_of


def as_is(n_pre: int, n_post: int) -> Synapses:
    """An edge without a map: each unit drives its own, and there is no weight, w [0]. Its one line, of
    zeros, is there for traces, which have at least one."""
    return Synapses(
        n_pre,
        n_post,
        init=lambda key, gain: jnp.zeros(0),
        drive=lambda w, pre: pre,
        view=lambda pre: jnp.zeros((*pre.shape[:-1], 1, 1), pre.dtype),
        tie=lambda x: jnp.zeros(0, x.dtype),
        back=lambda w, da: da,
        collect=lambda pre, da: jnp.zeros(0, da.dtype),
        own=lambda w: jnp.ones(n_post, w.dtype),
        name="as is",
    )


def scaled(n_pre: int, n_post: int) -> Synapses:
    """Each unit drives its own, by a weight: w [n]."""
    return Synapses(
        n_pre,
        n_post,
        init=lambda key, gain: jnp.ones(n_post),
        drive=lambda w, pre: pre * jnp.broadcast_to(w, pre.shape),
        view=lambda pre: pre[..., None, :],
        tie=lambda x: x[0],
        back=lambda w, da: da * jnp.broadcast_to(w, da.shape),
        collect=lambda pre, da: (pre * da).sum(0),
        own=lambda w: w,
        name="scaled",
    )


def kind_of(graph: Graph, name: str | None, heard: Sums) -> Kind:
    """The synapses of a node with weights, or of an edge without a map."""
    what = None if name is None else graph.kind(name)
    if name is None or what is None:
        return hearing(as_is, heard)
    if what == "Scale":
        return hearing(scaled, heard)
    if what in DENSE:
        return hearing(synapses.dense(), heard)
    node, (channels, *places) = graph.nodes[name], graph.shape[name]
    sides = conv_sides(name, node)
    around = [x + sum(side) for x, side in zip(graph.heard(name)[1:], sides)]
    _, n_heard, *kernel = np.shape(node.weight)
    conv = synapses.conv(
        (*around, n_heard), channels, kernel, stride=each(node.stride, len(kernel)), padding="VALID"
    )
    # It hears and drives (*places, channels), NIR's units stand as (channels, *places).
    grid = _padded(graph.heard(name), sides)
    sums = then(heard, np.moveaxis(grid, 0, -1).reshape(-1, 1))
    order = np.arange(graph.size(name)).reshape(*places, channels)
    return hearing(conv, sums, np.moveaxis(order, -1, 0).ravel())


def to_here(kind: str, weight: np.ndarray) -> np.ndarray:
    """A node's weights as the synapses hold them."""
    if kind in DENSE:
        return weight.T
    if kind in CONV:
        return np.moveaxis(weight, (0, 1), (-1, -2))
    return weight


def to_nir(kind: str, w: np.ndarray) -> np.ndarray:
    """And back."""
    if kind in DENSE:
        return w.T
    if kind in CONV:
        return np.moveaxis(w, (-1, -2), (0, 1))
    return w
