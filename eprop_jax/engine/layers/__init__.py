"""The engine of stacks: adjoint and traces over layers × states of a rule's automaton, for any language
of paths (`engine.paths`) and chunks of any length.
"""

from eprop_jax.engine.layers.connected import (
    Seen,
    costates,
    heard,
    refuse_unconnected,
    seen,
    structures,
    unconnected,
    wiring,
)
from eprop_jax.engine.layers.plan import PathsCarry, of_each_layer, sizes
from eprop_jax.engine.layers.pullback import ends, follow, pull, shown
from eprop_jax.engine.layers.rule import of_layers

__all__ = [
    "PathsCarry",
    "Seen",
    "costates",
    "ends",
    "follow",
    "heard",
    "of_each_layer",
    "of_layers",
    "pull",
    "refuse_unconnected",
    "seen",
    "shown",
    "sizes",
    "structures",
    "unconnected",
    "wiring",
]
