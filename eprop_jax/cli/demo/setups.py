"""The two networks, how digits are shown to them, and the rules that train them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from eprop_jax import losses
from eprop_jax.network import cells, readouts
from eprop_jax.network.types import Array, LearningRule, Network
from eprop_jax.paper import taxonomy
from eprop_jax.rules.bptt import bptt
from eprop_jax.rules.eprop import eprop
from eprop_jax.rules.m_order import m_order_eprop
from eprop_jax.rules.rtrl import rtrl
from eprop_jax.tasks import CLASSES, COLUMNS, row_by_row

LOSS = losses.masked(losses.softmax_cross_entropy)
CELLS = ("gru", "alif")
RULES = taxonomy.KEYS
DEFAULT_RULES = ("bptt", "m-order", "eprop", "random", "frozen")
DEFAULT_ORDERS = (4, 2)


class Setup(NamedTuple):
    """A network, how digits are shown to it, and how it is trained: the same for every rule."""

    net: Network
    steps_a_row: int
    updates: int
    learning_rate: float
    orders: tuple[int, ...]
    """whose gradients are compared with BPTT's"""
    weight_decay: float = 0.1
    batch: int = 64


class Method(NamedTuple):
    """A rule, and which of the parameters it trains."""

    key: str
    name: str
    rule: LearningRule
    trains: tuple[str, ...]
    order: int | None = None


def setup(cell: str) -> Setup:
    """The experiment of one cell: "gru" (64 units) or "alif" (200 units).

    Raises:
      KeyError: for another name.

    >>> from eprop_jax.cli import demo
    >>> demo.setup("gru").net.cell.n_units
    64
    """
    return {"gru": _gru, "alif": _alif}[cell]()


def _gru() -> Setup:
    net = Network(cells.gru(COLUMNS, 64), readouts.linear(64, CLASSES))
    return Setup(net, steps_a_row=1, updates=1500, learning_rate=1e-2, orders=tuple(range(1, 9)))


def _alif() -> Setup:
    # dt = 1 ms and each row stays 3 ms, so the units' memory (5 ms, 20 ms) spans two rows or more.
    cell = cells.alif(COLUMNS, 200, tau_m=5.0, tau_a=20.0, refractory=2, gain_in=2.0)
    net = Network(cell, readouts.leaky(200, CLASSES, tau=5.0))
    return Setup(net, steps_a_row=3, updates=400, learning_rate=5e-3, orders=(1, 2, 4, 8))


def methods(net: Network, rules: Sequence[str], orders: Sequence[int]) -> list[Method]:
    """The rules by their `--rule` names; "m-order" becomes one method an order.

    Args:
      net: the network.
      rules: from `RULES`.
      orders: of m-order e-prop, each ≥ 1.

    Raises:
      KeyError: for a rule of another name.

    >>> from eprop_jax.cli import demo
    >>> [m.name for m in demo.methods(demo.setup("gru").net, ["bptt", "m-order"], [4, 2])]
    ['BPTT', 'e-prop, order 4', 'e-prop, order 2']
    """
    both = ("cell", "readout")

    def of(key: str) -> list[Method]:
        if key == "m-order":
            return [
                Method(key, f"e-prop, order {m}", m_order_eprop(net, LOSS, order=m), both, m)
                for m in orders
            ]
        if key in ("bptt", "rtrl"):
            return [Method(key, key.upper(), {"bptt": bptt, "rtrl": rtrl}[key](net, LOSS), both)]
        if key == "frozen":  # the read-out's gradient is exact under every rule
            return [Method(key, "frozen layer", eprop(net, LOSS), ("readout",))]
        kind = {"eprop": "symmetric", "random": "random", "adaptive": "adaptive"}[key]
        trains = (*both, "feedback") if key == "adaptive" else both
        return [Method(key, f"e-prop, {kind}", eprop(net, LOSS, feedback=kind), trains, 1)]

    return [method for key in rules for method in of(taxonomy.OLD.get(key, key))]


def presenter(s: Setup, images: np.ndarray, labels: np.ndarray) -> Callable[[Array], tuple]:
    """indices [B] -> (xs [T, B, 8], ys), as `row_by_row` shows those digits."""
    shown, named = jnp.asarray(images), jnp.asarray(labels)
    return lambda indices: row_by_row(shown[indices], named[indices], s.steps_a_row)
