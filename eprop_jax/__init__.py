"""eprop_jax: write the neuron, get every learning rule."""

from eprop_jax import encodings, export, losses, tasks
from eprop_jax.engine import jacobians
from eprop_jax.engine.influence import Influence
from eprop_jax.network import cells, readouts, surrogates, synapses
from eprop_jax.network.types import Carry, Cell, LearningRule, Network, Readout, State, StepOutput
from eprop_jax.paper import equations, hybrids, paths
from eprop_jax.rules import feedback
from eprop_jax.rules.bptt import bptt
from eprop_jax.rules.by_influence import by_influence
from eprop_jax.rules.by_paths import by_paths
from eprop_jax.rules.eprop import eprop
from eprop_jax.rules.m_order import m_order_eprop
from eprop_jax.rules.rtrl import rtrl
from eprop_jax.rules.snap import snap
from eprop_jax.rules.uoro import uoro
from eprop_jax.run import checkpoints, training
from eprop_jax.run.compare import compare, fidelity
from eprop_jax.run.cost import cost
from eprop_jax.run.finite import check_finite
from eprop_jax.run.layer import layer
from eprop_jax.run.online import online
from eprop_jax.run.predict import predict
from eprop_jax.run.rates import measured_rates
from eprop_jax.run.sequence import value_and_grad
from eprop_jax.run.training import train
from eprop_jax.transforms import sharding
from eprop_jax.transforms.narrow_traces import narrow_traces
from eprop_jax.transforms.three_factor import three_factor

__version__ = "0.1.0"

__all__ = [
    "Carry",
    "Cell",
    "Influence",
    "LearningRule",
    "Network",
    "Readout",
    "State",
    "StepOutput",
    "bptt",
    "by_influence",
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
    "layer",
    "losses",
    "m_order_eprop",
    "measured_rates",
    "narrow_traces",
    "online",
    "paths",
    "predict",
    "readouts",
    "rtrl",
    "sharding",
    "snap",
    "surrogates",
    "synapses",
    "tasks",
    "three_factor",
    "train",
    "training",
    "uoro",
    "value_and_grad",
]
