"""Jacobians, traces and co-states as small operators, so that an equation of the paper is one line:

    epsilon = d.dc_dc @ S.epsilon + d.dc_dw             Eq. 8
    dc = d.dh_dc.T @ dh + d.dc_dc.T @ dc_tp1            Eq. 3

What is zero whatever the values are is None in here (`maybe`), and nothing outside has to ask for it.
Components (and gates) are arrays of their own: a trailing axis of 2 or 3 costs many times more.

    Local      [B, lines, j] a component: a trace that ends at its own unit: ε, e
    Ends       [B, r, lines, j]: a trace that ends at every unit r: α, β, γ
    Near       [B, m, lines, j]: the same for m units r of each j alone
    CoState    [*lead, B, n]: backward in time, ∂̃c, ∂̃h, ∂̃a
    PerUnit    a Jacobian that stays within a unit, [B, n] a block, or [B, 1] where all are the same
    Drives     from every unit to every other, by synapses
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax.engine.heard import (
    Heard,
    Outer,
    along,
    lines_of,
    outer,
    over_examples,
    scaled,
)
from eprop_jax.engine.maybe import each, minus, some, those, total
from eprop_jax.network.synapses import Synapses, use
from eprop_jax.network.types import Array, Maybe

Parts = tuple[Maybe, ...]
"""by component; None: zero"""


def inner(product: Callable[..., Any], xs: Parts, ys: Parts) -> Maybe:
    """Σ_c of the products x_c y_c, of those c where both are there."""
    return total(*(each(product, x, y) for x, y in zip(xs, ys, strict=True)))


def sums(*leaves: tuple[Parts, ...]) -> tuple[Parts, ...]:
    of_leaf = lambda rows: tuple(total(*x) for x in zip(*rows, strict=True))
    return tuple(map(of_leaf, zip(*leaves, strict=True)))


@functools.partial(jax.tree_util.register_dataclass, data_fields=["leaves"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Local:
    """S_ij of each parameter leaf and component, which ends at unit j: [B, lines, j] (or, the same
    for all units, `Heard`, and of a bias [B, 1])."""

    leaves: tuple[Parts, ...]

    def by(self, f: Callable[[Parts], Parts]) -> Local:
        return Local(tuple(map(f, self.leaves)))

    def scaled(self, block: Array, S: Any) -> Any:
        """block_j S_ij"""
        return outer(block, S)

    def lines(self) -> tuple[Parts, ...]:
        """The leaves, line by line."""
        return tuple(tuple(map(lines_of, leaf)) for leaf in self.leaves)

    def jumped(self, jump: Jump) -> Ends:
        """J_rj S_ij: on to every unit r."""

        def on(J: Array, S: Any) -> Any:
            if isinstance(S, Outer):
                return Outer(J * S.block[:, None], S.heard)
            S = lines_of(S)[:, None]
            return along(J, S, 2) * S

        return Ends(jump.of(on, self.leaves), jump.n)

    def met(self, x: Array, S: Any) -> Array:
        """Σ_batch x_j S_ij"""
        return S.met(x) if isinstance(S, (Heard, Outer)) else over_examples(x, S)

    def reached(self, x: Array, S: Any) -> Any:
        """x_j S_ij of each example and seed, x [*lead, B, j]: [B, *lead, lines, j]"""
        lead = range(1, x.ndim - 1)
        S = jax.tree.map(lambda y: jnp.expand_dims(y, lead), S)
        return scaled(jnp.moveaxis(x, -2, 0), S, x.ndim - 1)

    def at_every_unit(self, n: int) -> Ends:
        """The same as `Ends`: zero where r is not j."""
        at = lambda S: along(jnp.eye(n, dtype=S.dtype), S[0, None], 1)[None] * S[:, None]
        return Ends(tuple(tuple(each(at, S) for S in leaf) for leaf in self.lines()), n)

    def __add__(self, other: Any) -> Any:
        if not isinstance(other, Local):
            return other + self
        return Local(sums(self.leaves, other.leaves))


@functools.partial(jax.tree_util.register_dataclass, data_fields=["leaves"], meta_fields=["n"])
@dataclasses.dataclass(frozen=True)
class Ends:
    """S_ij^r of each parameter leaf and component, which ends at every unit r: [B, r, lines, j]."""

    leaves: tuple[Parts, ...]
    n: int
    """units r"""

    def by(self, f: Callable[[Parts], Parts]) -> Ends:
        return Ends(tuple(map(f, self.leaves)), self.n)

    def scaled(self, block: Array, S: Any) -> Any:
        """block_r S_ij^r"""
        return S.scaled(block) if isinstance(S, Outer) else along(block, S, 2) * S

    def jumped(self, jump: Jump) -> Ends:
        """Σ_k J_rk S_ij^k: on to every unit r."""
        on = lambda J, S: jnp.einsum("brk,bk...->br...", J, S)
        return Ends(jump.of(on, self.leaves), jump.n)

    def met(self, x: Array, S: Any) -> Array:
        """Σ_batch Σ_r x_r S_ij^r"""
        return S.met(x) if isinstance(S, Outer) else jnp.einsum("br,br...->...", x, S)

    def reached(self, x: Array, S: Array) -> Array:
        """Σ_r x_r S_ij^r of each example and seed, x [*lead, B, r]: [B, *lead, lines, j]"""
        out = jnp.einsum("sbr,br...->bs...", x.reshape(-1, *x.shape[-2:]), S)
        return out.reshape(S.shape[0], *x.shape[:-2], *S.shape[2:])

    def __add__(self, other: Local | Ends) -> Ends:
        other = other.at_every_unit(self.n) if isinstance(other, Local) else other
        return Ends(sums(self.leaves, other.leaves), self.n)


@dataclasses.dataclass(frozen=True, eq=False)
class Places:
    """Of each unit j some units r, itself first: `at` [m, j], where `there` [m, j]."""

    at: np.ndarray
    there: np.ndarray


@functools.partial(jax.tree_util.register_dataclass, data_fields=["leaves"], meta_fields=["places"])
@dataclasses.dataclass(frozen=True)
class Near:
    """S_ij^r of each parameter leaf and component, for the units r at j's places: [B, m, lines, j]."""

    leaves: tuple[Parts, ...]
    places: Places

    def by(self, f: Callable[[Parts], Parts]) -> Near:
        return Near(tuple(map(f, self.leaves)), self.places)

    def here(self, x: Array, S: Array) -> Array:
        """x [B, r] at the places of S: [B, m, (1,) j]"""
        wide = jnp.broadcast_to(x, (x.shape[0], self.places.at.shape[1]))
        return along(wide[:, self.places.at], S, 2)

    def scaled(self, block: Array, S: Array) -> Array:
        """block_r S_ij^r"""
        return self.here(block, S) * S

    def jumped(self, jump: Jump) -> Any:
        """Gate by gate: of the n × n weights a list's places are few."""
        return jump.dc_da @ (jump.da_dh @ self)

    def spread(self, s: Synapses, w: Array) -> Near:
        """Σ_k w_kr S_ij^k: on to every unit r that is at a place."""
        at, there, w = self.places.at, self.places.there, use.matrix(s, w)
        near = jnp.where(there[:, None] & there[None], w[at[:, None], at[None]], 0)
        on = lambda S: jnp.einsum("krj,bk...j->br...j", near, S)
        return self.by(lambda leaf: tuple(each(on, S) for S in leaf))

    def out(self, s: Synapses, w: Array) -> Ends:
        """Σ_k w_ko S_ij^k: out of the layer, to every o."""
        w = use.matrix(s, w)
        near = jnp.where(self.places.there[..., None], w[self.places.at], 0)
        on = lambda S: jnp.einsum("kjo,bk...j->bo...j", near, S)
        return Ends(tuple(tuple(each(on, S) for S in leaf) for leaf in self.leaves), w.shape[1])

    def met(self, x: Array, S: Array) -> Array:
        """Σ_batch Σ_r x_r S_ij^r"""
        x = self.here(x, S)
        flat = lambda y: y.reshape(-1, *y.shape[2:])
        return over_examples(flat(x.reshape(*x.shape[:2], x.shape[-1])), flat(S))

    def __add__(self, other: Local | Near) -> Near:
        if isinstance(other, Near):
            return Near(sums(self.leaves, other.leaves), self.places)
        size = self.places.at.shape[0]
        itself = lambda S: jnp.pad(S[:, None], ((0, 0), (0, size - 1), *((0, 0),) * (S.ndim - 1)))
        first = tuple(tuple(each(itself, S) for S in leaf) for leaf in other.lines())
        return Near(sums(self.leaves, first), self.places)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["parts"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class CoState:
    """∂̃ of each component (or gate), of any number of seeds at once: [*lead, B, n]."""

    parts: Parts

    def by(self, f: Callable[[Parts], Parts]) -> CoState:
        return CoState(f(self.parts))

    def scaled(self, block: Array, x: Array) -> Array:
        return along(block, x, 0) * x

    def __add__(self, other: CoState) -> CoState:
        return CoState(tuple(total(*x) for x in zip(self.parts, other.parts, strict=True)))

    def __sub__(self, other: CoState) -> CoState:
        return CoState(tuple(minus(*x) for x in zip(self.parts, other.parts, strict=True)))

    def __matmul__(self, S: Local | Ends) -> PerExample:
        """⟨∂̃, S⟩ of each example and seed: [B, *lead, lines, j]."""
        return PerExample(tuple(inner(S.reached, self.parts, leaf) for leaf in S.leaves))


@dataclasses.dataclass(frozen=True)
class PerUnit:
    """A Jacobian whose blocks lead from a unit to itself, row by row."""

    rows: tuple[Parts, ...]

    def __matmul__(self, x: Any) -> Any:
        if isinstance(x, Drives):
            return Jump(self, x)

        return x.by(lambda parts: tuple(inner(x.scaled, row, parts) for row in self.rows))

    @property
    def T(self) -> PerUnit:
        return PerUnit(tuple(zip(*self.rows)))


@dataclasses.dataclass(frozen=True)
class Drives:
    """∂a^t/∂h, a gate: the weights of synapses, where the gate hears something."""

    w: Parts
    synapses: Synapses
    out: bool = False
    """do they lead out of the layer?"""

    def __matmul__(self, x: Any) -> Any:
        """Of a trace with one component, h: one a gate."""
        on = x.out if self.out else x.spread
        found = [each(lambda w: on(self.synapses, w), w) for w in self.w]
        of = lambda k: tuple(each(lambda y: y.leaves[k][0], y) for y in found)
        leaves = tuple(map(of, range(len(x.leaves))))
        first = some(found)[:1]
        return dataclasses.replace(first[0], leaves=leaves) if first else Ends(leaves, 0)

    @property
    def T(self) -> Hears:
        gates = those(dict(enumerate(self.w)))
        return Hears(frozenset(gates), use.back(self.synapses, gates))

    @property
    def own(self) -> PerUnit:
        """w_jj, a column a gate: from each unit to itself alone."""
        return PerUnit((tuple(each(lambda w: use.own(self.synapses, w), w) for w in self.w),))


@dataclasses.dataclass(frozen=True)
class Hears:
    """`Drives`, transposed: Σ_gates Σ_r w_kr ∂̃a_r, what arrives at that which is heard."""

    gates: frozenset[int]
    back: Callable[[dict], Array]

    def __matmul__(self, da: CoState) -> CoState:
        heard = {g: x for g, x in those(dict(enumerate(da.parts))).items() if g in self.gates}
        return CoState((self.back(heard) if heard else None,))


@dataclasses.dataclass(frozen=True)
class Jump:
    """∂c_r^t/∂h_k^{t-1} = B_r w_kr: from every unit to every other."""

    dc_da: PerUnit
    da_dh: Drives

    def __matmul__(self, x: Any) -> Any:
        """Of a trace with one component, h."""
        return x.jumped(self)

    @property
    def n(self) -> int:
        """units r"""
        return self.da_dh.synapses.n_post

    @property
    def J(self) -> Parts:
        """By component, of all gates together: [B, r, k]."""
        w_T = tuple(each(lambda w: use.matrix(self.da_dh.synapses, w).T, w) for w in self.da_dh.w)
        product = lambda b, w: b[..., None] * w[None]
        return tuple(inner(product, row, w_T) for row in self.dc_da.rows)

    def of(self, on: Callable[[Array, Any], Any], leaves: tuple[Parts, ...]) -> tuple[Parts, ...]:
        J = self.J
        return tuple(tuple(each(on, J_c, S) for J_c in J) for (S,) in leaves)

    @property
    def T(self) -> Back:
        return Back(self)

    @property
    def own(self) -> PerUnit:
        """∂c_j^t/∂h_j^{t-1} = B_j w_jj: from each unit to itself alone."""
        (w_jj,) = self.da_dh.own.rows
        product = lambda b, w: b * along(w, b, 0)
        return PerUnit(tuple((inner(product, row, w_jj),) for row in self.dc_da.rows))


@dataclasses.dataclass(frozen=True)
class Back:
    """A `Jump`, transposed: Σ_r w_kr B_r ∂̃c_r, what arrives at h_k."""

    jump: Jump

    def __matmul__(self, x: CoState) -> CoState:
        return self.jump.da_dh.T @ (self.jump.dc_da.T @ x)


@dataclasses.dataclass(frozen=True)
class PerExample:
    """One array a parameter leaf and example (or, the same for all units, `Heard`): [B, lines, j]."""

    leaves: Parts

    def lines(self) -> PerExample:
        return PerExample(tuple(map(lines_of, self.leaves)))

    def __add__(self, other: PerExample) -> PerExample:
        return PerExample(tuple(total(*x) for x in zip(self.leaves, other.leaves, strict=True)))

    def summed(self) -> Gradient:
        """Σ_batch, since ∂L has the 1/B of the mean in it."""
        of_leaf = lambda x: over_examples(jnp.ones((x.shape[0], 1), x.dtype), x)
        return Gradient(tuple(each(of_leaf, x) for x in self.lines().leaves))


@dataclasses.dataclass(frozen=True)
class Gradient:
    """One array a parameter leaf."""

    leaves: Parts

    def __add__(self, other: Gradient) -> Gradient:
        return Gradient(tuple(total(*x) for x in zip(self.leaves, other.leaves, strict=True)))


@dataclasses.dataclass(frozen=True)
class Covector:
    """∂L/∂(units), by component: [B, n]."""

    parts: Parts

    def __matmul__(self, S: Local | Ends | Near) -> Gradient:
        """Σ_batch ⟨∂L/∂·, S⟩."""
        return Gradient(tuple(inner(S.met, self.parts, leaf) for leaf in S.leaves))


@dataclasses.dataclass(frozen=True)
class Signal:
    """L_j (Eq. 40), where one trace serves all read-out units: [B, j]."""

    L: Maybe

    def __matmul__(self, gamma: Ends) -> Gradient:
        """Σ_batch L_j γ_ij"""
        return Gradient(tuple(each(self.met, S) for (S,) in gamma.leaves))

    def met(self, S: Any) -> Maybe:
        if isinstance(S, Outer):
            return each(Outer(S.block[:, 0], S.heard).met, self.L)
        return each(lambda L: over_examples(L, S[:, 0]), self.L)
