"""A whole chunk at once for the three rules that have traces of their own on one layer: its gradient,
and the traces after it, by one backward sweep.

The chunk's own gradient is one product, Σ_t pre^t ⊗ ∂̃a^t over time and batch together. All that is
older than the chunk enters through the trace, ⟨∂̃c⁰, S⟩. The trace advances by the same sweep,
started from parts of the chunk's final state: S ← Φ S + Σ_t pre^t ⊗ ∂̃aᵗ. Each gives what the rule's own
`advance` gives, scanned over the chunk's steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from eprop_jax.engine import at_once, objective, products, seeds, signals
from eprop_jax.engine.adjoint import Part, Swept
from eprop_jax.engine.chunks import Layers
from eprop_jax.engine.maybe import as_in, each, split, total
from eprop_jax.engine.operators import CoState, Covector, Ends, Local, PerUnit
from eprop_jax.engine.products import add
from eprop_jax.engine.together import together
from eprop_jax.engine.traces import tied
from eprop_jax.network import unitwise
from eprop_jax.network.types import Array, Cell, Gamma, Maybe, RuleSpec

Found = tuple[Any, dict, list[Array], list[Array]]
"""(S, ∂̃a, the cell's gradient, the read-out's)"""


class Met(NamedTuple):
    """A chunk at the read-out, from the loss and from y^K itself."""

    layers: Layers
    grads_out: list[Array]
    gamma_out: Local
    """after the chunk"""
    entering: list[Part]
    """of the cell: from the loss, and from y^K"""
    dL_dy_0: Maybe
    """None: y^t does not depend on y^{t-1}"""
    dy_dy: PerUnit
    to_signal: Callable[[Maybe], Any]

    def cell(
        self, cell: Cell, p: dict, S: Any, older: Older, s_loss: Swept, s_y: Swept, fresh: list
    ) -> tuple[list[Array], Gamma]:
        """The cell's gradient, and γ after the chunk."""
        grads = products.gradient(cell, p, s_loss.at(0), self.layers.lines)
        grads = add(grads, tied(cell, p, older.meet(s_loss)))
        by_y = (self.to_signal(self.dL_dy_0) @ S.gamma.cell).leaves
        grads = add(grads, tied(cell, p, by_y))
        paths = zip(older.reach(s_y, 0), (row[0] for row in fresh))
        within = Ends(tuple((total(*each),) for each in paths), S.gamma.cell.n)
        return grads, Gamma(self.gamma_out, self.dy_dy @ S.gamma.cell + within)


def meet(spec: RuleSpec, params: dict, S: Any, chunk: objective.Chunk, filtered: bool) -> Met:
    net, p_out, layers = spec.network, params["readout"], Layers.of(spec, chunk)
    y_K = chunk.run.y[-1]
    entering = [seeds.of_loss(chunk.dL_dy), seeds.of_state((jnp.ones_like(y_K),))]
    back, final = seeds.at_readout(net.readout, p_out, layers.path_out, entering)
    final = seeds.first_unit(final) if net.readout.shared else final
    dL_dy_0, dy_dy = back.dc_0[0], PerUnit(((final.dc_0[0],),))
    grads_out = layers.readout_gradient(p_out, back)
    by_y = (Covector((dL_dy_0,)) @ S.gamma.readout).leaves
    grads_out = add(grads_out, tied(unitwise.as_cell(net.readout), p_out, by_y))
    fresh = Local(tuple((x,) for x in layers.readout_sources(p_out, final)))
    gamma_out = dy_dy @ S.gamma.readout + fresh
    spread, to_signal = signals.signal(spec, params, filtered)
    entering = [seeds.loss_part(spec, params, chunk, back), seeds.y_part(spec, final, spread)]
    return Met(layers, grads_out, gamma_out, entering, dL_dy_0, dy_dy, to_signal)


def local(spec: RuleSpec, params: dict, S: Any, chunk: objective.Chunk) -> Found:
    """Paths without a jump: e-prop."""
    cell, p, c = spec.network.cell, params["cell"], S.state.c
    at_y = meet(spec, params, S, chunk, spec.network.readout.shared)
    units = seeds.unit_parts(cell, c)
    s_loss, s_y, *s_c = together(cell, p, at_y.layers.path, at_y.entering, units)
    older = Older((S.epsilon,))
    fresh = products.sources(cell, p, [s.at(0) for s in (s_y, *s_c)], at_y.layers.lines)
    grads, gamma = at_y.cell(cell, p, S, older, s_loss, s_y, fresh)
    S = S._replace(epsilon=local_after(S.epsilon, s_c, fresh), gamma=gamma)
    return S, s_loss.at(0).da, grads, at_y.grads_out


def graded(spec: RuleSpec, params: dict, S: Any, chunk: objective.Chunk) -> Found:
    """Paths with at most m − 1 jumps: order m."""
    cell, p, c = spec.network.cell, params["cell"], S.state.c
    at_y = meet(spec, params, S, chunk, False)
    path, lines = at_y.layers.path, at_y.layers.lines
    parts = [*at_y.entering, seeds.end_part(spec.moves, c)]
    s_loss, s_y, s_ends = at_once.sweep(cell, p, path, parts)
    s_c = at_once.sweep(cell, p, path, seeds.unit_parts(cell, c))
    older = Older((S.epsilon, *S.beta))
    beta = tuple(older.ends_after(s_ends, at_y.layers, p, k) for k in range(1, len(older.held)))
    fresh = products.sources(cell, p, [s.at(0) for s in (s_y, *s_c)], lines)
    grads, gamma = at_y.cell(cell, p, S, older, s_loss, s_y, fresh)
    S = S._replace(epsilon=local_after(S.epsilon, s_c, fresh), beta=beta, gamma=gamma)
    return S, s_loss.at(0).da, grads, at_y.grads_out


def every(spec: RuleSpec, params: dict, S: Any, chunk: objective.Chunk) -> Found:
    """All paths: RTRL."""
    cell, p, c = spec.network.cell, params["cell"], S.state.c
    at_y = meet(spec, params, S, chunk, False)
    parts = [*at_y.entering, seeds.end_part(spec.moves, c)]
    s_loss, s_y, s_ends = at_once.sweep(cell, p, at_y.layers.path, parts)
    older = Older((S.alpha,))
    fresh = products.sources(cell, p, [s_y.at(0)], at_y.layers.lines)
    grads, gamma = at_y.cell(cell, p, S, older, s_loss, s_y, fresh)
    S = S._replace(alpha=older.ends_after(s_ends, at_y.layers, p, 0), gamma=gamma)
    return S, s_loss.at(0).da, grads, at_y.grads_out


class Older(NamedTuple):
    """What is older than the chunk: the cell's traces as it finds them."""

    held: tuple[Local | Ends, ...]
    """by the number of jumps: ε, β⁽¹⁾ … β⁽ᵐ⁻¹⁾; or α alone: paths that end at any unit"""

    def terms(self, Kind: Callable, s: Swept, first: int) -> Any:
        """Σ over what is older, the paths with 0, 1, … jumps: each meets the co-state that has as many
        jumps fewer left as co-state number `first` has."""
        size = len(self.held)
        met = [
            Kind(s.at(first + jumps).dc_0) @ S
            for jumps, S in enumerate(self.held)
            if first + jumps < size
        ]
        return total(*met)

    def meet(self, s: Swept) -> tuple[Maybe, ...]:
        """Σ_batch ⟨∂̃c⁰, S⟩: what is older than the chunk. One entry a parameter leaf."""
        return self.terms(Covector, s, 0).leaves

    def reach(self, s: Swept, first: int) -> tuple[Maybe, ...]:
        """The same for each example and seed: [B, *lead, lines, n]."""
        return self.terms(CoState, s, first).leaves

    def ends_after(self, s: Swept, layers: Layers, p: dict, jumps: int) -> Ends:
        """β⁽ʲᵘᵐᵖˢ⁾ (or α) after the chunk; the seeds were all components at all units."""
        first = len(self.held) - 1 - jumps
        fresh = products.sources(layers.cell, p, [s.at(first)], layers.lines)
        new = (total(x, row[0]) for x, row in zip(self.reach(s, first), fresh))
        pairs = zip(self.held[jumps].leaves, new)
        leaves = (as_in(was, split(x, len(was), 1)) for was, x in pairs)
        return Ends(tuple(leaves), layers.run.h_K.shape[-1])


def local_after(epsilon: Local, s_c: list[Swept], fresh: list[list[Maybe]]) -> Local:
    """ε after the chunk; one seed a component, whose fresh sources stand after y's. A component that a
    parameter never reaches has no trace, and gets none."""

    def of_leaf(leaf, row):
        older = lambda r: (CoState(s_c[r].at(0).dc_0) @ Local((leaf,))).leaves
        after = lambda r: each(lambda _: total(*older(r), row[1 + r]), leaf[r])
        return tuple(map(after, range(len(leaf))))

    return Local(tuple(map(of_leaf, epsilon.leaves, fresh)))
