"""One device's part of a rule: its own units, wired to those of the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from eprop_jax.network.synapses import Synapses, use
from eprop_jax.network.types import Array, Cell, Network, Readout, RuleSpec, Units


def own_units(spec: RuleSpec, mesh: Mesh, axis: str) -> RuleSpec:
    """The rule of one device's units, wired to the others (inside `shard_map`)."""
    net = spec.network
    n = net.cell.n_units // mesh.shape[axis]
    first = jax.lax.axis_index(axis) * n
    own = lambda x: jax.lax.dynamic_slice_in_dim(x, first, n, x.ndim - 1)
    wires = Wires(
        gather=lambda h: jax.lax.all_gather(h, axis, axis=h.ndim - 1, tiled=True),
        total=lambda x: jax.lax.psum(x, axis),
        share=lambda x: jax.lax.psum_scatter(x, axis, scatter_dimension=x.ndim - 1, tiled=True),
    )
    w_in, w_rec = (net.cell.synapses[line].part(first, n) for line in ("w_in", "w_rec"))
    lines = {"w_in": wires.shared(w_in), "w_rec": wires.between(w_rec)}
    cell = net.cell._replace(
        n_units=n,
        initial_state=lambda p, batch: jax.tree.map(own, net.cell.initial_state(p, batch)),
        constants={
            k: v if jnp.ndim(v) == 0 else own(jnp.asarray(v)) for k, v in net.cell.constants.items()
        },
        synapses=lines,
    )
    w_out, n_out = net.readout.synapses["w_out"], net.readout.n_out
    exists = w_out.exists
    if exists is not None:
        exists = jax.lax.dynamic_slice_in_dim(jnp.asarray(exists), first, n, 0)
    out = wires.summed(use.plain(n, n_out)._replace(exists=exists))
    here = Network(cell, net.readout._replace(n_units=n, synapses={"w_out": out}))
    return spec._replace(network=here, units=Units(wires.gather, own, wires.total))


class Wires(NamedTuple):
    """How a device's own n units hear all N, and are heard."""

    gather: Callable[[Array], Array]
    """own units' values [..., n] -> all units' [..., N]"""
    total: Callable[[Array], Array]
    """a sum over own units -> the sum over all units"""
    share: Callable[[Array], Array]
    """sums over own units for all units [..., N] -> the sums over all units for own, [..., n]"""

    def between(self, s: Synapses) -> Synapses:
        """From all units to own: what is heard is gathered first, what is sent back is scattered."""
        send = use.transposed(s)
        return s._replace(hear=self.gather, back=lambda w, da: self.share(send(w, da)))

    def shared(self, s: Synapses) -> Synapses:
        """From what all devices hold to own units."""
        send = use.transposed(s)
        return s._replace(back=lambda w, da: self.total(send(w, da)))

    def summed(self, s: Synapses) -> Synapses:
        """From own units to what all devices hold."""
        return s._replace(drive=lambda w, h: self.total(s.drive(w, h)))


def can_be_split(cell: Cell, readout: Readout) -> None:
    """Refuse synapses that no device holds a part of."""
    for line, s in cell.synapses.items():
        if s.delay:
            raise ValueError(
                f"units: got {line} with delays, wanted none, or examples over the devices"
            )
        if s.part is None:
            raise ValueError(
                f"units: got {line} of {s.name} synapses, whose units share weights, wanted synapses "
                "with weights of each unit, or examples over the devices (batch)"
            )
    w_out = readout.synapses["w_out"]
    if not w_out.matrix:
        raise ValueError(f"units: got w_out of {w_out.name} synapses, wanted a matrix [pre, post]")
