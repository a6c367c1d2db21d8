"""A long scan backward in blocks of steps, each summed while it is still in the cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

NUMBERS = 2**18
"""of the widest array of a block: a megabyte of float32, which a core's own cache holds"""


def backward(block: Callable, carry: Any, xs: Any) -> tuple[Any, Any, Any]:
    """`block` (carry, xs [k, ...]) -> (carry, ys [k, ...], sums), over all of xs [K, ...], the last
    block first; sums are added."""
    leaves = jax.tree.leaves(xs)
    K = len(leaves[0])
    k = length(K, max(x.size for x in leaves) // K)
    if k == K:
        return block(carry, xs)
    blocks = jax.tree.map(lambda x: x.reshape(K // k, k, *x.shape[1:]), xs)
    like = jax.eval_shape(block, carry, jax.tree.map(lambda x: x[0], blocks))[2]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)

    def step(at, xs):
        carry, sums = at
        carry, ys, more = block(carry, xs)
        return (carry, jax.tree.map(jnp.add, sums, more)), ys

    (carry, sums), ys = jax.lax.scan(step, (carry, zeros), blocks, reverse=True)
    return carry, jax.tree.map(lambda y: y.reshape(K, *y.shape[2:]), ys), sums


def length(K: int, size: int) -> int:
    """Of a block, in steps of `size` numbers: a divisor of K, or K where it has none that suits."""
    least = max(NUMBERS // max(size, 1), 1)
    suit = [k for k in range(least, 2 * least) if K % k == 0]
    return suit[0] if suit and K > 2 * least else K
