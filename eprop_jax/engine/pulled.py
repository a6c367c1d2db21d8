"""A function of whole sequences whose VJP is a rule's.

    f(params, xs) = shown(path),  path = follow(params, xs);    VJP: cts -> pull(params, xs, path, cts)

Without this, `jax.grad` would differentiate `follow`, which is BPTT whatever the rule. Where a gradient
is taken inside of a function that is differentiated, the values keep the rule's VJP (`told`), and a
derivative of the gradient is refused (`alone`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import core
from jax.custom_derivatives import SymbolicZero

from eprop_jax.engine.derivative import pure, refused
from eprop_jax.engine.maybe import filled

MADE_WITH = (
    "a value that the layer was made with (a time constant, a threshold): got one by which its results "
    "are being differentiated, wanted a constant: ej.layer has gradients to params and xs"
)

SECOND = (
    "a gradient of ej.layer: got a function of it that is being differentiated, wanted one of the "
    "layer's results alone: it has first derivatives (of a loss of steps, ej.value_and_grad has others)"
)


def by_pull(follow: Callable, shown: Callable, pull: Callable, ready: Callable) -> Callable:
    """(params, xs, steps) -> shown(xs, steps, path).

    `follow(params, xs, steps) -> path`; `pull(params, xs, steps, path, cts) -> (dparams, dxs)`, where
    of `cts` those are None that nothing reaches. `ready(params) -> (cts -> None)` refuses such `cts`
    as a rule has no gradient for; what it needs of the network it finds out at once.

    Raises:
      TypeError: when differentiated by a value that the layer was made with, or twice.
    """

    def call(params, xs, steps):
        given = params, xs, steps
        run, of_run = pure(follow, given)
        refuse = ready(params)
        if not any(isinstance(x, core.Tracer) for x in of_run):
            plain = lambda made_with, *given: follow(*given)
            back = lambda made_with, *given: pull(*given)
            return _pulled(plain, shown, back, refuse)((), *given)
        # Such a value lives no longer than this call: what may need it later is traced now.
        path = jax.eval_shape(follow, *given)
        like = jax.eval_shape(shown, xs, steps, path)
        back, of_back = pure(pull, (*given, path, like))

        def full(made_with, *given):
            *given, cts = given
            return back(made_with[1], *given, filled(cts, like))

        of = lambda made_with, *given: run(made_with[0], *given)
        return _pulled(of, shown, full, refuse)((of_run, of_back), *given)

    return call


def _pulled(follow: Callable, shown: Callable, pull: Callable, refuse: Callable) -> Callable:
    """(made_with, params, xs, steps) -> results."""
    told = jax.custom_vjp(lambda made_with, params, xs, steps, path: shown(xs, steps, path))
    whole = jax.custom_vjp(lambda made_with, *given: shown(*given[1:], follow(made_with, *given)))

    def back(held, cts) -> tuple:
        xs = held[2]
        cts = jax.tree.map(lambda ct: None if isinstance(ct, SymbolicZero) else ct, cts)
        refuse(cts)
        dparams, dxs = jax.tree.map(alone, pull(*held, cts))
        moves = jnp.issubdtype(xs.dtype, jnp.inexact)
        return None, dparams, dxs.astype(xs.dtype) if moves else None, None

    def told_forward(*given):
        held = values(given)
        return told(*held), held

    def whole_forward(*given):
        held = values(given)
        # Who differentiates this too finds the values by `told`, and the gradient `alone`.
        path = follow(*jax.tree.map(jax.lax.stop_gradient, held))
        return told(*held, path), (*held, path)

    told.defvjp(told_forward, lambda held, cts: (*back(held, cts), None), symbolic_zeros=True)
    whole.defvjp(whole_forward, back, symbolic_zeros=True)
    return whole


@jax.custom_jvp
def alone(gradient: Any) -> Any:
    """A gradient, which has no derivative of its own: it is made of the loss's derivatives by the
    results, and theirs would be the rule's again, not those of the numbers that they are."""
    return gradient


@alone.defjvp
def _(gradient, dot):
    return gradient[0], refused(dot[0], SECOND)


def values(given: tuple) -> Any:
    """What came, without what is told of its derivative."""
    if any(x.perturbed for x in jax.tree.leaves(given[0])):
        raise TypeError(MADE_WITH)
    return jax.tree.map(lambda x: x.value, given)
