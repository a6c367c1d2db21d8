"""What traces hold by the unit that is heard, not by the synapse, and sums over examples.

A component whose recursion is the same for all units has one number for each unit that is heard
(Eq. 39's idea). Times a block by unit it is two factors, which meet a covector in one product of
matrices: lines are made only where something needs them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eprop_jax.network.types import Array


def along(block: Array, x: Array, at: int) -> Array:
    """A block [B, n] with axes of 1 put in before its axis `at`, so that it broadcasts against x."""
    return jnp.expand_dims(block, range(at, at + x.ndim - block.ndim))


@functools.partial(jax.tree_util.register_dataclass, data_fields=["x"], meta_fields=["view"])
@dataclasses.dataclass(frozen=True)
class Heard:
    """S_ij that is the same for all units that hear unit i, held once: x [B, i, 1]. Lists and grids
    have many lines a unit that is heard; they are gathered only where S meets what differs by j."""

    x: Array
    view: Callable[[Array], Array]

    @property
    def seen(self) -> Array:
        """[B, lines, j]"""
        return self.view(self.x[..., 0])

    def met(self, x: Array) -> Array:
        """Σ_b x_bj S_bij"""
        seen = self.seen
        return seen[..., 0].T @ x if seen.shape[-1] == 1 else over_examples(x, seen)

    def __add__(self, other: Any) -> Any:
        same = isinstance(other, Heard)
        return Heard(self.x + other.x, self.view) if same else self.seen + lines_of(other)

    __radd__ = __add__


@functools.partial(jax.tree_util.register_dataclass, data_fields=["block", "heard"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Outer:
    """block_j S_ij of an S_ij that is the same for all units that hear unit i: its two factors, until
    something needs the lines. block [B, j], or of a trace that ends at several units r [B, r, j]."""

    block: Array
    heard: Heard

    @property
    def lines(self) -> Array:
        """[B, (r,) lines, j]"""
        seen = self.heard.seen
        seen = seen if self.block.ndim == 2 else seen[:, None]
        return self.block[..., None, :] * seen

    def scaled(self, block: Array) -> Outer:
        """By a block [B, j]; or, at several units, [B, r]."""
        block = block if self.block.ndim == 2 else block[..., None]
        return Outer(block * self.block, self.heard)

    def met(self, x: Array) -> Array:
        """Σ_b x_bj block_bj S_bij (and over r, of x_br): a product of two matrices where all units have
        the same lines."""
        x = x * self.block if self.block.ndim == 2 else jnp.sum(x[..., None] * self.block, 1)
        return self.heard.met(x)

    def __add__(self, other: Any) -> Array:
        return self.lines + lines_of(other)

    __radd__ = __add__


def over_examples(x: Array, S: Array) -> Array:
    """Σ_b x_bj S_b…j, either the same for all j where it is [B, …, 1]. On CPU, where XLA sums over a
    leading axis slowly, large ones are added example by example."""
    n = max(x.shape[-1], S.shape[-1])
    of_example = (*S.shape[1:-1], n)
    if len(S) == 1:
        return along(x[0], S[0], 0) * S[0]

    def one_by_one(x, S):
        add = lambda total, at: (total + along(at[0], at[1], 0) * at[1], None)
        return jax.lax.scan(add, jnp.zeros(of_example, S.dtype), (x, S))[0]

    def at_once(x, S):
        x, S = (jnp.broadcast_to(y, (*y.shape[:-1], n)) for y in (x, S))
        return jnp.einsum("bj,b...j->...j", x, S)

    if math.prod(of_example) <= 1024:
        return at_once(x, S)
    return jax.lax.platform_dependent(x, S, cpu=one_by_one, default=at_once)


def lines_of(S: Any) -> Any:
    """S_ij line by line, however it is held."""
    if isinstance(S, Outer):
        return S.lines
    return S.seen if isinstance(S, Heard) else S


def outer(block: Array, S: Any) -> Any:
    """block_j S_ij, the block [B, j], or [B, 1]: the lines only where S has them already."""
    if isinstance(S, Outer):
        return S.scaled(block)
    by_unit = isinstance(S, Heard) and block.shape[-1] > 1
    return Outer(block, S) if by_unit else scaled(block, S)


def scaled(block: Array, S: Any, at: int = 1) -> Any:
    """block_j S_ij, the block [B, j], or [B, 1] where it is the same for all units."""
    if isinstance(S, Heard) and block.shape[-1] == 1:
        return Heard(along(block, S.x, at) * S.x, S.view)
    S = lines_of(S)
    return along(block, S, at) * S
