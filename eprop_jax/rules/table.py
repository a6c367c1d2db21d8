"""The rules that hold traces of their own on one layer: a line each."""

from __future__ import annotations

from typing import NamedTuple

from eprop_jax.engine import paths
from eprop_jax.engine.adjoint import EVERY, LOCAL, Moves, chain
from eprop_jax.engine.influence import Influence
from eprop_jax.rules import eprop, m_order, rtrl

CARRIES = (eprop.EpropCarry, m_order.OrderCarry, rtrl.RtrlCarry)


class Own(NamedTuple):
    """What a language is run by on one layer."""

    language: str
    moves: tuple[Moves, ...]
    influence: Influence


def own(m: int) -> tuple[Own, ...]:
    """Those with m co-states at most."""
    return (
        Own("i*", LOCAL, eprop.INFLUENCE),
        Own("(i|e)*", EVERY, rtrl.INFLUENCE),
        Own(paths.order(m), chain(m), m_order.influence(m)),
    )
