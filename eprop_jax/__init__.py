"""eprop_jax: write the neuron, get every learning rule."""

from eprop_jax import cells, feedback, jacobians, losses, readouts, surrogates
from eprop_jax.base import Carry, Cell, LearningRule, Network, Readout, StepOutput
from eprop_jax.bptt import bptt
from eprop_jax.eprop import eprop
from eprop_jax.m_order import m_order_eprop
from eprop_jax.rtrl import rtrl
from eprop_jax.sequence import value_and_grad
