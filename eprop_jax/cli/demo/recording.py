"""A look inside: spikes and eligibility traces while a network reads a few digits."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax.cli.demo.setups import LOSS, Setup, presenter
from eprop_jax.engine import jacobians
from eprop_jax.network import readouts
from eprop_jax.network.types import Network, PyTree, by_layer
from eprop_jax.rules.table import BY_NAME


class Recording(NamedTuple):
    """One network reading a few digits one after the other, from rest each time."""

    spikes: PyTree
    """h, [T, n] over all digits; of a stack a tuple, one a layer"""
    traces: np.ndarray
    """eligibility traces e_ij^t of a few recurrent synapses of the first layer, [T, synapses]"""
    synapses: list[tuple[int, int]]
    """(i, j): presynaptic, postsynaptic"""
    steps: int
    """a digit"""
    labels: list[int]


def record(s: Setup, params: PyTree, images: np.ndarray, labels: np.ndarray) -> Recording:
    """Run e-prop step by step, and keep h and the largest eligibility traces e = ψ ε (Eq. 9), of a
    stack the first layer's: no layer above has a part in them.

    Args:
      s: the experiment.
      params: one seed's {"cell", "readout"}.
      images, labels: [B, 8, 8] and [B], a few digits.

    Raises:
      ValueError: if the cell has several drives (its traces are one a gate, not one a synapse).

    >>> import jax
    >>> from eprop_jax import tasks
    >>> from eprop_jax.cli import demo
    >>> s, data = demo.setup("alif"), tasks.digits()
    >>> params = s.net.init(jax.random.key(0))
    >>> seen = demo.record(s, params, data.test_images[:2], data.test_labels[:2])
    >>> seen.spikes.shape, seen.traces.shape
    ((48, 200), (48, 3))
    """
    cell, p = s.net.cells[0], by_layer(s.net, params["cell"])[0]
    if isinstance(p["w_rec"], dict):
        raise ValueError("s: the cell has several drives, wanted one")
    n = cell.n_units
    xs, ys = presenter(s, images, labels)(jnp.arange(len(labels)))
    _, h, _ = s.net.apply({k: params[k] for k in ("cell", "readout")}, xs)
    alone = Network(cell, readouts.linear(n, s.net.readout.n_out))
    rule, params = BY_NAME["eprop"](alone, LOSS), {**alone.init(jax.random.key(0)), "cell": p}

    def step(carry, now):
        carry, _ = rule.step(params, carry, *jax.tree.map(lambda x: x[None], now))
        psi = jacobians.output_blocks(cell, p, carry.state.c)[0]
        epsilon = [x for x in jax.tree.leaves(carry.epsilon["w_rec"]) if x.ndim == 3]
        e = sum(p[:, None, :] * jnp.broadcast_to(eps, (eps.shape[0], n, n))
                for p, eps in zip((p for p in psi if p is not None), epsilon))  # fmt: skip
        return carry, e

    _, e = jax.lax.scan(step, rule.init(params, (len(labels),)), (xs, ys))
    e = np.asarray(e)  # [T, B, i, j]
    # Of each postsynaptic unit its strongest synapse, then the three strongest units.
    strength = np.where(np.eye(n, dtype=bool), 0.0, np.abs(e).sum((0, 1)))
    post = np.argsort(strength.max(0))[::-1][:3]
    synapses = [(int(strength[:, j].argmax()), int(j)) for j in post]
    in_turn = lambda x: np.swapaxes(np.asarray(x), 0, 1).reshape(-1, *x.shape[2:])
    traces = np.stack([in_turn(e[:, :, i, j]) for i, j in synapses], 1)
    return Recording(
        jax.tree.map(in_turn, h), traces, synapses, xs.shape[0], [int(k) for k in labels]
    )
