"""The network itself: drives, one step, a chunk of steps. Batches are one axis here, [K, B, ...]."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax import jacobians as jac
from eprop_jax.base import Array, Cell, Network, PyTree, State


class Trajectory(NamedTuple):
    """A chunk of K steps: what the gradient needs of it."""

    x: Array
    """[K, B, n_in]"""
    c_0: PyTree
    """[B, n] a component: the state before the chunk"""
    c: PyTree
    """[K, B, n] a component"""
    a: PyTree
    """drives, [K, B, n]"""
    h_0: Array
    """[B, n]"""
    h: Array
    """[K, B, n]"""
    y_0: Array
    """[B, n_out]"""
    y: Array
    """[K, B, n_out]"""
    a_out: Array
    """the read-out's drives, [K, B, n_out]"""


def run(net: Network, params: dict, state: State, xs: Array) -> Trajectory:
    """K steps from `state`.

    a^t = W_in x^t + W_rec h^{t-1} + b;  c^t = dynamics(c^{t-1}, a^t);  h^t = output(c^t);
    y^t = read-out(y^{t-1}, W_out h^t + b_out).

    Only the recurrent product has to wait for the step before; the other products are one each.
    """
    cell, readout = net.cell, jac.as_cell(net.readout)
    p_cell, p_out = params["cell"], params["readout"]
    h_0 = jac.output(cell, p_cell, state.c)
    recur = recurrent_drive(p_cell)

    def step(carry, a_in):
        c_tm1, h_tm1 = carry
        a_t = add_drives(a_in, recur(h_tm1))
        c_t = jac.dynamics(cell, p_cell, c_tm1, jac.of_gates(a_t))
        h_t = jac.output(cell, p_cell, c_t)
        return (c_t, h_t), (c_t, jac.of_gates(a_t), h_t)

    _, (c, a, h) = jax.lax.scan(step, (state.c, h_0), input_drive(cell, p_cell, xs))
    a_out = h @ p_out["w_out"]
    a_out = a_out + along(p_out["bias"], a_out) if "bias" in p_out else a_out

    def read(y_tm1, a_t):
        y_t = jac.dynamics(readout, p_out, y_tm1, a_t)
        return y_t, y_t

    _, y = jax.lax.scan(read, state.y, a_out)
    return Trajectory(xs, state.c, c, a, h_0, h, state.y, y, a_out)


def input_drive(cell: Cell, params: dict, xs: Array) -> dict[str, Array]:
    """The drive that does not wait for h^{t-1}: {gate: [..., n]}, zeros for a recurrent-only gate."""
    w_in, bias = (jac.as_gates(params.get(line, {})) for line in ("w_in", "bias"))
    names = sorted(w_in.keys() | bias.keys() | jac.as_gates(params.get("w_rec", {})).keys())
    products = split(xs @ jnp.concatenate(list(w_in.values()), 1), list(w_in)) if w_in else {}
    zero = jnp.zeros((*xs.shape[:-1], cell.n_units), xs.dtype)
    return {
        g: add(products.get(g, zero), along(bias[g], zero) if g in bias else None) for g in names
    }


def recurrent_drive(params: dict):
    """h^{t-1} -> {gate: [..., n]}: all gates in one product."""
    w_rec = jac.as_gates(params.get("w_rec", {}))
    if not w_rec:
        return lambda h_tm1: {}
    w = jnp.concatenate(list(w_rec.values()), 1)
    return lambda h_tm1: split(h_tm1 @ w, list(w_rec))


def split(a: Array, names: list[str]) -> dict[str, Array]:
    return dict(zip(names, jnp.split(a, len(names), axis=-1)))


def add_drives(a: dict, b: dict) -> dict:
    return {g: a[g] + b[g] if g in b else a[g] for g in a}


def add(a: Array, b: Array | None) -> Array:
    return a if b is None else a + b


def along(vector: Array, like: Array) -> Array:
    """[n] -> [..., n]."""
    return jnp.broadcast_to(vector, like.shape)
