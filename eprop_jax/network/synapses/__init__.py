"""Synapses: how a line (w_in, w_rec, w_out) leads from the units that it hears to those that it drives.

A kind is a function (n_pre, n_post) -> `Synapses`, a value of a few functions. The rest of the library
calls those, through `use`, and knows no kind by name. `docs/WRITE_A_SYNAPSE.md` writes one.
"""

from eprop_jax.network.synapses.conv import conv, conv_shape, pooled
from eprop_jax.network.synapses.delayed import delayed
from eprop_jax.network.synapses.dense import dense
from eprop_jax.network.synapses.grouped import grouped
from eprop_jax.network.synapses.masked import masked
from eprop_jax.network.synapses.sparse import by_distance, sparse
from eprop_jax.network.synapses.value import Kind, Synapses

__all__ = [
    "Kind",
    "Synapses",
    "by_distance",
    "conv",
    "conv_shape",
    "delayed",
    "dense",
    "grouped",
    "masked",
    "pooled",
    "sparse",
]
