"""Gated units: LSTM and GRU."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax import checks
from eprop_jax.network.cells.custom import LINES, custom
from eprop_jax.network.types import Cell
from eprop_jax.network.units import like


class LSTMState(NamedTuple):
    s: Any
    """cell state"""
    o: Any
    """output gate: part of the state, so that h = o·tanh(s) is a function of c alone"""


def lstm(n_in: int, n_units: int, *, forget_bias: float = 1.0, **options) -> Cell:
    """LSTM (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000).

    s^t = σ(a_f + forget_bias) s^{t-1} + σ(a_i) tanh(a_g),  o^t = σ(a_o),  h^t = o^t tanh(s^t).

    Implicit: s^{t-1} → s^t. Explicit: h^{t-1} into the four gates i, f, g, o.

    Args:
      n_in, n_units: sizes.
      forget_bias: added to the forget gate's drive.
      **options: `connectivity`, `self_connections`, `gain_in`, `gain_rec`, `w_in`, `w_rec` as in
        `custom`.

    Raises:
      TypeError, ValueError: as `custom`.

    >>> import jax, eprop_jax as ej
    >>> sorted(ej.cells.lstm(n_in=3, n_units=4).init(jax.random.key(0))["w_rec"])
    ['f', 'g', 'i', 'o']
    """
    forget_bias = checks.number("forget_bias", forget_bias)

    def dynamics(theta, c, a):
        forget = jax.nn.sigmoid(a["f"] + like(forget_bias, a["f"]))
        s = forget * c.s + jax.nn.sigmoid(a["i"]) * jnp.tanh(a["g"])
        return LSTMState(s=s, o=jax.nn.sigmoid(a["o"]))

    return custom(
        n_in,
        n_units,
        dynamics,
        lambda theta, c: c.o * jnp.tanh(c.s),
        LSTMState(s=0.0, o=0.0),
        drives={gate: LINES for gate in "ifgo"},
        **options,
    )._replace(name="lstm")


def gru(n_in: int, n_units: int, **options) -> Cell:
    """GRU, reset-after form (cuDNN's; Cho et al. 2014), which is unit-local.

    r = σ(a_r), z = σ(a_z), n = tanh(a_n + r·a_hn), h^t = (1−z) n + z h^{t-1};
    a_n holds the input's part (W x + b) and a_hn the recurrent part (U h + b) of the candidate.

    Implicit: z h^{t-1}. Explicit: h^{t-1} into r, z and hn.

    Args:
      n_in, n_units: sizes.
      **options: `connectivity`, `self_connections`, `gain_in`, `gain_rec`, `w_in`, `w_rec` as in
        `custom`.

    Raises:
      TypeError, ValueError: as `custom`.

    >>> import jax, eprop_jax as ej
    >>> params = ej.cells.gru(n_in=3, n_units=4).init(jax.random.key(0))
    >>> sorted(params["w_in"]), sorted(params["w_rec"])
    (['n', 'r', 'z'], ['hn', 'r', 'z'])
    """

    def dynamics(theta, h, a):
        z = jax.nn.sigmoid(a["z"])
        return (1 - z) * jnp.tanh(a["n"] + jax.nn.sigmoid(a["r"]) * a["hn"]) + z * h

    return custom(
        n_in,
        n_units,
        dynamics,
        lambda theta, h: h,
        0.0,
        drives={"r": LINES, "z": LINES, "n": ("w_in", "bias"), "hn": ("w_rec", "bias")},
        **options,
    )._replace(name="gru")
