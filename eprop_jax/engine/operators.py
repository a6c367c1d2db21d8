"""Jacobians, traces and co-states as small operators, so that an equation of the paper is one line:

    epsilon = d.dc_dc @ S.epsilon + d.dc_dw             Eq. 8
    dc = d.dh_dc.T @ dh + d.dc_dc.T @ dc_tp1            Eq. 3

What is zero whatever the values are is None in here, and nothing outside has to ask for it. Components
(and gates) are arrays of their own: a trailing axis of 2 or 3 costs many times more.

    Local      [B, lines, j] a component: a trace that ends at its own unit: ε, e
    Ends       [B, r, lines, j]: a trace that ends at every unit r: α, β, γ
    CoState    [*lead, B, n]: backward in time, ∂̃c, ∂̃h, ∂̃a
    PerUnit    a Jacobian that stays within a unit, [B, n] a block, or [B, 1] where all are the same
    Synapses   from every unit to every other, w [pre, post] a gate
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eprop_jax.network.types import Array, Maybe

Parts = tuple[Maybe, ...]
"""by component; None: zero"""


def total(*terms: Maybe) -> Maybe:
    """The sum of the terms that are not None; None if all are."""
    kept = [term for term in terms if term is not None]
    return sum(kept[1:], kept[0]) if kept else None


def along(block: Array, x: Array, at: int) -> Array:
    """A block [B, n] with axes of 1 put in before its axis `at`, so that it broadcasts against x."""
    return jnp.expand_dims(block, range(at, at + x.ndim - block.ndim))


def each(f: Callable[[Array], Array], x: Maybe) -> Maybe:
    return None if x is None else f(x)


def sums(*leaves: tuple[Parts, ...]) -> tuple[Parts, ...]:
    of_leaf = lambda rows: tuple(total(*x) for x in zip(*rows, strict=True))
    return tuple(map(of_leaf, zip(*leaves, strict=True)))


@functools.partial(jax.tree_util.register_dataclass, data_fields=["leaves"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Local:
    """S_ij of each parameter leaf and component, which ends at unit j: [B, lines, j] (or, the same
    for all units, [B, lines, 1])."""

    leaves: tuple[Parts, ...]

    def by(self, f: Callable[[Parts], Parts]) -> Local:
        return Local(tuple(map(f, self.leaves)))

    def scaled(self, block: Array, S: Array) -> Array:
        """block_j S_ij"""
        return along(block, S, 1) * S

    def spread(self, w: Array) -> Ends:
        """w_jr S_ij: on to every unit r."""
        on = lambda S: along(w.T, S[0, None], 1)[None] * S[:, None]
        return Ends(tuple(tuple(each(on, S) for S in leaf) for leaf in self.leaves), w.shape[1])

    def met(self, x: Array, S: Array) -> Array:
        """Σ_batch x_j S_ij"""
        return self.scaled(x, S).sum(0)

    def at_every_unit(self, n: int) -> Ends:
        """The same as `Ends`: zero where r is not j."""
        at = lambda S: along(jnp.eye(n, dtype=S.dtype), S[0, None], 1)[None] * S[:, None]
        return Ends(tuple(tuple(each(at, S) for S in leaf) for leaf in self.leaves), n)

    def __add__(self, other: Any) -> Any:
        if isinstance(other, Ends):
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

    def scaled(self, block: Array, S: Array) -> Array:
        """block_r S_ij^r"""
        return along(block, S, 2) * S

    def spread(self, w: Array) -> Ends:
        """Σ_k w_kr S_ij^k: on to every unit r."""
        on = lambda S: jnp.einsum("kr,bk...->br...", w, S)
        return Ends(tuple(tuple(each(on, S) for S in leaf) for leaf in self.leaves), w.shape[1])

    def met(self, x: Array, S: Array) -> Array:
        """Σ_batch Σ_r x_r S_ij^r"""
        return jnp.einsum("br,br...->...", x, S)

    def __add__(self, other: Local | Ends) -> Ends:
        other = other.at_every_unit(self.n) if isinstance(other, Local) else other
        return Ends(sums(self.leaves, other.leaves), self.n)


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


@dataclasses.dataclass(frozen=True)
class PerUnit:
    """A Jacobian whose blocks lead from a unit to itself, row by row."""

    rows: tuple[Parts, ...]

    def __matmul__(self, x: Any) -> Any:
        if isinstance(x, Synapses):
            return Jump(self, x)

        def product(parts: Parts) -> Parts:
            terms = lambda row: (
                None if block is None or part is None else x.scaled(block, part)
                for block, part in zip(row, parts, strict=True)
            )
            return tuple(total(*terms(row)) for row in self.rows)

        return x.by(product)

    @property
    def T(self) -> PerUnit:
        return PerUnit(tuple(zip(*self.rows)))


@dataclasses.dataclass(frozen=True)
class Synapses:
    """∂a^t/∂h, a gate: w [pre, post]; None: this gate hears nothing."""

    w: Parts

    def __matmul__(self, x: Local | Ends) -> Ends:
        """Of a trace with one component, h: one a gate."""
        found = [None if w is None else x.spread(w).leaves for w in self.w]
        n = next((w.shape[1] for w in self.w if w is not None), 0)
        of = lambda k: tuple(None if leaves is None else leaves[k][0] for leaves in found)
        return Ends(tuple(map(of, range(len(x.leaves)))), n)


@dataclasses.dataclass(frozen=True)
class Jump:
    """∂c_r^t/∂h_k^{t-1} = B_r w_kr: from every unit to every other."""

    dc_da: PerUnit
    da_dh: Synapses

    def __matmul__(self, x: Local | Ends) -> Ends:
        return self.dc_da @ (self.da_dh @ x)

    @property
    def own(self) -> PerUnit:
        """∂c_j^t/∂h_j^{t-1} = B_j w_jj: from each unit to itself alone."""
        w_jj = [each(jnp.diagonal, w) for w in self.da_dh.w]
        terms = lambda row: (
            None if b is None or w is None else b * along(w, b, 0) for b, w in zip(row, w_jj)
        )
        return PerUnit(tuple((total(*terms(row)),) for row in self.dc_da.rows))


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

    def __matmul__(self, S: Local | Ends) -> Gradient:
        """Σ_batch ⟨∂L/∂·, S⟩."""
        met = lambda leaf: (
            None if x is None or s is None else S.met(x, s)
            for x, s in zip(self.parts, leaf, strict=True)
        )
        return Gradient(tuple(total(*met(leaf)) for leaf in S.leaves))


@dataclasses.dataclass(frozen=True)
class Signal:
    """L_j (Eq. 40), where one trace serves all read-out units: [B, j]."""

    L: Array

    def __matmul__(self, gamma: Ends) -> Gradient:
        """Σ_batch L_j γ_ij"""
        met = lambda S: jnp.einsum("bj,b...j->...j", self.L, S[:, 0])
        return Gradient(tuple(each(met, S) for (S,) in gamma.leaves))
