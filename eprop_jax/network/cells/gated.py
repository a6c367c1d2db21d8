"""Gated units: LSTM and GRU."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax import checks
from eprop_jax.network.cells.custom import custom
from eprop_jax.network.types import Cell
from eprop_jax.network.units import like


class LSTMState(NamedTuple):
    s: Any
    """cell state"""
    o: Any
    """output gate: part of the state, so that h = o·tanh(s) is a function of c alone"""


def lstm_unit(forget_bias, theta, c, a):
    """One LSTM unit; `eprop_jax.interop` knows a cell by it."""
    forget = jax.nn.sigmoid(a["f"] + like(forget_bias, a["f"]))
    s = forget * c.s + jax.nn.sigmoid(a["i"]) * jnp.tanh(a["g"])
    return LSTMState(s=s, o=jax.nn.sigmoid(a["o"]))


def lstm(
    n_in: int,
    n_units: int,
    *,
    forget_bias: float = 1.0,
    biases: tuple[str, ...] = ("i", "f", "g", "o"),
    **options,
) -> Cell:
    """LSTM (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000).

    s^t = σ(a_f + forget_bias) s^{t-1} + σ(a_i) tanh(a_g),  o^t = σ(a_o),  h^t = o^t tanh(s^t).

    Implicit: s^{t-1} → s^t. Explicit: h^{t-1} into the four gates i, f, g, o.

    Args:
      n_in, n_units: sizes.
      forget_bias: added to the forget gate's drive.
      biases: which gates have a trained bias.
      **options: `connectivity`, `self_connections`, `gain_in`, `gain_rec`, `w_in`, `w_rec` as in
        `custom`.

    Raises:
      TypeError, ValueError: as `custom`.

    >>> import jax, eprop_jax as ej
    >>> sorted(ej.cells.lstm(n_in=3, n_units=4).init(jax.random.key(0))["w_rec"])
    ['f', 'g', 'i', 'o']
    """
    forget_bias = checks.number("forget_bias", forget_bias)
    return custom(
        n_in,
        n_units,
        functools.partial(lstm_unit, forget_bias),
        lambda theta, c: c.o * jnp.tanh(c.s),
        LSTMState(s=0.0, o=0.0),
        drives=with_biases({gate: ("w_in", "w_rec") for gate in "ifgo"}, biases),
        **options,
    )._replace(name="lstm")


def gru_unit(theta, h, a):
    """One GRU unit; `eprop_jax.interop` knows a cell by it."""
    z = jax.nn.sigmoid(a["z"])
    return (1 - z) * jnp.tanh(a["n"] + jax.nn.sigmoid(a["r"]) * a["hn"]) + z * h


def gru(
    n_in: int, n_units: int, *, biases: tuple[str, ...] = ("r", "z", "n", "hn"), **options
) -> Cell:
    """GRU, reset-after form (cuDNN's; Cho et al. 2014), which is unit-local.

    r = σ(a_r), z = σ(a_z), n = tanh(a_n + r·a_hn), h^t = (1−z) n + z h^{t-1};
    a_n holds the input's part (W x + b) and a_hn the recurrent part (U h + b) of the candidate.

    Implicit: z h^{t-1}. Explicit: h^{t-1} into r, z and hn.

    Args:
      n_in, n_units: sizes.
      biases: which drives have a trained bias; without "hn" the candidate hears r·(U h) alone.
      **options: `connectivity`, `self_connections`, `gain_in`, `gain_rec`, `w_in`, `w_rec` as in
        `custom`.

    Raises:
      TypeError, ValueError: as `custom`.

    >>> import jax, eprop_jax as ej
    >>> params = ej.cells.gru(n_in=3, n_units=4).init(jax.random.key(0))
    >>> sorted(params["w_in"]), sorted(params["w_rec"])
    (['n', 'r', 'z'], ['hn', 'r', 'z'])
    """
    both = ("w_in", "w_rec")
    drives = {"r": both, "z": both, "n": ("w_in",), "hn": ("w_rec",)}
    return custom(
        n_in,
        n_units,
        gru_unit,
        lambda theta, h: h,
        0.0,
        drives=with_biases(drives, biases),
        **options,
    )._replace(name="gru")


def with_biases(drives: dict, biases: tuple[str, ...]) -> dict:
    """{gate: its lines}, with a bias where one is wanted."""
    chosen = checks.names("biases", biases, drives)
    return {g: (*lines, "bias") if g in chosen else lines for g, lines in drives.items()}
