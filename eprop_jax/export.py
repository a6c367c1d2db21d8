"""Compiled programs as files (`jax.export`): the library's own types are known to it.

    exported = jax.export.export(jax.jit(rule.step))(params, carry, xs, ys)
    blob = exported.serialize()                       # bytes, for another process or machine
    carry, out = jax.export.deserialize(blob).call(params, carry, xs, ys)

JAX writes the trees that go in and come out by the names of their types, and refuses a NamedTuple
that nobody has registered. The carry, the outputs and the states of the library's cells are
registered when it is imported; those of an optimiser (optax registers none) or of a neuron of your
own by `register`, in the process that writes and in the one that reads. JAX itself needs the
package flatbuffers for `serialize`.
"""

from __future__ import annotations

import contextlib

import jax
from jax import export

from eprop_jax.engine.layers.plan import PathsCarry
from eprop_jax.network.cells.currents import CurrentState
from eprop_jax.network.cells.gated import LSTMState
from eprop_jax.network.cells.noise import DrawnState
from eprop_jax.network.cells.physical import AdExState, IzhikevichState
from eprop_jax.network.cells.rate import ComplexState
from eprop_jax.network.cells.spiking import SpikingState
from eprop_jax.network.types import Carry, FirstCarry, Gamma, PyTree, State, StepOutput
from eprop_jax.rules.table import CARRIES
from eprop_jax.run.compare import Comparison, Fidelity
from eprop_jax.run.online import OnlineState
from eprop_jax.run.sequence import Aux
from eprop_jax.run.training.updates import TrainState
from eprop_jax.transforms.three_factor import ThreeFactorCarry

__all__ = ["register"]

TYPES = (
    *(State, Gamma, Carry, FirstCarry, PathsCarry, ThreeFactorCarry, *CARRIES),
    *(StepOutput, Aux, OnlineState, TrainState, Fidelity, Comparison),
    *(SpikingState, LSTMState, ComplexState, CurrentState, AdExState, IzhikevichState),
)


def register(tree: PyTree) -> PyTree:
    """Make `jax.export` know every NamedTuple in a tree, by its module's name and its own.

    Args:
      tree: what goes into or comes out of the program, or its shapes (`jax.eval_shape`): an
        optimiser's state, an `OnlineState`, a carry whose cell has a state of your own. What is
        registered already, by whomever, stays as it is.

    Returns:
      The tree.

    >>> import jax, jax.numpy as jnp, optax, eprop_jax as ej
    >>> net = ej.Network(ej.cells.lif(3, 5), ej.readouts.leaky(5, 2))
    >>> learner = ej.online(ej.eprop(net, ej.losses.squared_error), optax.sgd(1e-2))
    >>> state = ej.export.register(learner.init(net.init(jax.random.key(0))))  # optax's states too
    >>> xs, ys = jnp.ones((6, 3)), jnp.ones((6, 2))
    >>> exported = jax.export.export(jax.jit(learner.step))(state, xs, ys)
    >>> exported.call(state, xs, ys)[1].outputs.shape  # and exported.serialize() gives its bytes
    (6, 2)
    """
    jax.tree.leaves(tree, is_leaf=_register_node)
    return tree


def _register_node(node) -> bool:
    """Called on every node of a tree; none is made a leaf."""
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        _register(type(node))
    return False


def _register(kind: type) -> None:
    with contextlib.suppress(ValueError):  # known already, or this module is loaded again
        name = f"{kind.__module__}.{kind.__qualname__}"
        export.register_namedtuple_serialization(kind, serialized_name=name)


for _kind in TYPES:
    _register(_kind)

with contextlib.suppress(ValueError):  # as in `_register`
    export.register_pytree_node_serialization(
        DrawnState,
        serialized_name=f"{DrawnState.__module__}.{DrawnState.__qualname__}",
        serialize_auxdata=lambda _: b"",
        deserialize_auxdata=lambda _: None,
    )
