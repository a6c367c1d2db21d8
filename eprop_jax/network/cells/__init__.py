"""The neurons. Each is a few lines of one unit's dynamics; the library does the rest.

What a cell puts inside `dynamics` is its *implicit* recurrence (every rule keeps it); what reaches
it through `w_rec`, its own output included, is *explicit* (e-prop cuts it). Each docstring says
which is which. Weights are [pre, post]; n units, n_in inputs; time constants share dt's unit (ms).
"""

from eprop_jax.network.cells.currents import CurrentState, cuba_lif, integrate_fire, li
from eprop_jax.network.cells.custom import custom
from eprop_jax.network.cells.gated import LSTMState, gru, lstm
from eprop_jax.network.cells.noise import DrawnState, dropout, noisy
from eprop_jax.network.cells.physical import AdExState, IzhikevichState, adex, izhikevich
from eprop_jax.network.cells.rate import (
    ComplexState,
    leaky_rnn,
    linear_recurrence,
    lru,
    rnn,
    stateless,
)
from eprop_jax.network.cells.spiking import SpikingState, alif, lif

__all__ = [
    "AdExState",
    "ComplexState",
    "CurrentState",
    "DrawnState",
    "IzhikevichState",
    "LSTMState",
    "SpikingState",
    "adex",
    "alif",
    "cuba_lif",
    "custom",
    "dropout",
    "gru",
    "integrate_fire",
    "izhikevich",
    "leaky_rnn",
    "li",
    "lif",
    "linear_recurrence",
    "lru",
    "lstm",
    "noisy",
    "rnn",
    "stateless",
]
