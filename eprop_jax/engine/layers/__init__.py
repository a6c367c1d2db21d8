"""Layers: a stack forward, and its adjoint over layers × states of a rule's automaton.

A rule is a language of paths (`engine.paths`); this engine runs any of them on any stack, over whole
sequences and without traces.
"""

from eprop_jax.engine.layers.connected import (
    costates,
    heard,
    structures,
    unconnected,
    wiring,
)
from eprop_jax.engine.layers.forward import Run, run
from eprop_jax.engine.layers.rule import of_layers

__all__ = ["Run", "costates", "heard", "of_layers", "run", "structures", "unconnected", "wiring"]
