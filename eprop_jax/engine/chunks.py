"""A chunk of K steps: its gradient and the traces after it, by one backward sweep.

K = 1 with traces is the rule's own recursion, as its file writes it. Any other chunk goes through
`adjoint.sweep`. The chunk's own gradient is one product, Σ_t pre^t ⊗ ∂̃a^t over time and batch
together. All that is older than the chunk enters through the trace, ⟨∂̃c⁰, S⟩. The trace advances
by the same sweep, started from parts of the chunk's final state: S ← Φ S + Σ_t pre^t ⊗ ∂̃aᵗ.
All chunkings of one order give the same gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax.engine import adjoint, objective, products, recursions, seeds, signals
from eprop_jax.engine import jacobians as jac
from eprop_jax.engine.adjoint import LOCAL, Part, Reached, Source, Swept
from eprop_jax.engine.operators import Covector, Ends, Local, Parts, PerUnit, total
from eprop_jax.network import unitwise
from eprop_jax.network.forward import before
from eprop_jax.network.stacks import Path
from eprop_jax.network.types import Array, Carry, Cell, Maybe, PyTree, RuleSpec, State


def gradient(recursion: Callable | None) -> Callable:
    """(spec, params, carry, data, keep) -> (carry, StepOutput, () -> ∂L/∂xs). `recursion` serves K = 1;
    None: the rule keeps no traces."""

    def of_chunk(spec: RuleSpec, params: dict, carry: Carry, data: objective.Data, keep: bool):
        chunk = objective.meet(spec, params, carry.state, data)
        if recursion is not None and keep:
            carry = begun(carry, data.resets)
        if recursion is None or not keep:
            da, grads, grads_out = without_traces(spec, params, chunk)
        elif data.xs.shape[0] == 1:
            m = recursions.moment(spec, params, chunk)
            carry, *found = recursion(spec, params, carry, m)
            da, likes = None, (params["cell"], params["readout"])
            grads, grads_out = (recursions.leaves(*each) for each in zip(likes, found))
        else:
            carry, da, grads, grads_out = with_traces(spec, params, carry, chunk)
        run = chunk.run
        state = State(run.c_K, run.y[-1])
        grads = {
            "cell": jax.tree.structure(params["cell"]).unflatten(grads),
            "readout": jax.tree.structure(params["readout"]).unflatten(grads_out),
        }

        def dL_dxs():
            own = without_traces(spec, params, chunk)[0] if da is None else da
            return to_inputs(spec, params, own, data.xs)

        carry = carry._replace(state=state)
        return carry, objective.finish(spec, params, chunk, grads), dL_dxs

    return of_chunk


def begun(carry: Carry, resets: Array | None) -> Carry:
    """The traces as the first step finds them: of examples that start afresh there, none."""
    if resets is None:
        return carry
    gone = lambda x: resets[0].reshape(-1, *(1,) * (x.ndim - 1))
    emptied = jax.tree.map(lambda x: jnp.where(gone(x), 0, x), carry)
    return emptied._replace(state=carry.state)


def to_inputs(spec: RuleSpec, params: dict, da: dict, xs: Array) -> Array:
    """∂L/∂x^t = Σ_gates w_in ∂̃a^t: [K, B, n_in]."""
    w_in = unitwise.as_gates(params["cell"].get("w_in", {}))
    terms = [da[g] @ w.T for g, w in w_in.items() if da[g] is not None]
    return spec.network.cell.wires.total(sum(terms, jnp.zeros_like(xs)))


class Layers(NamedTuple):
    """The cell and the read-out of one chunk, as the sweeps see them."""

    path: Path
    lines: dict[str, Array]
    path_out: Path
    run: Any

    @staticmethod
    def of(chunk: objective.Chunk) -> Layers:
        run = chunk.run
        return Layers(
            Path(run.c_tm1, run.c_K, run.a, run.resets, None if run.ends is None else run.ends[0]),
            {"w_in": run.x, "w_rec": run.heard},
            Path(run.y_tm1, run.y[-1], run.a_out, run.resets, None if run.ends is None else run.y),
            run,
        )

    def readout_gradient(self, p_out: dict, s: Reached) -> list[Array]:
        """Σ_t Σ_batch h^t ⊗ ∂̃a_out^t."""
        late, lines, da_K = self._late(s)
        grads = products.gradient(p_out, late, lines)
        last = {"w_out": self.run.h_K.T @ da_K, "bias": da_K.sum(0)}
        return _add_last(p_out, grads, last)

    def readout_sources(self, p_out: dict, s: Reached) -> list[Maybe]:
        """Σ_t h^t ⊗ ∂̃a_out^t an example."""
        late, lines, da_K = self._late(s)
        fresh = [row[0] for row in products.sources(p_out, [late], lines)]
        last = {"w_out": self.run.h_K[:, :, None] * da_K[:, None, :], "bias": da_K}
        return _add_last(p_out, fresh, last)

    def _late(self, s: Reached) -> tuple[Reached, dict, Array]:
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


def without_traces(spec: RuleSpec, params: dict, chunk: objective.Chunk) -> tuple[dict, list, list]:
    """The chunk alone: the adjoint at K = T. (∂̃a, the cell's gradient, the read-out's)"""
    net, p, p_out = spec.network, params["cell"], params["readout"]
    layers = Layers.of(chunk)
    (back,) = seeds.at_readout(net.readout, p_out, layers.path_out, [seeds.of_loss(chunk.dL_dy)])
    part = seeds.loss_part(spec, params, chunk, back)
    s = adjoint.sweep(net.cell, p, layers.path, [part])[0].at(0)
    grads_out = layers.readout_gradient(p_out, back)
    return s.da, products.gradient(p, s, layers.lines), grads_out


def with_traces(
    spec: RuleSpec, params: dict, carry: Carry, chunk: objective.Chunk
) -> tuple[Carry, dict, list, list]:
    """The chunk, what is older than it, and the traces after it."""
    net, p, p_out, c = spec.network, params["cell"], params["readout"], carry.state.c
    layers, graded = Layers.of(chunk), len(spec.moves) > 1
    S = recursions.opened(spec, params, carry)

    # the read-out: from the loss, and from y^K itself
    entering = [seeds.of_loss(chunk.dL_dy), seeds.of_state((jnp.ones_like(chunk.run.y[-1]),))]
    back, final = seeds.at_readout(net.readout, p_out, layers.path_out, entering)
    final = first_unit(final) if net.readout.shared else final
    grads_out = layers.readout_gradient(p_out, back)
    dL_dy_0, dy_dy = back.dc_0[0], final.dc_0[0]  # None: y^t does not depend on y^{t-1}
    grads_out = add(grads_out, (Covector((dL_dy_0,)) @ S.gamma_out).leaves)
    fresh = Local(tuple((x,) for x in layers.readout_sources(p_out, final)))
    gamma_out = PerUnit(((dy_dy,),)) @ S.gamma_out + fresh

    # the cell: from the loss, and from each thing that a trace describes
    spread, to_signal = signals.signal(params, spec.feedback, recursions.is_filtered(spec))
    entering = [seeds.loss_part(spec, params, chunk, back), seeds.y_part(spec, final, spread)]
    units = seeds.unit_parts(net.cell, c)
    if spec.moves == LOCAL:
        s_loss, s_y, *s_c = together(net.cell, p, layers.path, entering, units)
    else:
        entering.append(seeds.end_part(spec.moves, c))
        s_loss, s_y, s_ends = adjoint.sweep(net.cell, p, layers.path, entering)
    older = Before.of(S)
    grads = add(products.gradient(p, s_loss.at(0), layers.lines), older.meet(s_loss))
    if dL_dy_0 is not None:
        grads = add(grads, (to_signal(dL_dy_0) @ S.gamma).leaves)

    # the traces at the chunk's end
    traces: dict[str, Any] = {}
    if spec.moves != LOCAL:
        after = [older.ends_after(s_ends, layers, p, u) for u in range(graded, len(spec.moves))]
        traces = {"beta": tuple(after)} if graded else {"alpha": after[0]}
        s_c = adjoint.sweep(net.cell, p, layers.path, units) if graded else []
    fresh = products.sources(p, [s.at(0) for s in (s_y, *s_c)], layers.lines)
    if older.local:
        new = (
            tuple(
                None if old[r] is None else total(products.reach(s.at(0).dc_0, old), row[1 + r])
                for r, s in enumerate(s_c)
            )
            for old, row in zip(older.local, fresh)
        )
        traces["epsilon"] = Local(tuple(new))
    paths = zip(older.reach(s_y, 0), (row[0] for row in fresh))
    within = Ends(tuple((total(*each),) for each in paths), S.gamma.n)
    gamma = PerUnit(((dy_dy,),)) @ S.gamma + within
    after = S._replace(**traces, gamma=gamma, gamma_out=gamma_out)
    return recursions.closed(params, carry, S, after), s_loss.at(0).da, grads, grads_out


class Before(NamedTuple):
    """The cell's traces as the chunk finds them, one entry a parameter leaf."""

    local: tuple[Parts, ...]
    """ε: paths without a jump, which end at their own unit (empty for RTRL)"""
    ends: tuple[tuple[Parts, ...], ...]
    """β⁽¹⁾ … β⁽ᵐ⁻¹⁾, or α alone: paths that end at any unit"""

    @staticmethod
    def of(S: recursions.Traces) -> Before:
        if S.epsilon == ():
            return Before((), (S.alpha.leaves,))
        return Before(S.epsilon.leaves, tuple(beta.leaves for beta in S.beta))

    def terms(self, s: Swept, first: int, local: Callable, ends: Callable) -> list:
        """Σ over what is older, the paths with 0, 1, … jumps: each meets the co-state that has as many
        jumps fewer left as co-state number `first` has. One entry a parameter leaf."""
        held = [(local, self.local)] if self.local else []
        held += [(ends, S) for S in self.ends]
        size = len(held)
        met = [
            [meet(s.at(first + jumps).dc_0, leaf) for leaf in S]
            for jumps, (meet, S) in enumerate(held)
            if first + jumps < size
        ]
        return [total(*of_leaf) for of_leaf in zip(*met)]

    def meet(self, s: Swept) -> list[Maybe]:
        """Σ_batch ⟨∂̃c⁰, S⟩: what is older than the chunk."""
        return self.terms(s, 0, products.meet, products.meet_ends)

    def reach(self, s: Swept, first: int) -> list[Maybe]:
        """The same for each example and seed: [B, *lead, lines, n]."""
        return self.terms(s, first, products.reach, products.reach_ends)

    def ends_after(self, s: Swept, layers: Layers, p: dict, jumps: int) -> Ends:
        """β⁽ʲᵘᵐᵖˢ⁾ (or α) after the chunk; the seeds were all components at all units."""
        first = len(self.ends) - jumps if self.local else 0
        fresh = products.sources(p, [s.at(first)], layers.lines)
        old = self.reach(s, first)
        was = self.ends[jumps - 1 if self.local else 0]
        d = len(was[0])

        def components(x, like):
            if x is None:
                return like
            n = x.shape[1] // d
            each = [x[:, r * n : (r + 1) * n] for r in range(d)]
            return tuple(None if S is None else y for y, S in zip(each, like))

        new = (total(x, row[0]) for x, row in zip(old, fresh))
        n = layers.run.h_K.shape[-1]
        return Ends(tuple(components(x, like) for x, like in zip(new, was)), n)


# -- sweeps without jumps --------------------------------------------------------------------------


def together(
    cell: Cell, p: dict, path: Path, entering: list[Part], units: list[Part]
) -> list[Swept]:
    """A sweep without jumps, its full-width parts stacked: at small batches, what a step costs is the
    number of its operations. (That of a shared component is [B, 1], and stays by itself.)"""
    states = unitwise.floats(path.c_K)
    batch, n = states[0].shape
    full = [max(x.shape[-1] for x in s.dc_K if x is not None) == n for s in units]
    wide = [s for s, is_full in zip(units, full) if is_full]
    first = [jax.tree.map(lambda x: x[0], s.sources[0].x) for s in entering]
    leads = [jax.eval_shape(s.sources[0].to_dh, x).shape[:-2] for s, x in zip(entering, first)]
    stops = np.cumsum([math.prod(lead) for lead in leads] + [1] * len(wide))

    def to_dh(entries):
        dh = [s.sources[0].to_dh(x).reshape(-1, batch, n) for s, x in zip(entering, entries)]
        return jnp.concatenate([*dh, jnp.zeros((len(wide), batch, n), states[0].dtype)])

    def to_dc(entries):
        if all(x is None for x in entries):
            return None
        nothing = jnp.zeros((len(wide), batch, n), states[0].dtype)
        blank = [jnp.zeros((math.prod(lead), batch, n), states[0].dtype) for lead in leads]

        def component(c):
            own = [z if x is None else x[c].reshape(z.shape) for x, z in zip(entries, blank)]
            return jnp.concatenate([*own, nothing])

        return tuple(component(c) for c in range(len(states)))

    def at_end(c):
        found = [jnp.zeros_like(states[c])[None] if s.dc_K[c] is None else s.dc_K[c] for s in wide]
        nothing = jnp.zeros((stops[len(entering) - 1], batch, n), states[c].dtype)
        return jnp.concatenate([nothing, *found])[None]

    leads += [()] * len(wide)

    def cut(x, i):
        x = x[..., stops[i] - math.prod(leads[i]) : stops[i], :, :]
        return x.reshape(*x.shape[:-3], *leads[i], *x.shape[-2:])

    def parts_of(x):
        return [cut(x, i) for i in range(len(leads))]

    source = Source(tuple(s.sources[0].x for s in entering), to_dh)
    stack = Part(LOCAL, (source,), ((0,),), tuple(s.dL_dc for s in entering), (True,), to_dc,
                 tuple(at_end(c) for c in range(len(states))), split=parts_of)  # fmt: skip
    if p.get("theta"):  # θ_j reaches a shared component of its own unit alone
        lone = [s for s, is_full in zip(units, full) if not is_full]
        stacked, *alone = adjoint.sweep(cell, p, path, [stack, *lone])
    else:
        (stacked,) = adjoint.sweep(cell, p, path, [stack])
        alone = [of_shared(cell, p, path, r) for r, is_full in enumerate(full) if not is_full]
    parts = [{g: x and x[i] for g, x in stacked.da[0].items()} for i in range(len(leads))]
    rest_of = zip(parts, *(split_tree(parts_of, tree, len(leads)) for tree in stacked[1:]))
    swept = [Swept({0: da}, dc_0, dtheta) for da, dc_0, dtheta in rest_of]
    rest, alone = iter(swept[len(entering) :]), iter(alone)
    return swept[: len(entering)] + [next(rest) if is_full else next(alone) for is_full in full]


def split_tree(parts_of: Callable, tree: PyTree, n: int) -> list[PyTree]:
    """`parts_of` each leaf, as n trees."""
    leaves, structure = jax.tree.flatten(tree)
    parts = [parts_of(x) for x in leaves]
    return [structure.unflatten([x[i] for x in parts]) for i in range(n)]


def of_shared(cell: Cell, p: dict, path: Path, r: int) -> Swept:
    """The seed of a shared component r, whose own factor is all it meets: ∂c^K/∂c^t = Π_{s>t} D^s,
    one number for all units. No sweep is needed."""
    one = lambda x: x[..., :1]
    values = {k: v if np.ndim(v) == 0 else one(v) for k, v in cell.constants.items()}
    unit = cell._replace(n_units=1, constants=values)
    c_tm1, a = jax.tree.map(one, (path.c_tm1, path.a))
    D, B, _ = jac.implicit_blocks(unit, p, c_tm1, a)
    ones, factor = jnp.ones_like(unitwise.floats(c_tm1)[r][:1]), D[r][r]
    if factor is not None and path.resets is not None:
        factor = jnp.where(path.resets[..., None], 0, factor)
    later = jnp.zeros_like(ones) if factor is None else jnp.cumprod(factor[::-1], 0)[::-1]
    after_t = jnp.concatenate([jnp.broadcast_to(later, unitwise.floats(c_tm1)[r].shape)[1:], ones])
    da = {g: None if b is None else b * after_t for g, b in B[r].items()}
    dc_0 = tuple(later[:1] if i == r else None for i in range(len(D)))
    return Swept({0: da}, dc_0, {})


def first_unit(s: Reached) -> Reached:
    """One read-out unit for all, where all are the same."""
    one = lambda x: x[..., :1]
    return jax.tree.map(one, s)


def add(grads: list[Array], more: Sequence[Maybe]) -> list[Array]:
    return [g if x is None else g + x for g, x in zip(grads, more)]
