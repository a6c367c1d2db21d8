"""`value_and_grad`: a learning rule where `jax.value_and_grad` of a sequence loss would stand."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax import checks
from eprop_jax.base import Array, LearningRule, PyTree
from eprop_jax.cost import auto_chunk
from eprop_jax.units import compute_dtype


class Aux(NamedTuple):
    """What the network did: outputs y [T, *batch, n_out], activity h [T, *batch, n], and the loss of
    each step and example, [T, *batch]."""

    outputs: Array
    activity: Array
    losses: Array


def value_and_grad(
    rule: LearningRule, chunk: int | Literal["auto"] | None = None, has_aux: bool = False
) -> Callable[[PyTree, Array, PyTree], Any]:
    """The rule over a whole sequence, with the return conventions of `jax.value_and_grad`.

    Args:
      rule: a learning rule.
      chunk: None: the whole sequence in one call, without traces (memory grows with T). An int K:
        K steps at a time, with traces carried across (memory does not grow with T); if K does not
        divide T, the last chunk is shorter. "auto": K from the sizes (`ej.cost`). For e-prop at
        most 128 steps; 256 where the traces take more than 4 MB (they are passed over once a chunk,
        which costs more out of cache); 512 where even such a chunk takes less than 3 MB. For RTRL
        and orders above 1 at most 2·n, where a step costs O(n³). For BPTT the whole sequence.
      has_aux: also return the network's outputs.

    Returns:
      f(params, xs, ys) -> (loss, grads), or ((loss, Aux), grads), for xs [T, *batch, n_in] and ys
      any pytree of [T, *batch, ...]. The loss is Σ_t mean_batch loss. `grads` is a tree like
      `params`. For every rule but `bptt` (whose short chunks are truncated) and with no activity
      loss (whose window is the chunk), the chunk changes cost and not the result.

    Raises:
      TypeError, ValueError: for chunk < 1; when called, for what does not fit the network.

    >>> import jax, jax.numpy as jnp, eprop_jax as ej
    >>> net = ej.Network(ej.cells.rnn(3, 5), ej.readouts.linear(5, 2))
    >>> f = ej.value_and_grad(ej.eprop(net, ej.losses.squared_error), chunk=4, has_aux=True)
    >>> (loss, aux), grads = f(net.init(jax.random.key(0)), jnp.ones((10, 3)), jnp.ones((10, 2)))
    >>> loss.shape, aux.outputs.shape
    ((), (10, 2))
    """
    checks.instance("rule", rule, LearningRule, "an ej.LearningRule")
    checks.flag("has_aux", has_aux)
    if isinstance(chunk, str) and chunk != "auto":
        raise ValueError(f"chunk: got {chunk!r}, wanted None, 'auto' or an int >= 1")
    if chunk is not None and not isinstance(chunk, str):
        chunk = checks.size("chunk", chunk)

    def whole(params, xs, ys):
        out = rule.whole(params, xs, ys)
        aux = Aux(out.outputs, out.activity, out.losses)
        return ((out.loss, aux) if has_aux else out.loss), out.grads

    @functools.partial(jax.jit, static_argnames="K")
    def chunked(params, xs, ys, K):
        # Chunks add up in the compute dtype, also where the parameters are narrower.
        carry = rule.init(params, xs.shape[1:-1])
        wide = jax.tree.map(lambda p: p.astype(compute_dtype(params)), params)
        loss = jnp.zeros((), compute_dtype(params))
        total = (carry, loss, jax.tree.map(jnp.zeros_like, wide))

        def step(total, part):
            carry, loss, grads = total
            carry, out = rule.step(wide, carry, *part)
            aux = Aux(out.outputs, out.activity, out.losses) if has_aux else ()
            return (carry, loss + out.loss, jax.tree.map(jnp.add, grads, out.grads)), aux

        (_, loss, grads), aux = scan_parts(step, total, (xs, ys), K)
        grads = jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)
        return ((loss, aux) if has_aux else loss), grads

    def f(params, xs, ys):
        if rule.spec is not None:  # refuse before tracing
            checks.sequence(xs, ys, rule.spec.network.cell.n_in)
        T, batch = xs.shape[0], xs.shape[1:-1]
        K = auto_chunk(rule, params, batch, T) if chunk == "auto" else chunk
        if rule.whole is not None and (K is None or K >= T):
            return whole(params, xs, ys)
        return chunked(params, xs, ys, K or T)

    return f


def scan_parts(step: Callable, carry: PyTree, sequence: PyTree, size: int) -> tuple[PyTree, PyTree]:
    """`lax.scan` over parts of `size` steps, and a shorter last one: (carry, outputs joined in
    time). Parts are sliced where they lie, so that memory does not grow with T."""
    T = jax.tree.leaves(sequence)[0].shape[0]
    size = min(size, T)
    full = T // size * size

    def at(state, _):
        carry, start = state
        part = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, size), sequence)
        carry, out = step(carry, part)
        return (carry, start + size), out

    (carry, _), out = jax.lax.scan(at, (carry, jnp.int32(0)), length=full // size)
    out = jax.tree.map(lambda x: x.reshape(full, *x.shape[2:]), out)
    if full < T:
        carry, rest = step(carry, jax.tree.map(lambda x: x[full:], sequence))
        out = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), out, rest)
    return carry, out
