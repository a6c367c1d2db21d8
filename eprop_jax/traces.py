"""What the forward recursions share: a trace is a tree like a layer's parameters, and each of its
leaves is a state, one array a floating component. Inside the library both are lists and tuples.

A trace of parameter w_ij has the shape of its lines: [B, i, j] for weights, [B, j] for a bias or a
per-unit θ_j (its "lines" are absent). A trace that ends at every unit r is [B, r, i, j], [B, r, j].
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax import jacobians as jac
from eprop_jax.base import Array, PyTree

Trace = tuple[Array, ...]
"""One parameter leaf's trace, by component."""


class Source(NamedTuple):
    """Where a parameter leaf enters: ∂c_j^t/∂w_ij = b_j pre_i, and ∂h_j^t/∂w_ij = xi_j (θ only)."""

    pre: Array | None
    """[..., i]; None: 1"""
    b: tuple[Array | None, ...]
    """by component, [..., j]"""
    xi: Array | None


def sources(params: dict, blocks: jac.Blocks, lines: dict[str, Array]) -> list[Source]:
    """One Source a leaf of a layer's parameters, in the leaves' order."""

    def source(path, _):
        line = path[0].key
        if line == "theta":
            name = path[1].key
            return Source(None, tuple(row[name] for row in blocks.Theta), blocks.Xi[name])
        gate = path[1].key if len(path) > 1 else jac.ONE_DRIVE
        return Source(lines.get(line), tuple(row[gate] for row in blocks.B), None)

    return [source(path, leaf) for path, leaf in jax.tree.leaves_with_path(params)]


def direct(source: Source, r: int, like: Array) -> Array:
    """∂c_r^t/∂w_ij: [B, i, j] or [B, j]."""
    if source.b[r] is None:
        return jnp.zeros_like(like)
    return outer(source.pre, source.b[r])


def outer(pre: Array | None, post: Array) -> Array:
    """pre_i post_j."""
    return post if pre is None else pre[..., :, None] * post[..., None, :]


def scale(value: Array | None, S: Array) -> Array | None:
    """value_j S_ij: a block [B, j] times a trace [B, ..., j]. None times anything is None."""
    return None if value is None else value.reshape(_spread(value, S, last=True)) * S


def scale_ends(value: Array | None, S: Array) -> Array | None:
    """value_r S_rij: a block [B, r] times a trace [B, r, ..., j]."""
    return None if value is None else value.reshape(_spread(value, S, last=False)) * S


def _spread(value: Array, S: Array, last: bool) -> tuple[int, ...]:
    ones = (1,) * (S.ndim - 2)
    return (value.shape[0], *ones, value.shape[1]) if last else (*value.shape, *ones)


def total(terms, like: Array) -> Array:
    """Sum of the terms that are not None; zeros if all are."""
    terms = [term for term in terms if term is not None]
    return sum(terms[1:], terms[0]) if terms else jnp.zeros_like(like)


def times(a: Array | None, b: Array) -> Array | None:
    return None if a is None else a * b


# -- trees as users see them, lists as the recursions do -------------------------------------------


def zeros(params: dict, c: PyTree, batch: int, ends: tuple[int, ...] = ()) -> PyTree:
    """A trace of zeros: components [batch, *ends, *parameter shape]."""
    leaves = jax.tree.leaves(params)
    dtype = jac.floats(c)[0].dtype
    d = len(jac.floats(c))
    each = [tuple(jnp.zeros((batch, *ends, *p.shape), dtype) for _ in range(d)) for p in leaves]
    return pack(params, c, each)


def pack(params: dict, c: PyTree, traces: list[Trace]) -> PyTree:
    n, positions = len(jax.tree.leaves(c)), jac.float_positions(c)

    def as_state(trace):
        by_position = dict(zip(positions, trace))
        return jax.tree.structure(c).unflatten([by_position.get(i, ()) for i in range(n)])

    return jax.tree.structure(params).unflatten([as_state(trace) for trace in traces])


def unpack(params: dict, c: PyTree, tree: PyTree) -> list[Trace]:
    positions = jac.float_positions(c)
    states = jax.tree.structure(params).flatten_up_to(tree)
    flat = [jax.tree.structure(c).flatten_up_to(state) for state in states]
    return [tuple(leaves[i] for i in positions) for leaves in flat]
