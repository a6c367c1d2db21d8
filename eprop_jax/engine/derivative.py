"""The loss that a rule returns, differentiated by the rule.

    dL = ⟨g, dw⟩ + ⟨∂L/∂x, dx⟩ + ⟨∂L/∂y*, dy*⟩

g is the rule's gradient, and ∂L/∂x = Σ_gates w_in ∂̃a its gradient to the inputs, over the same paths; a
target y* enters the loss alone, so that its part is the same for all rules. Without this, `jax.grad`
would differentiate the network that the loss was computed with, which is BPTT whatever the rule. As g
stays a function of w, the second derivative is that of the rule's own gradient field.

What else a rule returns (outputs, activity, a carry) it has no gradient of: to differentiate that is
refused.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import core
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

from eprop_jax import checks
from eprop_jax.engine.maybe import those
from eprop_jax.network.types import Array, LearningRule, PyTree, State, StepOutput, Steps


class Told(NamedTuple):
    """What the program of a rule finds."""

    loss: Array
    grads: PyTree
    rest: PyTree
    """what no rule differentiates"""


Program = Callable[..., tuple[Told, Any]]
"""(params, xs, ys, constants, carried) -> (Told, dL_dxs): a function () -> ∂L/∂xs, or None where the
rule has none. By `constants` nothing may be differentiated; what is `carried` is a step's before."""


def by_rule(program: Program) -> Callable[..., Told]:
    """(params, xs, ys, constants, carried) -> Told, whose loss differentiates by the rule.

    Raises:
      TypeError: when differentiated by xs where the rule has no gradient to them, by constants, by
        what is carried alone, by a value that the rule was made with (a time constant, a learning
        rate), or in reverse where `rest` is differentiated (forward, its tangents are NaN).
    """

    def without_inputs(*given):
        return program(*given)[0], None

    def with_inputs(*given):
        out, dL_dxs = program(*given)
        return out, None if dL_dxs is None else dL_dxs()

    def call(*given):
        run, made_with = pure(without_inputs, given)
        later = lambda: _differentiable(*_bound(*pure(with_inputs, given)), True)
        if any(isinstance(x, core.Tracer) for x in made_with):
            # Such a value lives no longer than this call: what may need it later is traced now.
            run, made_with = pure(with_inputs, given)
            later = lambda: _differentiable(run, None, True)
        return _differentiable(run, later, False)(made_with, *given)[0]

    return call


def _differentiable(run: Callable, with_inputs: Callable | None, gives_inputs: bool) -> Callable:
    """(made_with, *given) -> (Told, ∂L/∂xs or None), of the program `run` with these results.
    `with_inputs()`: the same function, with ∂L/∂xs."""

    def chosen(*given):
        out, dL_dxs = run(*given)
        return out, dL_dxs if gives_inputs else None

    told = jax.custom_jvp(chosen)

    @functools.partial(told.defjvp, symbolic_zeros=True)
    def _(given, dots):
        made_with_dot, params_dot, xs_dot, ys_dot, constants_dot, carried_dot = dots
        own = any_moving((params_dot, xs_dot, ys_dot))
        if any_moving(made_with_dot):
            raise TypeError(MADE_WITH)
        if any_moving(constants_dot) or (any_moving(carried_dot) and not own):
            raise TypeError(IN_CARRY)
        by_xs = any_moving(xs_dot)
        out, dL_dxs = (with_inputs() if by_xs and with_inputs else told)(*given)
        if by_xs and dL_dxs is None:
            raise TypeError(NO_INPUTS)
        loss_dot = inner(out.grads, params_dot, out.loss)
        if by_xs:
            loss_dot += inner(dL_dxs, xs_dot, out.loss)
        if any_moving(ys_dot):
            made_with, params, xs, ys, *others = given
            put_ys = lambda moved: (made_with, params, xs, put(ys, ys_dot, moved), *others)
            loss_dot += jax.jvp(lambda moved: run(*put_ys(moved))[0].loss, *moving(ys, ys_dot))[1]
        # The gradient is differentiated as the program that it is. That is made a checkpoint, so
        # that nothing is kept, or even computed, for a derivative that nobody asks for.
        of_moving = jax.checkpoint(lambda moved: chosen(*put(given, dots, moved)))
        out_dot, dL_dxs_dot = jax.jvp(of_moving, *moving(given, dots))[1]
        out_dot = Told(loss_dot, out_dot.grads, jax.tree.map(refused, out_dot.rest))
        return (out, dL_dxs if gives_inputs else None), (out_dot, dL_dxs_dot)

    return told


def pure(function: Callable, given: tuple) -> tuple[Callable, list]:
    """The function of (what it closes over, *given), and what it closes over: a `custom_jvp` must not
    close over values that are traced outside of it."""
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*given)

    def pure(made_with, *given):
        run = jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, made_with))
        return jax.tree.structure(shape).unflatten(run(*jax.tree.leaves(given)))

    return pure, list(closed.consts)


def _bound(pure: Callable, made_with: list) -> tuple[Callable, None]:
    return lambda _, *given: pure(made_with, *given), None


# -- what moves -----------------------------------------------------------------------------------


def is_moving(dot: Any) -> bool:
    """Is there a derivative by this leaf?"""
    return not isinstance(dot, SymbolicZero) and dot.dtype != jax.dtypes.float0


def any_moving(dots: PyTree) -> bool:
    return any(map(is_moving, jax.tree.leaves(dots)))


def moving(primals: PyTree, tangents: PyTree) -> tuple[tuple[list], tuple[list]]:
    """The leaves by which there is a derivative, and their tangents: arguments of `jax.jvp`."""
    pairs = list(zip(jax.tree.leaves(primals), jax.tree.leaves(tangents)))
    return ([x for x, dot in pairs if is_moving(dot)],), (
        [dot for _, dot in pairs if is_moving(dot)],
    )


def put(primals: PyTree, tangents: PyTree, moved: list) -> PyTree:
    """`primals` with other values for the leaves that move."""
    leaves, tree = jax.tree.flatten(primals)
    values, dots = iter(moved), jax.tree.leaves(tangents)
    return tree.unflatten([next(values) if is_moving(dot) else x for x, dot in zip(leaves, dots)])


def inner(gradient: PyTree, dots: PyTree, like: Array) -> Array:
    """⟨gradient, dots⟩, in the dtype of `like`."""
    total = jnp.zeros_like(like)
    for g, dot in zip(jax.tree.leaves(gradient), jax.tree.leaves(dots), strict=True):
        if is_moving(dot):
            total += jnp.vdot(g.astype(like.dtype), dot.astype(like.dtype))
    return total


# -- refusals -------------------------------------------------------------------------------------

OUT = (
    "a rule's outputs, activity, losses and carry: got a function of them that is being "
    "differentiated; a rule has a gradient of its loss alone. Put what you want to differentiate "
    "into `loss`, `activity_loss` or `state_loss`, or differentiate `net.apply` (which is BPTT)"
)
NO_INPUTS = (
    "xs: got inputs by which the loss is being differentiated, wanted constants: this rule has no "
    "gradient to its inputs"
)
MADE_WITH = (
    "a value that the rule was made with (a time constant, a strength, a learning rate): got one by "
    "which the loss is being differentiated, wanted a constant: a rule has gradients to params, xs "
    "and ys (a derivative through training itself is ej.train's)"
)
IN_CARRY = (
    "carry: got one by which the loss is being differentiated, wanted a constant: a rule has "
    "gradients to params, xs and ys"
)

refused_p = Primitive("derivative_that_no_rule_has")
refused_p.def_impl(lambda x, why: jnp.full_like(x, jnp.nan))
refused_p.def_abstract_eval(lambda x, why: x)


def _refuse(ct, x, *, why):
    raise TypeError(why)


ad.deflinear2(refused_p, _refuse)
mlir.register_lowering(
    refused_p, mlir.lower_fun(lambda x, why: jnp.full_like(x, jnp.nan), multiple_results=False)
)
batching.primitive_batchers[refused_p] = lambda args, dims, why: (
    refused_p.bind(*args, why=why),
    dims[0],
)


def refused(dot: Any, why: str = OUT) -> Any:
    """A tangent that nobody may use: NaN forward; in reverse, an error where it is asked for."""
    return refused_p.bind(dot, why=why) if dot.dtype != jax.dtypes.float0 else dot


# -- a rule's step and whole, compiled ------------------------------------------------------------


def step_by_rule(program: Callable, check: Callable) -> Callable:
    """`rule.step`, of a program (params, carry, xs, ys, steps) -> (carry, StepOutput, () -> ∂L/∂xs).

    `check` refuses what `program` would; it runs as the program is traced, so that a call of a form
    that was seen before costs nothing more.
    """

    def of(params, xs, ys, constants, carried):
        c, steps = constants
        carry, out, dL_dxs = program(params, with_state(carried, c), xs, ys, steps)
        rest = carry, out.outputs, out.activity, out.losses
        return Told(out.loss, out.grads, rest), dL_dxs

    told = by_rule(of)

    @jax.jit
    def compiled(params, carry, xs, ys, steps):
        check(params, carry, xs, ys, steps)
        carried, c = without_state(carry)
        loss, grads, (carry, *outputs) = told(params, xs, ys, (c, steps), carried)
        return held(carry), StepOutput(loss, grads, *outputs)

    call = checks.explained(compiled, check)

    def step(params, carry, xs, ys, *, mask=None, resets=None):
        return call(params, carry, xs, ys, Steps(mask, resets))

    step.program = program
    return step


def whole_by_rule(program: Callable, check: Callable) -> Callable:
    """`rule.whole`, of a program (params, xs, ys, steps, window) -> (StepOutput, () -> ∂L/∂xs); `check`
    as above."""

    def of(params, xs, ys, constants, carried):
        out, dL_dxs = program(params, xs, ys, constants)
        return Told(out.loss, out.grads, (out.outputs, out.activity, out.losses)), dL_dxs

    told = by_rule(of)

    @jax.jit
    def compiled(params, xs, ys, steps):
        check(params, xs, ys, steps)
        out = told(params, xs, ys, steps, ())
        return StepOutput(out.loss, out.grads, *out.rest)

    call = checks.explained(compiled, check)

    def whole(params, xs, ys, *, mask=None, resets=None):
        return call(params, xs, ys, Steps(mask, resets))

    whole.program = program
    return whole


def without_state(carry: Any) -> tuple[Any, PyTree]:
    """What is carried from step to step, and apart from it the units' own state c: by that no
    derivative may come, as it might if somebody trained it. All of a carry of somebody else's kind."""
    if not has_state(carry):
        return (), carry
    return carry._replace(state=carry.state._replace(c=())), carry.state.c


def with_state(carried: Any, c: PyTree) -> Any:
    return carried._replace(state=carried.state._replace(c=c)) if has_state(carried) else c


def has_state(carry: Any) -> bool:
    """Is it a carry by the library's contract?"""
    return isinstance(getattr(carry, "state", None), State)


def held(carry: Any) -> Any:
    """The carry as the next step takes it: by c no derivative leaves, either."""
    carried, c = without_state(carry)
    return with_state(carried, jax.tree.map(jax.lax.stop_gradient, c))


def programs(rule: LearningRule) -> tuple[Callable, Callable, Callable | None]:
    """A rule's init, step and whole as plain programs; of a rule of your own, the functions that it
    has, without a gradient to inputs."""

    def step(params, carry, xs, ys, steps):
        return *rule.step(params, carry, xs, ys, **given(steps)), None

    def whole(params, xs, ys, steps, window=None):
        return rule.whole(params, xs, ys, **given(steps)), None

    return (
        rule.init,
        getattr(rule.step, "program", step),
        getattr(rule.whole, "program", whole) if rule.whole is not None else None,
    )


def given(steps: Steps) -> dict[str, Any]:
    """As arguments, for a rule of your own that may not take them."""
    return those(steps._asdict())
