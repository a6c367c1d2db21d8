"""A chunk of K steps for the rules that keep traces: gradient and new traces, by two sweeps.

K = 1 with traces is the rule's own recursion, as its file writes it. Any other chunk goes through
`adjoint.sweep`: once from the loss (the gradient), and once from the chunk's end (the traces).
All (order, chunk) pairs of one order give the same gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax import adjoint, feedback, recursions, rules
from eprop_jax import jacobians as jac
from eprop_jax import traces as tr
from eprop_jax.adjoint import Path
from eprop_jax.base import Array, Carry, RuleSpec, State


def gradient(recursion: Callable) -> Callable:
    """(spec, params, carry, xs, ys, keep) -> (carry, StepOutput); `recursion` serves K = 1."""

    def of_chunk(spec: RuleSpec, params: dict, carry: Carry, xs: Array, ys: Any, keep: bool):
        chunk = rules.meet(spec, params, carry.state, xs, ys)
        if keep and xs.shape[0] == 1:
            m = recursions.moment(spec, params, chunk)
            carry, grads, grads_out = recursion(spec, params, carry, m)
        else:
            carry, grads, grads_out = by_sweeps(spec, params, carry, chunk, keep)
        run = chunk.run
        state = State(jax.tree.map(lambda c: c[-1], run.c), run.y[-1])
        grads = {
            "cell": grads,
            "readout": jax.tree.structure(params["readout"]).unflatten(grads_out),
        }
        return carry._replace(state=state), rules.finish(spec, params, chunk, grads)

    return of_chunk


def by_sweeps(spec: RuleSpec, params: dict, carry: Carry, chunk: rules.Chunk, keep: bool):
    """The gradient of one chunk, and with `keep` the traces after it."""
    net, run, order = spec.network, chunk.run, spec.order
    p, p_out = params["cell"], params["readout"]
    readout = jac.as_cell(net.readout)
    path = Path.of(run.c_0, run.c, run.a)
    path_out = Path.of(run.y_0, run.y, run.a_out)
    lines = {"w_in": run.x, "w_rec": adjoint.shift(run.h_0, run.h)}
    lines_out = {"w_out": run.h}

    # the read-out: Eq. 30, then dL/dh (Eq. 28) without explicit recurrence
    back = adjoint.sweep(readout, p_out, path_out, 1, chunk.dL_dy[:, None, None])
    grads_out = adjoint.gradient(p_out, back, lines_out)
    dL_dh = back.da[jac.ONE_DRIVE][:, 0, 0] @ feedback.weights(params, spec.feedback).T
    dL_dh = dL_dh if chunk.dL_dh is None else dL_dh + chunk.dL_dh

    # the cell: Eq. 2-4, graded
    s = adjoint.sweep(net.cell, p, path, order, dL_dh[:, None, None], top_only=True)
    grads = adjoint.gradient(p, s, lines)
    if not keep:
        return carry, jax.tree.structure(p).unflatten(grads), grads_out

    # what is older than the chunk enters through the traces
    before = Before.of(spec, params, carry)
    _, to_signal = feedback.signal(params, spec.feedback, recursions.is_filtered(spec))
    dL_dy_0 = back.dc_0[0][0, 0]
    older_out = [tr.scale(dL_dy_0, own[0]).sum(0) for own in before.own]
    older = [recursions.meet(to_signal(dL_dy_0), gamma) for gamma in before.gamma]
    grads = [x + y + z for x, y, z in zip(grads, older, before.meet(s.dc_0, slice(None)))]
    grads_out = [x + y for x, y in zip(grads_out, older_out)]

    carry = advance(spec, params, carry, before, path, path_out, lines, lines_out)
    return carry, jax.tree.structure(p).unflatten(grads), grads_out


class Before(NamedTuple):
    """The traces as the chunk finds them, as lists, one entry a parameter leaf."""

    order: int | None
    local: list[tr.Trace] | None
    """ε: paths without a jump, which end at their own unit"""
    ends: list[list[tr.Trace]]
    """β⁽¹⁾ … β⁽ᵐ⁻¹⁾, or α alone: paths that end at any unit"""
    own: list[tr.Trace]
    gamma: list[Array]

    @staticmethod
    def of(spec: RuleSpec, params: dict, carry: Carry) -> Before:
        def unpack(tree):
            return tr.unpack(params["cell"], carry.state.c, tree)

        ends = [unpack(b) for b in carry.beta] if spec.order else [unpack(carry.alpha)]
        local = unpack(carry.epsilon) if spec.order else None
        return Before(spec.order, local, ends, *recursions.unpack(params, carry))

    def meet(self, dc_0: tuple[Array, ...], seeds: slice) -> list[Array]:
        """Σ over batch and grades of ⟨∂̃c⁰, S⟩, where the grades add up to m − 1 jumps at most."""
        return [x.sum((0, 1)) for x in self.reach(dc_0, seeds, -1)]

    def reach(self, dc_0: tuple[Array, ...], seeds: slice, grade: int) -> list[Array]:
        """What the older paths contribute to each seed, [B, seeds, lines, n] a leaf, when the
        whole path has `grade` jumps (or at most so many, if that is what the co-states hold)."""
        dc_0 = tuple(dc[:, seeds] for dc in dc_0)
        if self.order is None:
            return [adjoint.dense(at(dc_0, 0), alpha) for alpha in self.ends[0]]
        grade = grade % self.order
        out = [adjoint.local(at(dc_0, grade), eps) for eps in self.local]
        for s, beta in enumerate(self.ends, start=1):
            if s <= grade:
                more = [adjoint.dense(at(dc_0, grade - s), b) for b in beta]
                out = [x + y for x, y in zip(out, more)]
        return out


def at(dc: tuple[Array, ...], grade: int) -> tuple[Array, ...]:
    return tuple(x[grade] for x in dc)


def advance(spec, params, carry, before: Before, path, path_out, lines, lines_out) -> Carry:
    """The traces after the chunk: the sweep, started from each part of the final state in turn."""
    net, order = spec.network, spec.order
    p, p_out, c = params["cell"], params["readout"], carry.state.c
    K, batch = path_out.c.shape[:2]
    n, d, dtype = net.cell.n_units, len(jac.floats(c)), path_out.c.dtype

    # ∂y^K/∂(own parameters), and ∂y^K/∂a_k^t for what reaches y^K from the cell
    one = jnp.ones((1, 1, *path_out.c.shape[1:]), dtype)
    nothing = jnp.zeros((K, 1, 1, *path_out.c.shape[1:]), dtype)
    final = adjoint.sweep(jac.as_cell(net.readout), p_out, path_out, 1, nothing, (one,))
    kept = jax.tree.map(lambda x: x[..., :1], final) if net.readout.shared else final
    src_out = adjoint.source(p_out, kept, lines_out)
    own = [
        ((adjoint.local(at(kept.dc_0, 0), old) + new)[:, 0],)
        for old, new in zip(before.own, src_out)
    ]
    spread, _ = feedback.signal(params, spec.feedback, recursions.is_filtered(spec))
    ends = spread.shape[0]
    dy_da = final.da[jac.ONE_DRIVE][:, 0, 0, :, :ends]  # [K, B, ends]
    dy_dh = jnp.einsum("kbe,ej->kebj", dy_da, spread)[:, None]
    dy_dy = final.dc_0[0][0, 0, :, :ends]

    # ε: from each component of c^K at its own unit
    traces = {}
    if order is not None:
        seeds = [jnp.zeros((1, d, batch, n), dtype).at[:, i].set(1) for i in range(d)]
        more = dy_dh if order == 1 else dy_dh[:, :, :0]
        seeds = tuple(jnp.pad(x, ((0, 0), (0, more.shape[2]), (0, 0), (0, 0))) for x in seeds)
        dh = jnp.pad(more, ((0, 0), (0, 0), (d, 0), (0, 0), (0, 0)))
        s = adjoint.sweep(net.cell, p, path, 1, dh, seeds)
        src = adjoint.source(p, s, lines)
        new = [adjoint.local(at(s.dc_0, 0), old) + x for old, x in zip(before.local, src)]
        traces["epsilon"] = tr.pack(p, c, [tuple(x[:, i] for i in range(d)) for x in new])
        from_cell = [x[:, d:] for x in new]

    # β, α: from each component of c^K at every unit r
    if order != 1:
        grades = order or 1
        unit = jnp.eye(n, dtype=dtype)[:, None, :]  # seed r, batch, j
        seeds = tuple(
            jnp.zeros((grades, d * n + ends, batch, n), dtype)
            .at[0, i * n : (i + 1) * n]
            .set(jnp.broadcast_to(unit, (n, batch, n)))
            for i in range(d)
        )
        dh = jnp.pad(dy_dh, ((0, 0), (0, 0), (d * n, 0), (0, 0), (0, 0)))
        s = adjoint.sweep(net.cell, p, path, order, dh, seeds)
        of_c, of_y = slice(0, d * n), slice(d * n, None)

        def after(grade):
            src = adjoint.source(p, s, lines, grade)
            old = before.reach(s.dc_0, of_c, grade)
            new = [x + y[:, of_c] for x, y in zip(old, src)]
            return tr.pack(p, c, [tuple(x[:, i * n : (i + 1) * n] for i in range(d)) for x in new])

        if order is None:
            traces["alpha"] = after(0)
        else:
            traces["beta"] = tuple(after(grade) for grade in range(1, order))
        src = adjoint.source(p, s, lines, grades - 1)
        old = before.reach(s.dc_0, of_y, grades - 1)
        from_cell = [x + y[:, of_y] for x, y in zip(old, src)]

    gamma = [tr.scale_ends(dy_dy, old) + new for old, new in zip(before.gamma, from_cell)]
    return carry._replace(**traces, gamma=recursions.pack(params, carry, own, gamma))
