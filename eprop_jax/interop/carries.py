"""What a cell carries, here and there: h of a GRU and a simple cell, c and h of an LSTM.

Ours carry a state c^t of which h^t is a function: of a GRU c = h; of a simple cell h = φ(c), so
c = φ⁻¹(h); of an LSTM c = (s, o) and h = o tanh(s), so s is their c and o = h / tanh(c).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax import checks
from eprop_jax.interop import weights
from eprop_jax.network.cells.gated import LSTMState
from eprop_jax.network.types import Array, Cell, PyTree


def arctanh(h: Array) -> Array:
    """Of a saturated unit, ±1 in these digits, the largest that is finite."""
    most = 1 - jnp.finfo(h.dtype).epsneg
    return jnp.arctanh(jnp.clip(h, -most, most))


INVERSE = {jnp.tanh: arctanh, jax.nn.relu: lambda h: h, jax.nn.identity: lambda h: h}
"""(Of relu any number up to 0 would do where h is 0: nothing but h is heard of the state before.)"""


def to_state(cell: Cell, carry: Any, order: tuple[str, str]) -> PyTree:
    """`order`: of what an LSTM carries."""
    _known(cell)
    if weights.is_lstm(cell):
        if type(carry) not in (tuple, list) or len(carry) != 2:
            raise TypeError(
                f"carry: got {checks.describe(carry)}, wanted ({', '.join(order)}) of an LSTM"
            )
        of = {k: _numbers(f"carry: {k}", x, cell.n_units) for k, x in zip(order, carry)}
        c, h = of["c"], of["h"]
        if c.shape != h.shape:
            raise ValueError(
                f"carry: got shapes {list(c.shape)} of c and {list(h.shape)} of h, wanted the same"
            )
        known = not checks.is_traced((c, h))
        if known and np.any((np.asarray(c) == 0) & (np.asarray(h) != 0)):
            raise ValueError("carry: got c = 0 where h is not, wanted h = o tanh(c) of some gate o")
        nothing = c == 0
        return LSTMState(s=c, o=jnp.where(nothing, 0, h / jnp.where(nothing, 1, jnp.tanh(c))))
    h = _numbers("carry", carry, cell.n_units)
    return INVERSE[weights.activation(cell)](h) if weights.is_rnn(cell) else h


def to_carry(cell: Cell, state: PyTree, order: tuple[str, str]) -> Any:
    _known(cell)
    n = cell.n_units
    if weights.is_lstm(cell):
        checks.instance("state", state, LSTMState, "the LSTMState of an ej.cells.lstm")
        s, o = _numbers("state.s", state.s, n), _numbers("state.o", state.o, n)
        of = {"c": s, "h": o * jnp.tanh(s)}
        return tuple(of[k] for k in order)
    c = _numbers("state", state, n)
    return weights.activation(cell)(c) if weights.is_rnn(cell) else c


def _known(cell: Any) -> None:
    simple = weights.is_rnn(cell) and any(weights.activation(cell) is f for f in INVERSE)
    if not (weights.is_gru(cell) or weights.is_lstm(cell) or simple):
        got = cell if isinstance(cell, Cell) else type(cell).__name__
        raise TypeError(f"cell: got {got}, wanted a cell that `load` gave")


def _numbers(name: str, x: Any, n: int) -> Array:
    checks.array(name, x, form=f"[*batch, {n}]")
    if tuple(x.shape[-1:]) != (n,):
        raise ValueError(f"{name}: got shape {list(x.shape)}, wanted [*batch, {n}]")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{name}: got dtype {x.dtype}, wanted a floating dtype")
    return x
