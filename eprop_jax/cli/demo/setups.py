"""The two networks, each of one layer or more, how digits are shown, and the rules that train them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from eprop_jax import losses
from eprop_jax.cli import naming
from eprop_jax.network import cells, readouts
from eprop_jax.network.types import Array, LearningRule, Network
from eprop_jax.paper import taxonomy
from eprop_jax.rules.by_paths import by_paths
from eprop_jax.rules.table import BY_NAME
from eprop_jax.tasks import CLASSES, COLUMNS, row_by_row

LOSS = losses.masked(losses.softmax_cross_entropy)
CELLS = ("gru", "alif")
RULES = naming.RULES
DEFAULT_RULES = ("bptt", "m-order", "eprop", "random", "frozen")
STACK_RULES = ("bptt", "paths:(i|f)*", "paths:i*f*", "m-order", "random", "frozen")
"""of a stack, where e-prop with symmetric feedback has no path to the lower layers"""
DEFAULT_ORDERS = (4, 2)


class Setup(NamedTuple):
    """A network, how digits are shown to it, and how it is trained: the same for every rule."""

    net: Network
    steps_a_row: int
    updates: int
    learning_rate: float
    orders: tuple[int, ...]
    """whose gradients are compared with BPTT's: those that reach every layer"""
    weight_decay: float = 0.1
    batch: int = 64


class Method(NamedTuple):
    """A rule, and which of the parameters it trains."""

    key: str
    name: str
    rule: LearningRule
    trains: tuple[str, ...]
    order: int | None = None
    freeze: tuple[int, ...] = ()
    """layers that it does not train, though "cell" is among its parts"""

    @property
    def whole(self) -> bool:
        """Does it train every layer?"""
        return "cell" in self.trains and not self.freeze


def setup(cell: str, layers: Sequence[int] = ()) -> Setup:
    """The experiment of one cell: "gru" (64 units) or "alif" (200 units); or of a stack of such layers,
    whose units are given, the lowest first. Each hears the one below, and the read-out the last.

    Raises:
      KeyError: for another name.

    >>> from eprop_jax.cli import demo
    >>> demo.setup("gru").net.cell.n_units
    64
    >>> demo.setup("alif", (200, 100)).net
    Network([alif 8 -> 200, alif 200 -> 100], leaky 100 -> 10)
    """
    s = {"gru": _gru, "alif": _alif}[cell](layers)
    return s._replace(orders=tuple(m for m in s.orders if m >= len(s.net.cells)))


def _gru(layers: Sequence[int]) -> Setup:
    net = _network(cells.gru, layers or (64,), readouts.linear)
    return Setup(net, steps_a_row=1, updates=1500, learning_rate=1e-2, orders=tuple(range(1, 9)))


def _alif(layers: Sequence[int]) -> Setup:
    # dt = 1 ms and each row stays 3 ms, so the units' memory (5 ms, 20 ms) spans two rows or more.
    cell = functools.partial(cells.alif, tau_m=5.0, tau_a=20.0, refractory=2, gain_in=2.0)
    net = _network(cell, layers or (200,), functools.partial(readouts.leaky, tau=5.0))
    return Setup(net, steps_a_row=3, updates=400, learning_rate=5e-3, orders=(1, 2, 4, 8))


def _network(cell: Callable, layers: Sequence[int], readout: Callable) -> Network:
    stack = [cell(n_in, n) for n_in, n in zip((COLUMNS, *layers[:-1]), layers)]
    return Network(stack if len(stack) > 1 else stack[0], readout(layers[-1], CLASSES))


def units(net: Network) -> tuple[int, ...]:
    """Of each layer, the lowest first.

    >>> from eprop_jax.cli import demo
    >>> demo.units(demo.setup("alif", (200, 100)).net)
    (200, 100)
    """
    return tuple(cell.n_units for cell in net.cells)


def methods(
    net: Network, rules: Sequence[str], orders: Sequence[int], freeze: Sequence[int] = ()
) -> list[Method]:
    """The rules by their `--rule` names; "m-order" becomes one method an order.

    Args:
      net: the network.
      rules: from `RULES`, or "paths:" and a language.
      orders: of m-order e-prop, each ≥ 1.
      freeze: layers that no rule trains.

    Raises:
      KeyError: for a rule of another name.
      ValueError: for a language that is none.

    >>> from eprop_jax.cli import demo
    >>> [m.name for m in demo.methods(demo.setup("gru").net, ["bptt", "m-order"], [4, 2])]
    ['BPTT', 'e-prop, order 4', 'e-prop, order 2']
    """
    both = ("cell", "readout")

    def of(key: str) -> list[Method]:
        if (language := naming.language(key)) is not None:
            return [Method(key, naming.of_language(key), by_paths(net, LOSS, paths=language), both)]
        if key == "m-order":
            return [
                Method(key, f"e-prop, order {m}", BY_NAME[key](net, LOSS, order=m), both, m)
                for m in orders
            ]
        if key in ("bptt", "rtrl"):
            return [Method(key, key.upper(), BY_NAME[key](net, LOSS), both)]
        if key == "frozen":  # the read-out's gradient is exact under every rule
            rule = by_paths(net, LOSS, paths="i*f*")
            return [Method(key, naming.all_frozen(len(net.cells)), rule, ("readout",))]
        kind = {"eprop": "symmetric", "random": "random", "adaptive": "adaptive"}[key]
        trains = (*both, "feedback") if key == "adaptive" else both
        return [
            Method(key, f"e-prop, {kind}", BY_NAME["eprop"](net, LOSS, feedback=kind), trains, 1)
        ]

    def held(method: Method) -> Method:
        if not freeze or "cell" not in method.trains:
            return method
        return method._replace(name=f"{method.name}, {naming.frozen(freeze)}", freeze=tuple(freeze))

    return [held(method) for key in rules for method in of(taxonomy.OLD.get(key, key))]


def presenter(s: Setup, images: np.ndarray, labels: np.ndarray) -> Callable[[Array], tuple]:
    """indices [B] -> (xs [T, B, 8], ys), as `row_by_row` shows those digits."""
    shown, named = jnp.asarray(images), jnp.asarray(labels)
    return lambda indices: row_by_row(shown[indices], named[indices], s.steps_a_row)
