"""`value_and_grad`: a learning rule where `jax.value_and_grad` of a sequence loss would stand."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax import checks
from eprop_jax.engine import derivative
from eprop_jax.network.types import NO_STEPS, Array, LearningRule, PyTree, StepOutput
from eprop_jax.network.units import compute_dtype
from eprop_jax.run.cost import auto_chunk


class Aux(NamedTuple):
    """What the network did: outputs y [T, *batch, n_out], activity h [T, *batch, n], and the loss of
    each step and example, [T, *batch]."""

    outputs: Array
    activity: Array
    losses: Array


def value_and_grad(
    rule: LearningRule, chunk: int | Literal["auto"] | None = None, has_aux: bool = False
) -> Callable[..., Any]:
    """The rule over a whole sequence, with the return conventions of `jax.value_and_grad`.

    Args:
      rule: a learning rule.
      chunk: None: the whole sequence in one call, without traces (memory grows with T). An int K:
        K steps at a time, with traces carried across (memory does not grow with T); if K does not
        divide T, the last chunk is shorter. "auto": of the parts of T that keep no more than twice
        what the traces take, or 4 MB (for RTRL and orders above 1 once, or 8 MB), the one that
        `ej.cost` predicts to be fastest, from the sizes alone, so that it is the same on every
        machine. The whole sequence where that has room, and for BPTT.
      has_aux: also return the network's outputs.

    Returns:
      f(params, xs, ys, *, mask=None, resets=None) -> (loss, grads), or ((loss, Aux), grads), for xs
      [T, *batch, n_in] and ys any pytree of [T, *batch, ...]. The loss is Σ_t mean_batch loss.
      `grads` is a tree like `params`. `mask` [T, *batch] bool: the steps that count, for the loss
      and for every regulariser. `resets` [T, *batch] bool: examples that start afresh before a step,
      state and traces, so that sequences packed into one row have the sum of their own gradients
      (the window of an activity loss is the chunk all the same). For every rule but `bptt` (whose
      short chunks are truncated) and with no activity loss (whose window is the chunk), the chunk
      changes cost and not the result.

      The loss differentiates by the rule: `jax.grad` of it is `grads`, and to xs it is the rule's own
      Σ_gates w_in ∂̃a, so that it may be a summand of a larger loss, behind an encoder. The derivative
      of Aux, which no rule has, is refused.

    Raises:
      TypeError, ValueError: for chunk < 1; when called, for what does not fit the network.

    >>> import jax, jax.numpy as jnp, eprop_jax as ej
    >>> net = ej.Network(ej.cells.rnn(3, 5), ej.readouts.linear(5, 2))
    >>> f = ej.value_and_grad(ej.eprop(net, ej.losses.squared_error), chunk=4, has_aux=True)
    >>> params, xs, ys = net.init(jax.random.key(0)), jnp.ones((10, 3)), jnp.ones((10, 2))
    >>> (loss, aux), grads = f(params, xs, ys)
    >>> loss.shape, aux.outputs.shape
    ((), (10, 2))
    >>> by_jax = jax.grad(lambda p: f(p, xs, ys)[0][0])(params)
    >>> bool(jnp.allclose(by_jax["cell"]["w_rec"], grads["cell"]["w_rec"]))
    True
    """
    checks.instance("rule", rule, LearningRule, "an ej.LearningRule")
    checks.flag("has_aux", has_aux)
    if isinstance(chunk, str) and chunk != "auto":
        raise ValueError(f"chunk: got {chunk!r}, wanted None, 'auto' or an int >= 1")
    if chunk is not None and not isinstance(chunk, str):
        chunk = checks.size("chunk", chunk)
    of_library = hasattr(rule.whole, "program")
    run = rule.whole if chunk is None and of_library else compiled(rule, chunk, has_aux)

    def f(params, xs, ys, *, mask=None, resets=None):
        return _as_value_and_grad(run(params, xs, ys, mask=mask, resets=resets), has_aux)

    return f


def plain_value_and_grad(rule: LearningRule, chunk: Any = None) -> Callable[..., Any]:
    """`value_and_grad` with its aux, as the program that it is: its derivatives are those of the
    numbers that it computes, as a derivative of a whole training run must be."""
    run = program(rule, chunk, True)
    return lambda params, xs, ys, steps=NO_STEPS: _as_value_and_grad(
        run(params, xs, ys, steps)[0], True
    )


def _as_value_and_grad(out: StepOutput, has_aux: bool) -> Any:
    aux = Aux(out.outputs, out.activity, out.losses)
    return ((out.loss, aux) if has_aux else out.loss), out.grads


@functools.lru_cache(maxsize=64)
def compiled(rule: LearningRule, chunk: Any, has_aux: bool) -> Callable[..., StepOutput]:
    """One compiled function for each rule and chunk, also where `value_and_grad` is called anew."""

    def check(params, xs, ys, steps=NO_STEPS):
        if rule.spec is not None:
            checks.sequence(xs, ys, rule.spec.network.n_in, steps)

    return derivative.whole_by_rule(program(rule, chunk, has_aux), check)


def program(rule: LearningRule, chunk: Any, has_aux: bool) -> Callable:
    """(params, xs, ys, steps) -> (StepOutput, () -> ∂L/∂xs), neither compiled nor differentiated by the
    rule. Without `has_aux` the outputs of chunks are dropped: they grow with T."""
    start, step, whole = derivative.programs(rule)

    def chunked(params, xs, ys, steps, K):
        carry = start(params, xs.shape[1:-1])  # refuses wrong parameters
        # Chunks add up in the compute dtype, also where the parameters are narrower.
        dtype = compute_dtype(params)
        wide = jax.tree.map(lambda p: p.astype(dtype), params)
        total = carry, jnp.zeros((), dtype), jax.tree.map(jnp.zeros_like, wide)

        none: Any = ()
        nothing = Aux(none, none, none)

        def at(total, part):
            carry, loss, grads = total
            carry, out, dL_dxs = step(wide, carry, *part)
            aux = Aux(out.outputs, out.activity, out.losses) if has_aux else nothing
            total = carry, loss + out.loss, jax.tree.map(jnp.add, grads, out.grads)
            return total, (aux, dL_dxs)

        def without(at):
            return lambda total, part: (lambda total, found: (total, found[0]))(*at(total, part))

        (_, loss, grads), aux = scan_parts(without(at), total, (xs, ys, steps), K)
        grads = jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)

        def of_chunks():
            """Truncated BPTT: a chunk's inputs meet the losses of that chunk alone."""

            def own(total, part):
                total, (_, dL_dxs) = at(total, part)
                return total, dL_dxs()

            return scan_parts(own, total, (xs, ys, steps), K)[1]

        def of_sequence():
            """By the adjoint of the whole sequence, which has the gradient of any chunk."""
            return whole(params, xs, ys, steps, window=K)[1]()

        truncated = rule.spec is not None and rule.spec.name == "BPTT"
        dL_dxs = None if whole is None else of_chunks if truncated else of_sequence
        return StepOutput(loss, grads, *aux), dL_dxs

    def run(params, xs, ys, steps=NO_STEPS):
        T, batch = xs.shape[0], xs.shape[1:-1]
        K = auto_chunk(rule, params, batch, T) if chunk == "auto" else chunk
        if whole is not None and (K is None or K >= T):
            return whole(params, xs, ys, steps)
        return chunked(params, xs, ys, steps, K or T)

    return run


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
