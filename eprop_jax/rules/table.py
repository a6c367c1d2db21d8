"""The rules by their names in commands, and what they hold on one layer: a line each."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from eprop_jax.engine import paths
from eprop_jax.engine.adjoint import EVERY, LOCAL, Onward, chain
from eprop_jax.engine.influence import Influence
from eprop_jax.network.types import LearningRule
from eprop_jax.rules import bptt, eprop, m_order, rtrl

BY_NAME: dict[str, Callable[..., LearningRule]] = {
    "bptt": bptt.bptt,
    "rtrl": rtrl.rtrl,
    "m-order": m_order.m_order_eprop,
    "eprop": eprop.eprop,
}

CARRIES = (
    eprop.EpropCarry,
    m_order.OrderCarry,
    rtrl.RtrlCarry,
)


class Own(NamedTuple):
    """What a language is run by on one layer."""

    language: str
    moves: tuple[Onward, ...]
    influence: Influence


def own(m: int) -> tuple[Own, ...]:
    """Those with m co-states at most."""
    return (
        Own("i*", LOCAL, eprop.INFLUENCE),
        Own("(i|e)*", EVERY, rtrl.INFLUENCE),
        Own(paths.order(m), chain(m), m_order.influence(m)),
    )
