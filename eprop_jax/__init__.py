"""eprop_jax: write the neuron, get every learning rule."""

from eprop_jax import (
    cells,
    checkpoints,
    encodings,
    equations,
    export,
    feedback,
    hybrids,
    jacobians,
    losses,
    paths,
    readouts,
    sharding,
    surrogates,
    tasks,
    training,
)
from eprop_jax.base import Carry, Cell, LearningRule, Network, Readout, State, StepOutput
from eprop_jax.bptt import bptt
from eprop_jax.by_paths import by_paths
from eprop_jax.compare import compare, fidelity
from eprop_jax.cost import cost
from eprop_jax.eprop import eprop
from eprop_jax.finite import check_finite
from eprop_jax.m_order import m_order_eprop
from eprop_jax.online import online
from eprop_jax.precision import narrow_traces
from eprop_jax.rtrl import rtrl
from eprop_jax.sequence import value_and_grad
from eprop_jax.training import train

__version__ = "0.1.0"

__all__ = [
    "Carry",
    "Cell",
    "LearningRule",
    "Network",
    "Readout",
    "State",
    "StepOutput",
    "bptt",
    "by_paths",
    "cells",
    "check_finite",
    "checkpoints",
    "compare",
    "cost",
    "encodings",
    "eprop",
    "equations",
    "export",
    "feedback",
    "fidelity",
    "hybrids",
    "jacobians",
    "losses",
    "m_order_eprop",
    "narrow_traces",
    "online",
    "paths",
    "readouts",
    "rtrl",
    "sharding",
    "surrogates",
    "tasks",
    "train",
    "training",
    "value_and_grad",
]
