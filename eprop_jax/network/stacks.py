"""A stack of layers over a chunk of steps: layer by layer, and each layer step by step.

    a_l^t = Σ_{k heard by l} W_in[k] h_k^t + W_rec h_l^{t-1} + b        (h_"x" = x)
    c_l^t = dynamics(c_l^{t-1}, a_l^t);  h_l^t = output(c_l^t)
    y^t = read-out(y^{t-1}, Σ_{l read} W_out[l] h_l^t + b_out)

What a layer hears within the step is known for all steps before its own scan begins: one product for
all K·B rows of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax.network import forward, unitwise
from eprop_jax.network.types import Array, Cell, Network, PyTree, State, by_layer


class Path(NamedTuple):
    """A layer's own trajectory over the chunk."""

    c_tm1: PyTree
    """[K, B, n] a component"""
    c_K: PyTree
    a: PyTree
    resets: Array | None = None
    """[K, B]: examples that start afresh before a step"""
    c_t: PyTree = None
    """where there are resets, c^t, which then is not what the next step finds"""

    @property
    def c(self) -> PyTree:
        """c^t, [K, B, n] a component"""
        return jax.tree.map(forward.after, self.c_tm1, self.c_K) if self.c_t is None else self.c_t


class Ran(NamedTuple):
    """One layer over the chunk."""

    path: Path
    h_tm1: Array
    """[K, B, n]"""
    h: Array
    """[K, B, n]"""
    lines: dict[str, Array]
    """what w_in and w_rec hear"""
    past: PyTree
    """what is on its way after the chunk"""


class Run(NamedTuple):
    """The whole network over the chunk."""

    xs: Array
    ran: tuple[Ran, ...]
    path_out: Path
    y: Array
    """[K, B, n_out]"""
    h: PyTree
    """h^t, [K, B, n]; a tuple where the network is a stack"""
    c_K: PyTree
    """c^K, [B, n] a component, likewise"""
    past: PyTree
    """what is on its way after the chunk, likewise"""
    resets: Array | None

    def heard(self, names: Sequence) -> Array:
        """What these names stand for, joined in this order: [K, B, Σ m]."""
        return joined([self.xs if k == "x" else self.ran[k].h for k in names])

    def sizes(self, names: Sequence) -> list[int]:
        """The m of each."""
        return [(self.xs if k == "x" else self.ran[k].h).shape[-1] for k in names]


def run(net: Network, params: dict, state: State, xs: Array, resets: Array | None = None) -> Run:
    """K steps from `state`: xs [K, B, n_in], in the compute dtype; before some steps, some examples
    start afresh: resets [K, B]."""
    ran: list[Ran] = []
    cells = by_layer(net, params["cell"])
    none: tuple = ((),) * len(cells)
    pasts = none if isinstance(state.past, tuple) and not state.past else by_layer(net, state.past)
    for cell, p, names, c_0, past in zip(
        net.cells, cells, net.inputs, by_layer(net, state.c), pasts
    ):
        heard = joined([xs if k == "x" else ran[k].h for k in names])
        heard = forward.heard_in(cell, past, heard, resets)
        within = forward.driven(cell, p, forward.drive(cell, p, "w_in")(heard), heard)
        one = run_layer(cell, p, c_0, within, resets, past)
        after = forward.after_chunk(cell, past, heard, one.past)
        ran.append(one._replace(lines={**one.lines, "w_in": heard}, past=after))
    p_out, read = params["readout"], joined([ran[l].h for l in net.reads])
    a_out = forward.drive(net.readout, p_out, "w_out")(read)[unitwise.ONE_DRIVE]
    a_out = a_out + forward.along(p_out["bias"], a_out) if "bias" in p_out else a_out

    y, y_tm1 = forward.read(net, p_out, state.y, a_out, resets)
    path_out = Path(y_tm1, y[-1], a_out, resets, None if resets is None else y)
    as_given = lambda found: tuple(found) if net.stacked else found[0]
    h, c_K = as_given([r.h for r in ran]), as_given([r.path.c_K for r in ran])
    past = state.past if pasts is none else as_given([r.past for r in ran])
    return Run(xs, tuple(ran), path_out, y, h, c_K, past, resets)


def run_layer(
    cell: Cell,
    p: dict,
    c_0: PyTree,
    drive: dict[str, Array],
    resets: Array | None,
    past: PyTree,
) -> Ran:
    """`drive` {gate: [K, B, n]}: all that does not wait for h^{t-1}."""
    recur, of_rec = forward.drive(cell, p, "w_rec"), cell.synapses["w_rec"]
    batch = jax.tree.leaves(c_0)[0].shape[0]
    fresh = None if resets is None else forward.initial(cell, p, batch)

    def step(carry, at):
        (*own, past), (drive_t, resets_t) = carry, at
        c_tm1, h_tm1 = forward.afresh(resets_t, fresh, tuple(own))
        heard, past = forward.heard_rec(of_rec, past, h_tm1, resets_t)
        far = None if heard is h_tm1 else heard
        a_t = forward.both(drive_t, recur(heard))
        c_t = unitwise.dynamics(cell, p, c_tm1, a_t)
        h_t = unitwise.output(cell, p, c_t)
        ends = None if resets is None else (c_t, h_t)
        return (c_t, h_t, past), (c_tm1, a_t, h_tm1, far, ends, ())

    start = (c_0, unitwise.output(cell, p, c_0), forward.past_of(past, "w_rec"))
    ran = forward.over_time(
        cell, p, step, start, (drive, resets), lambda: drive, fresh, lambda h: ()
    )
    (c_K, h_K, past), (c_tm1, a, h_tm1, far, ends, _) = ran
    c_t, h = (None, forward.after(h_tm1, h_K)) if ends is None else ends
    lines = {"w_rec": h_tm1 if far is None else far}
    return Ran(Path(c_tm1, c_K, a, resets, c_t), h_tm1, h, lines, past)


def joined(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, -1)
