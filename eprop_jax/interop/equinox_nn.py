"""Weights of equinox: `equinox.nn.GRUCell`, `LSTMCell`, and `Linear` as a read-out.

    GRUCell:  weight_ih, weight_hh [3 n, ·] and bias [3 n] hold r, z, n in this order; bias_n [n] stands
              inside the reset product, n = tanh(a_n + r (U h + b_n)); h' = n + z (h − n).
    LSTMCell: weight_ih, weight_hh [4 n, ·] and bias [4 n] hold i, f, g, o; the carry is (h, c).

A module is one example; its sequences are [T, n_in], and `jax.vmap` adds a batch. Ours are
[T, *batch, n_in].
"""

from __future__ import annotations

from typing import Any

from eprop_jax.interop import carries, weights
from eprop_jax.interop.weights import Place, side_by_side
from eprop_jax.network.types import Cell, PyTree

__all__ = ["give_back", "load", "to_carry", "to_state"]


def _kinds() -> dict[type, weights.Kind]:
    import equinox as eqx

    gru = {
        **side_by_side("w_in", ("r", "z", "n"), ("weight_ih",), 0),
        **side_by_side("w_rec", ("r", "z", "hn"), ("weight_hh",), 0),
        **side_by_side("bias", ("r", "z", "n"), ("bias",)),
        ("bias", "hn"): Place(("bias_n",)),
    }
    lstm = {
        **side_by_side("w_in", ("i", "f", "g", "o"), ("weight_ih",), 0),
        **side_by_side("w_rec", ("i", "f", "g", "o"), ("weight_hh",), 0),
        **side_by_side("bias", ("i", "f", "g", "o"), ("bias",)),
    }
    linear = {("w_out",): Place(("weight",), axis=0), ("bias",): Place(("bias",))}
    return {
        eqx.nn.GRUCell: weights.Kind(weights.GRU, gru),
        eqx.nn.LSTMCell: weights.Kind(weights.LSTM, lstm),
        eqx.nn.Linear: weights.Kind(weights.LINEAR, linear),
    }


def _seen(name: str, module: Any) -> tuple[weights.Kind, dict, Any, weights.Places]:
    kind = weights.kind_of(name, module, _kinds(), "equinox.nn")
    at = {p.at for p in kind.places.values()}
    arrays = {a: x for a in at if (x := getattr(module, a[0])) is not None}
    n_in = getattr(module, "input_size", None) or module.in_features
    n = getattr(module, "hidden_size", None) or module.out_features
    part, places = weights.of_module(module, kind, arrays, lambda a: f"{name}.{a[0]}", n_in, n)
    return kind, arrays, part, places


def load(module: Any) -> tuple[Any, dict]:
    """A module of equinox, here: the same function of the same weights, under every rule.

    Args:
      module: an `equinox.nn.GRUCell` or `LSTMCell`, with biases or without, or a `Linear`.

    Returns:
      (cell, its params), for `ej.Network` and params["cell"]; of a Linear (read-out, its params). The
      arrays are copies.

    Raises:
      ImportError: if equinox is not installed.
      TypeError, ValueError: for another module, weights of several dtypes or without the shapes of
        one module (under `jax.vmap`, load inside it).

    >>> import equinox as eqx, jax, eprop_jax as ej
    >>> from eprop_jax.interop import equinox_nn
    >>> cell, params = equinox_nn.load(eqx.nn.GRUCell(3, 5, key=jax.random.key(0)))
    >>> cell, params["w_in"]["r"].shape
    (gru 3 -> 5, (3, 5))
    """
    _, arrays, part, places = _seen("module", module)
    return part, weights.ours(places, arrays)


def give_back(cell: Any, params: dict, like: Any) -> Any:
    """Weights of ours as a module of equinox: `load`, the other way round. What `load` gave comes
    back bit for bit.

    Args:
      cell: the cell or read-out that the parameters are of. An LSTM's forget_bias goes into the bias.
      params: its own, params["cell"] or params["readout"]; or, where forget_bias is 0, a gradient.
      like: a module of the kind and sizes wanted, such as the one that was loaded; it stays as it is.

    Returns:
      A module like `like`, with these weights.

    Raises:
      ImportError: if equinox is not installed.
      TypeError, ValueError: for a module that is not what `cell` is, and for what has no place in it
        (a trained initial state, synapses other than dense, biases that it has not).

    >>> import equinox as eqx, jax, eprop_jax as ej
    >>> from eprop_jax.interop import equinox_nn
    >>> module = eqx.nn.GRUCell(3, 5, key=jax.random.key(0))
    >>> cell, params = equinox_nn.load(module)
    >>> bool((equinox_nn.give_back(cell, params, like=module).bias_n == module.bias_n).all())
    True
    """
    kind, arrays, part, places = _seen("like", like)
    dtype = next(iter(arrays.values())).dtype
    found = weights.theirs(places, weights.given(cell, params, kind, part, like, dtype))

    import equinox as eqx

    where = lambda module: [getattr(module, at[0]) for at in found]
    return eqx.tree_at(where, like, list(found.values()))


def to_state(cell: Cell, carry: Any) -> PyTree:
    """A carry of equinox as the state c of ours, to start from (`ej.State`).

    Args:
      cell: from `load`.
      carry: h [*batch, n] of a GRU, (h, c) of an LSTM.

    Returns:
      c, as in `carry.state.c` of a rule and `net.apply(params, xs).state.c`.

    Raises:
      TypeError, ValueError: for what is not the carry of such a cell; for an LSTM's where c is 0 and h
        is not, which h = o tanh(c) never is.

    >>> import equinox as eqx, jax, jax.numpy as jnp, eprop_jax as ej
    >>> from eprop_jax.interop import equinox_nn
    >>> cell, _ = equinox_nn.load(eqx.nn.LSTMCell(3, 2, key=jax.random.key(0)))
    >>> equinox_nn.to_state(cell, (jnp.zeros(2), jnp.ones(2))).s  # (h, c)
    Array([1., 1.], dtype=float32)
    """
    return carries.to_state(cell, carry, ("h", "c"))


def to_carry(cell: Cell, state: PyTree) -> Any:
    """The state c of ours as a carry of equinox.

    Args:
      cell: from `load`.
      state: c, as in `net.apply(params, xs).state.c`.

    Returns:
      h [*batch, n] of a GRU, (h, c) of an LSTM.

    Raises:
      TypeError, ValueError: for what is not the state of such a cell.

    >>> import equinox as eqx, jax, jax.numpy as jnp, eprop_jax as ej
    >>> from eprop_jax.interop import equinox_nn
    >>> cell, _ = equinox_nn.load(eqx.nn.LSTMCell(3, 2, key=jax.random.key(0)))
    >>> h, c = equinox_nn.to_carry(cell, ej.cells.LSTMState(s=jnp.ones(2), o=jnp.zeros(2)))
    >>> h, c
    (Array([0., 0.], dtype=float32), Array([1., 1.], dtype=float32))
    """
    return carries.to_carry(cell, state, ("h", "c"))
