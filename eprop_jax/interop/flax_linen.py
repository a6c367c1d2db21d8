"""Weights of flax.linen: `GRUCell`, `LSTMCell`, `OptimizedLSTMCell`, `SimpleCell`, and `Dense` as a
read-out.

    GRUCell:    kernels ir, iz, in (with biases) and hr, hz, hn; hn alone of the three has a bias, which
                stands inside the reset product, n = tanh(a_n + r (U h + b_hn)); h' = (1−z) n + z h.
    LSTMCell:   kernels ii, if, ig, io, and hi, hf, hg, ho with the biases; the carry is (c, h).
                OptimizedLSTMCell has the same parameters.
    SimpleCell: kernels i (with the bias) and h; h' = φ(W x + b + U h).

A module has no weights of its own, so they come beside it. `flax.linen.RNN` takes [*batch, T, n_in]
unless time_major=True; ours are [T, *batch, n_in].
"""

from __future__ import annotations

from typing import Any

from eprop_jax import checks
from eprop_jax.interop import carries, weights
from eprop_jax.interop.weights import PHI, SIGMOID, TANH, Place
from eprop_jax.network.types import Cell, PyTree

__all__ = ["give_back", "load", "to_carry", "to_state"]


def _kinds() -> dict[type, weights.Kind]:
    from flax import linen as nn

    gru = {
        **{("w_in", g): Place((f"i{g}", "kernel")) for g in ("r", "z", "n")},
        **{("w_rec", g): Place((f"h{g[-1]}", "kernel")) for g in ("r", "z", "hn")},
        **{("bias", g): Place((f"i{g}", "bias")) for g in ("r", "z", "n")},
        ("bias", "hn"): Place(("hn", "bias")),
    }
    lstm = {
        **{("w_in", g): Place((f"i{g}", "kernel")) for g in "ifgo"},
        **{("w_rec", g): Place((f"h{g}", "kernel")) for g in "ifgo"},
        **{("bias", g): Place((f"h{g}", "bias")) for g in "ifgo"},
    }
    simple = {
        ("w_in",): Place(("i", "kernel")),
        ("w_rec",): Place(("h", "kernel")),
        ("bias",): Place(("i", "bias")),
    }
    linear = {("w_out",): Place(("kernel",)), ("bias",): Place(("bias",))}
    begins = {"carry_init": (nn.initializers.zeros_init(),)}
    gated = {"gate_fn": SIGMOID, "activation_fn": TANH, **begins}
    return {
        nn.GRUCell: weights.Kind(weights.GRU, gru, gated),
        nn.LSTMCell: weights.Kind(weights.LSTM, lstm, gated),
        nn.OptimizedLSTMCell: weights.Kind(weights.LSTM, lstm, gated),
        nn.SimpleCell: weights.Kind(
            weights.SIMPLE, simple, {"activation_fn": PHI, "residual": (False,), **begins}
        ),
        nn.Dense: weights.Kind(weights.LINEAR, linear),
    }


def _label(at: weights.At) -> str:
    return "params" + "".join(f"[{k!r}]" for k in at)


def load(module: Any, params: Any) -> tuple[Any, dict]:
    """A module of flax.linen and its weights, here: the same function, under every rule.

    Args:
      module: a `flax.linen.GRUCell`, `LSTMCell`, `OptimizedLSTMCell` or `SimpleCell` (of an `nn.RNN`
        its `cell`), or a `Dense`.
      params: its own parameters, such as variables["params"], or their part of a larger model's.

    Returns:
      (cell, its params), for `ej.Network` and params["cell"]; of a Dense (read-out, its params). The
      arrays are copies.

    Raises:
      ImportError: if flax is not installed.
      TypeError, ValueError: for another module, gates and activations other than σ and tanh (of a
        SimpleCell tanh, relu or the identity), a residual one, a carry that does not start at 0
        (`to_state`), parameters that are not this module's, or of several dtypes.

    >>> import jax, jax.numpy as jnp, eprop_jax as ej
    >>> from flax import linen as nn
    >>> from eprop_jax.interop import flax_linen
    >>> module = nn.GRUCell(5)
    >>> variables = module.init(jax.random.key(0), jnp.zeros(5), jnp.zeros(3))
    >>> cell, params = flax_linen.load(module, variables["params"])
    >>> cell, sorted(params["bias"])
    (gru 3 -> 5, ['hn', 'n', 'r', 'z'])
    """
    kind = weights.kind_of("module", module, _kinds(), "flax.linen")
    arrays = weights.leaves(checks.mapping("params", params))
    if any(at[0] == "params" for at in arrays):
        raise ValueError(
            "params: got a dict with the key 'params', wanted the module's own: variables['params']"
        )
    first = next(p.at for key, p in kind.places.items() if key[0] in ("w_in", "w_out"))
    if first not in arrays:
        raise ValueError(f"{_label(first)}: missing, wanted the kernel [n_in, {module.features}]")
    kernel = checks.array(_label(first), arrays[first], 2, f"[n_in, {module.features}]")
    n_in = kernel.shape[0]
    part, places = weights.of_module(module, kind, arrays, _label, n_in, module.features)
    return part, weights.ours(places, arrays)


def give_back(cell: Any, params: dict, like: Any) -> dict:
    """Weights of ours as parameters of flax.linen: `load`, the other way round. What `load` gave comes
    back bit for bit.

    Args:
      cell: the cell or read-out that the parameters are of. An LSTM's forget_bias goes into the bias.
      params: its own, params["cell"] or params["readout"]; or, where forget_bias is 0, a gradient.
      like: the module that they are for, such as the one that was loaded.

    Returns:
      Its parameters, as in variables["params"].

    Raises:
      ImportError: if flax is not installed.
      TypeError, ValueError: for a module that is not what `cell` is, and for what has no place in it
        (a trained initial state, synapses other than dense, biases that it has not).

    >>> import jax, eprop_jax as ej
    >>> from flax import linen as nn
    >>> from eprop_jax.interop import flax_linen
    >>> cell = ej.cells.rnn(3, 5)
    >>> theirs = flax_linen.give_back(cell, cell.init(jax.random.key(0)), like=nn.SimpleCell(5))
    >>> sorted(theirs), theirs["h"]["kernel"].shape
    (['h', 'i'], (5, 5))
    """
    kind = weights.kind_of("like", like, _kinds(), "flax.linen")
    places = kind.places_in(like)
    n_in = getattr(cell, "n_in", None) or getattr(cell, "n_units", 1)
    wanted = kind.ours.make(like, n_in, like.features, weights.biases(places))
    params = weights.given(cell, params, kind, wanted, like, like.dtype)
    return weights.nested(weights.theirs(places, params))


def to_state(cell: Cell, carry: Any) -> PyTree:
    """A carry of flax as the state c of ours, to start from (`ej.State`).

    Args:
      cell: from `load`.
      carry: h [*batch, n] of a GRU and a simple cell, (c, h) of an LSTM.

    Returns:
      c, as in `carry.state.c` of a rule and `net.apply(params, xs).state.c`.

    Raises:
      TypeError, ValueError: for what is not the carry of such a cell; for an LSTM's where c is 0 and h
        is not, which h = o tanh(c) never is.

    >>> import jax.numpy as jnp, eprop_jax as ej
    >>> from eprop_jax.interop import flax_linen
    >>> flax_linen.to_state(ej.cells.lstm(3, 2), (jnp.ones(2), jnp.zeros(2))).s  # (c, h)
    Array([1., 1.], dtype=float32)
    """
    return carries.to_state(cell, carry, ("c", "h"))


def to_carry(cell: Cell, state: PyTree) -> Any:
    """The state c of ours as a carry of flax.

    Args:
      cell: from `load`.
      state: c, as in `net.apply(params, xs).state.c`.

    Returns:
      h [*batch, n] of a GRU and a simple cell, (c, h) of an LSTM.

    Raises:
      TypeError, ValueError: for what is not the state of such a cell.

    >>> import jax.numpy as jnp, eprop_jax as ej
    >>> from eprop_jax.interop import flax_linen
    >>> flax_linen.to_carry(ej.cells.rnn(3, 2), jnp.zeros(2))
    Array([0., 0.], dtype=float32)
    """
    return carries.to_carry(cell, state, ("c", "h"))
