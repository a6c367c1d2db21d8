"""Weights of flax.nnx: `GRUCell`, `LSTMCell`, `OptimizedLSTMCell`, `SimpleCell`, and `Linear` as a
read-out.

    GRUCell:    dense_i [n_in, 3 n] (with a bias) and dense_h [n, 3 n] (without) hold r, z, n in this
                order: n = tanh(a_n + r (U h)), no bias inside the reset product; h' = (1−z) n + z h.
    LSTMCell:   ii, if_, ig, io, and hi, hf, hg, ho with the biases; the carry is (c, h).
    OptimizedLSTMCell: dense_i [n_in, 4 n] and dense_h [n, 4 n] (with the bias) hold i, f, g, o.
    SimpleCell: dense_i (with the bias) and dense_h; h' = φ(W x + b + U h).

`flax.nnx.RNN` takes [*batch, T, n_in] unless time_major=True; ours are [T, *batch, n_in].
"""

from __future__ import annotations

from typing import Any

from eprop_jax.interop import weights
from eprop_jax.interop.flax_linen import to_carry, to_state  # the carries of flax are the same
from eprop_jax.interop.weights import PHI, SIGMOID, TANH, Place, side_by_side

__all__ = ["give_back", "load", "to_carry", "to_state"]

IN, REC = ("dense_i", "kernel"), ("dense_h", "kernel")


def _kinds() -> dict[type, weights.Kind]:
    from flax import nnx

    gru = {
        **side_by_side("w_in", ("r", "z", "n"), IN),
        **side_by_side("w_rec", ("r", "z", "hn"), REC),
        **side_by_side("bias", ("r", "z", "n"), ("dense_i", "bias")),
    }
    of_input = {"i": "ii", "f": "if_", "g": "ig", "o": "io"}
    lstm = {
        **{("w_in", g): Place((name, "kernel")) for g, name in of_input.items()},
        **{("w_rec", g): Place((f"h{g}", "kernel")) for g in "ifgo"},
        **{("bias", g): Place((f"h{g}", "bias")) for g in "ifgo"},
    }
    gates = ("i", "f", "g", "o")
    optimized = {
        **side_by_side("w_in", gates, IN),
        **side_by_side("w_rec", gates, REC),
        **side_by_side("bias", gates, ("dense_h", "bias")),
    }
    simple = {
        ("w_in",): Place(IN), ("w_rec",): Place(REC), ("bias",): Place(("dense_i", "bias"))
    }  # fmt: skip
    linear = {("w_out",): Place(("kernel",)), ("bias",): Place(("bias",))}
    begins = {"carry_init": (None, nnx.initializers.zeros_init())}
    gated = {"gate_fn": SIGMOID, "activation_fn": TANH, **begins}
    return {
        nnx.GRUCell: weights.Kind(weights.GRU, gru, gated),
        nnx.LSTMCell: weights.Kind(weights.LSTM, lstm, gated),
        nnx.OptimizedLSTMCell: weights.Kind(weights.LSTM, optimized, gated),
        nnx.SimpleCell: weights.Kind(
            weights.SIMPLE, simple, {"activation_fn": PHI, "residual": (False,), **begins}
        ),
        nnx.Linear: weights.Kind(weights.LINEAR, linear),
    }


def _seen(name: str, module: Any) -> tuple[weights.Kind, dict, Any, weights.Places]:
    from flax import nnx

    kind = weights.kind_of(name, module, _kinds(), "flax.nnx")
    label = lambda at: f"{name}.{'.'.join(at)}"
    arrays = weights.leaves(nnx.to_pure_dict(nnx.state(module, nnx.Param)))
    n = module.out_features if hasattr(module, "out_features") else module.hidden_features
    part, places = weights.of_module(module, kind, arrays, label, module.in_features, n)
    return kind, arrays, part, places


def load(module: Any) -> tuple[Any, dict]:
    """A module of flax.nnx, here: the same function of the same weights, under every rule.

    Args:
      module: a `flax.nnx.GRUCell`, `LSTMCell`, `OptimizedLSTMCell` or `SimpleCell` (of an `nnx.RNN` its
        `cell`), or a `Linear`.

    Returns:
      (cell, its params), for `ej.Network` and params["cell"]; of a Linear (read-out, its params). The
      arrays are copies. A GRU has no bias inside the reset product: the cell is
      `ej.cells.gru(…, biases=("r", "z", "n"))`.

    Raises:
      ImportError: if flax is not installed.
      TypeError, ValueError: for another module, gates and activations other than σ and tanh (of a
        SimpleCell tanh, relu or the identity), a residual one, a carry that does not start at 0
        (`to_state`), weights of several dtypes, or a `dtype` of the module that is not theirs (a
        SimpleCell's is float32 unless something else is said).

    >>> import eprop_jax as ej
    >>> from flax import nnx
    >>> from eprop_jax.interop import flax_nnx
    >>> cell, params = flax_nnx.load(nnx.GRUCell(3, 5, rngs=nnx.Rngs(0)))
    >>> cell, sorted(params["bias"])
    (gru 3 -> 5, ['n', 'r', 'z'])
    """
    _, arrays, part, places = _seen("module", module)
    return part, weights.ours(places, arrays)


def give_back(cell: Any, params: dict, like: Any) -> Any:
    """Weights of ours as a module of flax.nnx: `load`, the other way round. What `load` gave comes back
    bit for bit.

    Args:
      cell: the cell or read-out that the parameters are of. An LSTM's forget_bias goes into the bias.
      params: its own, params["cell"] or params["readout"]; or, where forget_bias is 0, a gradient.
      like: a module of the kind and sizes wanted, such as the one that was loaded; it stays as it is.

    Returns:
      A new module like `like`, with these weights.

    Raises:
      ImportError: if flax is not installed.
      TypeError, ValueError: for a module that is not what `cell` is, and for what has no place in it
        (a trained initial state, synapses other than dense, a GRU's bias of "hn").

    >>> import jax, eprop_jax as ej
    >>> from flax import nnx
    >>> from eprop_jax.interop import flax_nnx
    >>> module = nnx.GRUCell(3, 5, rngs=nnx.Rngs(0))
    >>> cell, params = flax_nnx.load(module)
    >>> again = flax_nnx.give_back(cell, params, like=module)
    >>> bool((again.dense_h.kernel[...] == module.dense_h.kernel[...]).all())
    True
    """
    from flax import nnx

    kind, arrays, part, places = _seen("like", like)
    dtype = next(iter(arrays.values())).dtype
    found = weights.theirs(places, weights.given(cell, params, kind, part, like, dtype))
    module = nnx.clone(like)
    state = nnx.state(module, nnx.Param)
    nnx.replace_by_pure_dict(state, weights.nested(found))
    nnx.update(module, state)
    return module
