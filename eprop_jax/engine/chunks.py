"""A chunk of K steps of one layer: the gradient of a rule, with its traces or without."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax.engine import at_once, influence, objective, products, seeds
from eprop_jax.engine.adjoint import Reached
from eprop_jax.engine.heard import scaled
from eprop_jax.engine.influence import At, Influence
from eprop_jax.engine.maybe import each, filled, first, total
from eprop_jax.engine.operators import Parts
from eprop_jax.engine.traces import heard
from eprop_jax.network import unitwise
from eprop_jax.network.forward import before
from eprop_jax.network.stacks import Path
from eprop_jax.network.synapses import use
from eprop_jax.network.types import Array, Cell, FirstCarry, Maybe, RuleSpec, State


def gradient(of: Influence | None) -> Callable:
    """(spec, params, carry, data, keep) -> (carry, StepOutput, () -> ∂L/∂xs). None: a rule without
    traces. One whose paths no language tells has no gradient to inputs."""

    def of_chunk(spec: RuleSpec, params: dict, carry: Any, data: objective.Data, keep: bool):
        chunk = objective.meet(spec, params, carry.state, data)
        if of is None or not keep:
            da, grads, grads_out, dc_0 = without_traces(spec, params, chunk)
            da_of = lambda: da
            if isinstance(carry, FirstCarry):
                by_first = products.at_first(params["cell"], chunk.run.c_0, dc_0, carry.first)
                grads, carry = products.add(grads, by_first), carry.spent
        else:
            at = At(spec, params, carry.state, of.filtered(spec))
            S = influence.opened(of, at, carry)
            if of.over is None or data.xs.shape[0] == 1:
                S, grads, grads_out = influence.advanced(of, at, S, chunk)
                da_of = lambda: without_traces(spec, params, chunk)[0]
            else:
                after, da, grads, grads_out = of.over(spec, params, S, chunk)
                S, da_of = influence.fitted(S, after), lambda: da
            carry = influence.closed(of, at, S)
        grads = {
            "cell": jax.tree.structure(params["cell"]).unflatten(grads),
            "readout": jax.tree.structure(params["readout"]).unflatten(grads_out),
        }

        def dL_dxs():
            return to_inputs(spec, params, da_of(), data.xs, data.resets)

        run = chunk.run
        carry = carry._replace(state=State(run.c_K, run.y[-1], run.past))
        out = objective.finish(spec, params, chunk, grads)
        return carry, out, None if spec.language is None else dL_dxs

    return of_chunk


def to_inputs(spec: RuleSpec, params: dict, da: dict, xs: Array, resets: Array | None) -> Array:
    """∂L/∂x^t = Σ_gates w_in ∂̃a^t: [K, B, n_in]."""
    return filled(products.to_heard(spec.network.cell, params["cell"], da, resets), xs)


class Layers(NamedTuple):
    """The cell and the read-out of one chunk, as the sweeps see them."""

    cell: Cell
    readout: Cell
    path: Path
    lines: dict[str, Array]
    path_out: Path
    run: Any

    @staticmethod
    def of(spec: RuleSpec, chunk: objective.Chunk) -> Layers:
        run = chunk.run
        return Layers(
            spec.network.cell,
            unitwise.as_cell(spec.network.readout),
            Path(run.c_tm1, run.c_K, run.a, run.resets, None if run.ends is None else run.ends[0]),
            {"w_in": run.x, "w_rec": run.heard},
            Path(run.y_tm1, run.y[-1], run.a_out, run.resets, None if run.ends is None else run.y),
            run,
        )

    def readout_gradient(self, p_out: dict, s: Reached) -> list[Array]:
        """Σ_t Σ_batch h^t ⊗ ∂̃a_out^t."""
        late, lines, da_K = self.late(s)
        by_line = products.of_lines(self.readout, p_out, late.da, lines)
        return self.with_last(p_out, late, by_line, da_K)

    def with_last(self, p_out: dict, late: Reached, by_line: Parts, da_K: Array) -> list[Array]:
        """And h^K ⊗ ∂̃a_out^K, which the products over h^{t-1} leave out."""
        of_w = use.collect(self.readout.synapses["w_out"], self.run.h_K, da_K)
        grads = products.with_units(p_out, late, by_line)
        return _add_last(p_out, grads, {"w_out": of_w, "bias": da_K.sum(0)})

    def readout_sources(self, p_out: dict, s: Reached) -> list[Maybe]:
        """Σ_t h^t ⊗ ∂̃a_out^t an example."""
        late, lines, da_K = self.late(s)
        fresh = [row[0] for row in products.sources(self.readout, p_out, [late], lines)]
        last = {"w_out": scaled(da_K, heard(self.readout, "w_out", self.run.h_K)), "bias": da_K}
        return _add_last(p_out, fresh, last)

    def late(self, s: Reached) -> tuple[Reached, dict, Array]:
        """Σ_t h^t ∂̃a^t = Σ_t h^{t-1} ∂̃a^{t-1} + h^K ∂̃a^K: only h^{t-1} is stored, and of the two
        factors ∂̃a_out is the small one to shift."""
        da = s.da[unitwise.ONE_DRIVE]
        if self.run.ends is not None:
            return s, {"w_out": self.run.h}, jnp.zeros_like(da[0])
        late = s._replace(da={unitwise.ONE_DRIVE: before(jnp.zeros_like(da[0]), da)})
        return late, {"w_out": self.run.h_tm1}, da[-1]


def _add_last(params: dict, terms: list, last: dict[str, Array]) -> list:
    paths = [path for path, _ in jax.tree.leaves_with_path(params)]
    return [total(x, last.get(path[0].key)) for x, path in zip(terms, paths)]


def without_traces(
    spec: RuleSpec, params: dict, chunk: objective.Chunk
) -> tuple[dict, list, list, Parts]:
    """The chunk alone: the adjoint at K = T. (∂̃a, the cell's gradient, the read-out's, ∂̃c⁰)

    h follows from c, and is made anew for each block of steps: a long sequence holds its states, and
    neither h nor ∂̃a."""
    net, p, p_out, run = spec.network, params["cell"], params["readout"], chunk.run
    cell, layers = net.cell, Layers.of(spec, chunk)
    (back,) = seeds.at_readout(net.readout, p_out, layers.path_out, [seeds.of_loss(chunk.dL_dy)])
    part = seeds.loss_part(spec, params, chunk, back)
    late, _, da_K = layers.late(back)

    def met(beside, da):
        x, far, c_tm1, c_t, da_out = beside
        output = functools.partial(unitwise.output, cell, p)
        h_tm1, h_t = output(c_tm1), each(output, c_t)
        lines, lines_out = {"w_in": x, "w_rec": first(far, h_tm1)}, {"w_out": first(h_t, h_tm1)}
        return (
            products.of_lines(cell, p, da[0][0], lines),
            products.of_lines(layers.readout, p_out, da_out, lines_out),
        )

    beside = run.x, run.far, run.c_tm1, layers.path.c_t, late.da
    (s,), sums = at_once.sweep_and_meet(cell, p, layers.path, [part], beside, met)
    s, (by_line, by_line_out) = s.at(0), sums
    grads_out = layers.with_last(p_out, late, by_line_out, da_K)
    return s.da, products.with_units(p, s, by_line), grads_out, s.dc_0
