"""A stack of layers over a chunk of steps: layer by layer, and each layer step by step.

    a_l^t = Σ_{k heard by l} W_in[k] h_k^t + W_rec h_l^{t-1} + b        (h_"x" = x)
    c_l^t = dynamics(c_l^{t-1}, a_l^t);  h_l^t = output(c_l^t)
    y^t = read-out(y^{t-1}, Σ_{l read} W_out[l] h_l^t + b_out)

What a layer hears within the step is known for all steps before its own scan begins: one product for
all K·B rows of it. W_in and W_out are cut by what they hear, so that nothing is ever joined.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

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

    def heard(self, names: Sequence) -> list[Array]:
        """What these names stand for, [K, B, m] each."""
        return [self.xs if k == "x" else self.ran[k].h for k in names]


def run(net: Network, params: dict, state: State, xs: Array, resets: Array | None = None) -> Run:
    """K steps from `state`: xs [K, B, n_in], in the compute dtype; before some steps, some examples
    start afresh: resets [K, B]."""
    ran: list[Ran] = []
    cells = by_layer(net, params["cell"])
    for cell, p, names, c_0 in zip(net.cells, cells, net.inputs, by_layer(net, state.c)):
        heard = [xs if k == "x" else ran[k].h for k in names]
        ran.append(run_layer(cell, p, c_0, drives(cell, p, heard), resets))
    p_out = params["readout"]
    read = [ran[l].h for l in net.reads]
    first, *others = (h @ w for h, w in zip(read, rows(p_out["w_out"], read)))
    a_out = functools.reduce(jnp.add, others, first)
    a_out = a_out + forward.along(p_out["bias"], a_out) if "bias" in p_out else a_out

    y, y_tm1 = forward.read(net, p_out, state.y, a_out, resets)
    path_out = Path(y_tm1, y[-1], a_out, resets, None if resets is None else y)
    as_given = lambda found: tuple(found) if net.stacked else found[0]
    h, c_K = as_given([r.h for r in ran]), as_given([r.path.c_K for r in ran])
    return Run(xs, tuple(ran), path_out, y, h, c_K)


def run_layer(
    cell: Cell, p: dict, c_0: PyTree, drive: dict[str, Array], resets: Array | None
) -> Ran:
    """`drive` {gate: [K, B, n]}: all that does not wait for h^{t-1}."""
    recur = forward.recurrent_drive(p)

    batch = jax.tree.leaves(c_0)[0].shape[0]
    fresh = None if resets is None else forward.initial(cell, p, batch)

    def step(carry, at):
        drive_t, resets_t = at
        c_tm1, h_tm1 = forward.afresh(resets_t, fresh, carry)
        a_t = unitwise.of_gates(forward.add_drives(drive_t, recur(h_tm1)))
        c_t = unitwise.dynamics(cell, p, c_tm1, a_t)
        h_t = unitwise.output(cell, p, c_t)
        ends = None if resets is None else (c_t, h_t)
        return (c_t, h_t), (c_tm1, a_t, h_tm1, ends)

    start = (c_0, unitwise.output(cell, p, c_0))
    (c_K, h_K), (c_tm1, a, h_tm1, ends) = jax.lax.scan(step, start, (drive, resets))
    c_t, h = (None, forward.after(h_tm1, h_K)) if ends is None else ends
    return Ran(Path(c_tm1, c_K, a, resets, c_t), h_tm1, h)


def drives(cell: Cell, p: dict, heard: list[Array]) -> dict[str, Array]:
    """{gate: [K, B, n]}: all gates in one product for each thing that is heard."""
    bias, w_in = (unitwise.as_gates(p.get(line, {})) for line in ("bias", "w_in"))
    a: dict[str, Any] = dict.fromkeys(unitwise.gate_names(p))
    zero = jnp.zeros((*heard[0].shape[:-1], cell.n_units), heard[0].dtype)
    if w_in:
        for x, w in zip(heard, rows(jnp.concatenate(list(w_in.values()), 1), heard)):
            a |= {
                g: forward.add(part, a[g]) for g, part in forward.split(x @ w, list(w_in)).items()
            }
    a = {g: zero if x is None else x for g, x in a.items()}
    return {g: x + forward.along(bias[g], x) if g in bias else x for g, x in a.items()}


def rows(w: Array, heard: Sequence[Array]) -> list[Array]:
    """The rows of weights [Σ m, …] by what they hear, arrays [..., m]: [m, …] each."""
    stops, total = [], 0
    for x in heard[:-1]:
        total += x.shape[-1]
        stops.append(total)
    return jnp.split(w, stops)
