"""A chunk of K steps of a stack under any language: its gradient, and the traces after it.

What is older than the chunk enters as Σ_q ⟨∂̃c_q⁰, S_q⟩. The traces advance by the same descent,
started from parts of the chunk's final state that paths reach in co-state q:

    S_q ← Σ_p ⟨∂̃c⁰[p → q], S_p⟩ + Σ_t pre^t ⊗ ∂̃a^t[start → q]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax.engine import jacobians as jac
from eprop_jax.engine import maybe, objective, products, seeds
from eprop_jax.engine import traces as tr
from eprop_jax.engine.adjoint import Reached, Source
from eprop_jax.engine.layers import gradients, meets
from eprop_jax.engine.layers.descend import Family, Found, Meets, descend, to_inputs
from eprop_jax.engine.layers.plan import PathsCarry, Plan, leading, narrow, reached_from
from eprop_jax.engine.maybe import each, total
from eprop_jax.engine.operators import (
    CoState,
    Covector,
    Ends,
    Gradient,
    Local,
    Parts,
    PerExample,
    PerUnit,
    Signal,
)
from eprop_jax.engine.products import add
from eprop_jax.engine.traces import fitted, tied
from eprop_jax.network import unitwise
from eprop_jax.network.stacks import Run, run
from eprop_jax.network.types import (
    Array,
    Cell,
    FirstCarry,
    Gamma,
    Maybe,
    RuleSpec,
    State,
    StepOutput,
    by_layer,
)


def gradient(
    plan_of: Callable,
    traced: bool,
    spec: RuleSpec,
    params: dict,
    carry: Any,
    data: objective.Data,
    keep: bool,
) -> tuple[Any, StepOutput, Callable[[], Array]]:
    """(carry, StepOutput, () -> ∂L/∂xs) of a chunk, on one batch axis."""
    B, plan = data.xs.shape[1], plan_of(params)
    path = run(spec.network, params, carry.state, data.xs, data.resets)
    per_step = jax.vmap(jax.vmap(jax.value_and_grad(objective.per_step(spec))))
    losses, dL_dy = (objective.only(data.mask, x) for x in per_step(path.y, data.ys))
    chunk = Chunk.of(spec, params, plan, path, data, dL_dy / B, traced and keep)
    older = Older(plan, spec, params, carry)
    loss, *_ = found = descend(spec, params, path, plan.nodes, list(chunk.families))
    grads_out = meets.readout_gradient(chunk.wide, path, chunk.back)
    grads = gradients.of_cells(spec, params, path, loss)
    if traced and keep:
        met = [older.meet(loss.dc_0, l) for l in range(len(grads))]
        grads = [add(g, tied(*chunk.layer(l), x)) for l, (g, x) in enumerate(zip(grads, met))]
        carry, grads, grads_out = advance(chunk, older, found, carry, grads, grads_out)
    elif isinstance(carry, FirstCarry):
        grads = gradients.with_first(spec, params, path, loss, carry.first, grads)
        carry = carry.spent
    tree = gradients.as_params(spec, params, chunk.wide, grads, grads_out)
    losses = losses + chunk.state_losses
    mean = (jnp.sum(losses) + jnp.sum(chunk.activity)) / B
    out = StepOutput(mean, tree, path.y, path.h, losses)
    carry = carry._replace(state=State(path.c_K, path.y[-1], path.past))
    return carry, out, lambda: to_inputs(spec, params, path, loss)


class Chunk(NamedTuple):
    """What a chunk's descents start from, and what they are about."""

    spec: RuleSpec
    params: dict
    plan: Plan
    path: Run
    wide: meets.Wide
    B_l: list[Maybe]
    back: Reached
    """the read-out from the loss, and"""
    final: tuple[Reached, ...]
    """from y^K itself, where it leaks and traces are kept"""
    activity: Array
    state_losses: Array
    families: tuple[Family, ...]
    """of the loss; then, where traces are kept, of y^K for the layers of one γ each, for the others,
    and `targets`"""
    targets: tuple[Target, ...]

    @staticmethod
    def of(spec, params, plan, path, data, dL_dy, traced) -> Chunk:
        leaky = traced and plan.leaky
        wide = meets.wide_readout(spec, params)
        parts = [seeds.of_loss(dL_dy), seeds.of_state((jnp.ones_like(path.y[-1]),))]
        back, *final = meets.at_readout(spec, wide, path, parts[: 1 + leaky])
        if spec.network.readout.shared:
            final = list(map(seeds.first_unit, final))
        B_l = meets.feedback_of(spec, params, path)
        activity, states, at = meets.at_layers(spec, B_l, path, back.da[""], data)
        families = [Family(frozenset(range(len(plan.nodes))), at, {})]
        for x in final:
            families += of_outputs(spec, plan, B_l, x)
        targets = of_traces(spec, plan, path) if traced else ()
        families += [x.family for x in targets]
        return Chunk(
            spec, params, plan, path, wide, B_l, back, tuple(final), activity, states,
            tuple(families), targets,
        )  # fmt: skip

    def cell(self, l: int) -> dict:
        return by_layer(self.spec.network, self.params["cell"])[l]

    def layer(self, l: int) -> tuple[Cell, dict]:
        return self.spec.network.cells[l], self.cell(l)

    def lines(self, l: int) -> dict[str, Array]:
        return self.path.ran[l].lines

    def fresh(self, l: int, found: list[Found]) -> list[dict[int, Maybe]]:
        """Σ_t pre^t ⊗ ∂̃a^t an example, one a parameter leaf: {number of the descent: value}."""
        there = [k for k, of in enumerate(found) if l in of.da]
        reached = [gradients.as_reached(found[k], l) for k in there]
        cell = self.spec.network.cells[l]
        rows = products.sources(cell, self.cell(l), reached, self.lines(l))
        return [dict(zip(there, row)) for row in rows]


# -- what descents start from ----------------------------------------------------------------------


class Target(NamedTuple):
    """Components of c^K that paths reach in one co-state, as a family of its own."""

    q: int
    components: tuple[int, ...]
    layer: int | None
    """whose ε it advances; None: α, of all layers below"""
    family: Family


def of_outputs(
    spec: RuleSpec, plan: Plan, B_l: list[Maybe], final: Reached
) -> tuple[Family, Family]:
    """∂y^K/∂h^t, for the layers that have one γ for all outputs, and for those that have one each."""
    dy_da, layers = final.da[unitwise.ONE_DRIVE], range(len(B_l))

    def meets_by(spread):
        to_dh = lambda x, w: x.T[:, :, None] * w[:, None, :]
        of = lambda w: Meets((Source(dy_da, lambda x: to_dh(x, w)),))
        return tuple(each(of, w) or Meets() for w in spread)

    for_all = [each(lambda w: jnp.ones((1, w.shape[0]), w.dtype), w) for w in B_l]
    for_each = [each(jnp.transpose, w) for w in B_l]
    filtered = [l for l in layers if plan.filtered[l] and plan.to_y[l]]
    others = [l for l in layers if not plan.filtered[l] and plan.to_y[l]]
    inside = frozenset().union(*(plan.within[l] for l in filtered))
    return (
        Family(inside, meets_by(for_all), {}),
        Family(reached_from(plan, others), meets_by(for_each), {}),
    )


def of_traces(spec: RuleSpec, plan: Plan, path: Run) -> tuple[Target, ...]:
    """All that the traces describe."""
    found, nowhere = [], tuple(Meets() for _ in path.ran)
    for l, ran in enumerate(path.ran):
        parts = unitwise.floats(ran.path.c_K)
        one = narrow(plan, spec, ran.path.c_K, l)
        full = tuple(z for z in range(len(parts)) if z not in one)
        groups = ([full] if full else []) + [(z,) for z in sorted(one)]
        for q in plan.local[l]:
            for group in groups:
                dc_K = at_all_units(parts, group, group[0] in one)
                found.append(Target(q, group, l, Family(plan.within[l], nowhere, {q: dc_K})))
    for q in sorted(set().union(*plan.ends)):
        parts = unitwise.floats(path.ran[plan.nodes[q].layer].path.c_K)
        family = Family(leading(plan, q), nowhere, {q: at_each_unit(parts)})
        found.append(Target(q, tuple(range(len(parts))), None, family))
    return tuple(found)


def at_all_units(parts: tuple, group: tuple[int, ...], one: bool) -> tuple[Maybe, ...]:
    """A seed for each component of a group, at all units at once: [len(group), B, n]."""
    wide = lambda z: parts[z][:, :1] if one else parts[z]
    rows = lambda z: [jnp.full_like(wide(z), float(x == z)) for x in group]
    return tuple(jnp.stack(rows(z)) if z in group else None for z in range(len(parts)))


def at_each_unit(parts: tuple) -> tuple[Array, ...]:
    """A seed for each component at each unit, components outermost: [d · n, B, n]."""
    batch, n = parts[0].shape
    at_r = jnp.broadcast_to(jnp.eye(n, dtype=parts[0].dtype)[:, None], (n, batch, n))
    zero, d = jnp.zeros_like(at_r), range(len(parts))
    return tuple(jnp.concatenate([at_r if r == z else zero for r in d]) for z in d)


# -- what is older, and the traces after the chunk -------------------------------------------------


class Older(NamedTuple):
    """The traces as the chunk finds them."""

    plan: Plan
    spec: RuleSpec
    params: dict
    carry: PathsCarry

    def of(self, l: int) -> list[tuple[int, Local | Ends]]:
        """The co-states of layer l that have a trace, and it."""
        net, plan = self.spec.network, self.plan
        p, c = by_layer(net, self.params["cell"])[l], by_layer(net, self.carry.state.c)
        one = narrow(plan, self.spec, c[l], l)
        unpack = lambda q, x, *one: tuple(
            tr.unpack(net.cells[l], p, c[plan.nodes[q].layer], x, *one)
        )
        n = lambda q: net.cells[plan.nodes[q].layer].n_units
        local = zip(plan.local[l], self.carry.epsilon[l])
        ends = zip(plan.ends[l], self.carry.alpha[l])
        return [
            *((q, Local(unpack(q, x, one))) for q, x in local),
            *((q, Ends(unpack(q, x), n(q))) for q, x in ends),
        ]

    def meet(self, dc_0: dict, l: int) -> Parts:
        """Σ_batch Σ_q ⟨∂̃c_q⁰, S_q⟩, one a parameter leaf."""
        return self._terms(Covector, Gradient, dc_0, l)

    def reach(self, dc_0: dict, l: int) -> Parts:
        """The same for each example and seed: [B, *lead, lines, n]."""
        return self._terms(CoState, PerExample, dc_0, l)

    def _terms(self, Kind: Any, Found: Any, dc_0: dict, l: int) -> Parts:
        leaves = jax.tree.leaves(by_layer(self.spec.network, self.params["cell"])[l])
        met = (Kind(dc_0[q]) @ S for q, S in self.of(l) if q in dc_0)
        return total(Found((None,) * len(leaves)), *met).leaves


def advance(
    chunk: Chunk, older: Older, found: list[Found], carry: PathsCarry, grads: list, grads_out: list
) -> tuple[PathsCarry, list, list]:
    """The carry after the chunk; and what the read-out's memory of older steps adds to gradients."""
    plan, layers = chunk.plan, range(len(grads))
    fresh = [chunk.fresh(l, found) for l in layers]
    gamma: Any = ()
    if plan.leaky:
        gamma, grads, grads_out = of_readout(chunk, older, found, fresh, carry, grads, grads_out)
    first = len(found) - len(chunk.targets)

    def after(l, q, local):
        """S_q^l, component by component, for each parameter leaf."""
        d = len(unitwise.floats(chunk.path.ran[plan.nodes[q].layer].path.c_K))
        leaves: list[list] = [[None] * d for _ in fresh[l]]
        for k, target in enumerate(chunk.targets):
            if target.q != q or target.layer != (l if local else None):
                continue
            paths = older.reach(found[first + k].dc_0, l)
            for leaf, path, new in zip(leaves, paths, fresh[l]):
                x = total(path, new.get(first + k))
                for z, part in zip(target.components, split(x, len(target.components), local)):
                    leaf[z] = part
        return leaves

    def trees(l, which, local, was):
        (cell, p), c = chunk.layer(l), by_layer(chunk.spec.network, carry.state.c)
        one = narrow(plan, chunk.spec, c[l], l)

        def tree(q, old):
            c_q = c[plan.nodes[q].layer]
            like = tr.unpack(cell, p, c_q, old, one if local else ())
            new = [
                tuple(fitted(x, S) for x, S in zip(leaf, of))
                for leaf, of in zip(after(l, q, local), like)
            ]
            return tr.pack(p, c_q, new)

        return tuple(tree(*each) for each in zip(which, was))

    epsilon = tuple(trees(l, plan.local[l], True, carry.epsilon[l]) for l in layers)
    alpha = tuple(trees(l, plan.ends[l], False, carry.alpha[l]) for l in layers)
    return carry._replace(epsilon=epsilon, alpha=alpha, gamma=gamma), grads, grads_out


def split(x: Maybe, n: int, local: bool) -> list[Maybe]:
    """Seeds [B, n, ...] or, of all units, [B, n · units, ...] -> one array each."""
    if not local:
        return maybe.split(x, n, 1)
    at = lambda k: jax.tree.map(lambda y: y[:, k], x)
    return [at(k) for k in range(n)]


def of_readout(
    chunk: Chunk,
    older: Older,
    found: list[Found],
    fresh: list,
    carry: PathsCarry,
    grads: list,
    grads_out: list,
) -> tuple[Gamma, list, list]:
    """γ after the chunk, and the gradients with what reaches them through y⁰."""
    plan, wide, (final,) = chunk.plan, chunk.wide, chunk.final
    dL_dy_0, dy_dy = chunk.back.dc_0[0], PerUnit(((final.dc_0[0],),))
    y, was = carry.state.y, carry.gamma.readout
    own = tr.unpack(wide.cell, wide.params, y, was, jac.shared_positions(wide.cell, y))
    by_y = (Covector((dL_dy_0,)) @ Local(tuple(own))).leaves
    grads_out = add(grads_out, tied(wide.cell, wide.params, by_y))
    lines = wide.lines(chunk.path)
    new = [row[0] for row in products.sources(wide.cell, wide.params, [final], lines)]
    old = (dy_dy @ Local(tuple(own))).leaves
    own = [(fitted(total(*S, x), like),) for S, x, (like,) in zip(old, new, own)]
    cell, grads = [], list(grads)
    for l, g in enumerate(carry.gamma.cell):
        if not plan.to_y[l]:
            cell.append(())
            continue
        k = 1 if plan.filtered[l] else 2  # the families of y^K stand after that of the loss
        gammas, paths = jax.tree.leaves(g), older.reach(found[k].dc_0, l)
        L = Signal(dL_dy_0 @ chunk.B_l[l].T) if plan.filtered[l] else Covector((dL_dy_0,))
        held = Ends(tuple((S,) for S in gammas), gammas[0].shape[1])
        grads[l] = add(grads[l], tied(*chunk.layer(l), (L @ held).leaves))
        rows = zip((dy_dy @ held).leaves, paths, fresh[l], gammas)
        after = [fitted(total(*old, x, y.get(k)), S) for old, x, y, S in rows]
        cell.append(jax.tree.structure(g).unflatten(after))
    packed = tr.pack(wide.params, carry.state.y, own)
    return Gamma(packed, tuple(cell)), grads, grads_out
