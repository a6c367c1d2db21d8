"""Online update (appendix A): the weights move inside the sequence, with each step's own C^t.

    w^{t+1} = w^t + f(C^t)

Summing C^t at fixed weights gives the gradient of the whole sequence exactly; updating with each
C^t is another algorithm, since the traces then hold derivatives taken at older weights.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax import checks
from eprop_jax.engine import derivative
from eprop_jax.network.types import NO_STEPS, Array, LearningRule, PyTree, StepOutput, Steps
from eprop_jax.network.units import compute_dtype, wide
from eprop_jax.rules import feedback
from eprop_jax.run.sequence import scan_parts

if TYPE_CHECKING:  # importing it takes as long as all of this library
    import optax


class OnlineState(NamedTuple):
    """Everything that an online learner carries; constant in T."""

    params: PyTree
    opt_state: PyTree
    carry: Any


class OnlineLearner(NamedTuple):
    """`init(params, batch_shape) -> OnlineState`; `step(state, xs, ys, *, mask=None, resets=None) ->
    (state, StepOutput)`."""

    init: Callable[..., OnlineState]
    step: Callable[..., tuple[OnlineState, StepOutput]]


def online(
    rule: LearningRule, optimizer: optax.GradientTransformation, every: int = 1
) -> OnlineLearner:
    """A learner that updates its parameters every few steps, while the sequence goes on.

    Args:
      rule: any rule; its traces are carried across updates (appendix A).
      optimizer: any optax transformation, as in `ej.training.trainer`; extra arguments (`value`,
        `grad`, `value_fn`) are those of the steps since the last update. Random feedback weights
        stay, whatever it does (`ej.feedback.fixed`).
      every: steps between updates. What `step` is given is cut into parts of this length; a rest
        is a shorter part of its own.

    Returns:
      An `OnlineLearner`. Its `step` takes xs [K, *batch, n_in], ys [K, *batch, ...], mask
      [K, *batch], the steps that count, and resets, the examples that start afresh before a step. The
      StepOutput's loss is the sum over the K steps, its grads the sum of what was applied, both
      formed in float32 at least. The loss differentiates by the rule: to params by those grads, to
      xs within each part.

    Raises:
      TypeError, ValueError: for every < 1, or what is no rule or no optimiser; when called, for
        inputs that do not fit the network.

    >>> import jax, jax.numpy as jnp, optax, eprop_jax as ej
    >>> net = ej.Network(ej.cells.lif(3, 5), ej.readouts.leaky(5, 2))
    >>> learner = ej.online(ej.eprop(net, ej.losses.squared_error), optax.sgd(1e-2))
    >>> state = learner.init(net.init(jax.random.key(0)), batch_shape=(4,))
    >>> state, out = learner.step(state, jnp.ones((6, 4, 3)), jnp.ones((6, 4, 2)))
    >>> out.outputs.shape
    (6, 4, 2)
    """
    import optax

    checks.instance("rule", rule, LearningRule, "an ej.LearningRule")
    checks.optimizer("optimizer", optimizer)
    every = checks.size("every", every)
    optimizer = feedback.fixed(optimizer, rule)

    def init(params: PyTree, batch_shape: tuple[int, ...] = ()) -> OnlineState:
        carry = rule.init(params, batch_shape)  # refuses wrong parameters
        return OnlineState(params, optimizer.init(params), carry)

    _, of_rule, _ = derivative.programs(rule)

    def program(params, xs, ys, constants, carried):
        """All parts: what is summed over them, and () -> ∂L/∂xs, each part's own."""
        opt_state, c, steps = constants
        begin = OnlineState(params, opt_state, derivative.with_state(carried, c))
        # Parts add up in the compute dtype, also where the parameters are narrower.
        as_params = lambda tree: jax.tree.map(lambda x, p: x.astype(p.dtype), tree, params)

        def update(by_xs, total, part):
            (params, opt_state, before), loss, summed = total
            carry, out, dL_dxs = of_rule(jax.tree.map(wide, params), before, *part)
            grads, summed = as_params(out.grads), jax.tree.map(jnp.add, summed, out.grads)
            xs, ys, steps = part
            value_fn = lambda p: rule.step(p, before, xs, ys, **derivative.given(steps))[1].loss
            changes, opt_state = optimizer.update(
                grads, opt_state, params, value=out.loss, grad=grads, value_fn=value_fn
            )
            after = OnlineState(optax.apply_updates(params, changes), opt_state, carry)
            outputs = (out.outputs, out.activity, out.losses)
            return (after, loss + out.loss, summed), dL_dxs() if by_xs else outputs

        zero = jax.tree.map(lambda p: jnp.zeros_like(wide(p)), params)
        total = (begin, jnp.zeros((), compute_dtype(params)), zero)
        over = lambda by_xs: scan_parts(
            functools.partial(update, by_xs), total, (xs, ys, steps), every
        )
        (last, loss, summed), outputs = over(False)
        return derivative.Told(loss, as_params(summed), (last, outputs)), lambda: over(True)[1]

    told = derivative.by_rule(program)

    def check(state, xs, ys, steps=NO_STEPS):
        checks.instance("state", state, OnlineState, "what this learner's init gave")
        if rule.spec is not None:
            batch = checks.sequence(xs, ys, rule.spec.network.n_in, steps)
            checks.carry(state.carry, batch, rule.spec.network.readout.n_out, None, xs.shape[0])

    @jax.jit
    def _step(state, xs, ys, steps):
        check(state, xs, ys, steps)
        params, opt_state, carry = state
        carried, c = derivative.without_state(carry)
        loss, grads, (last, outputs) = told(params, xs, ys, (opt_state, c, steps), carried)
        return last._replace(carry=derivative.held(last.carry)), StepOutput(loss, grads, *outputs)

    call = checks.explained(_step, check)

    def step(state: OnlineState, xs: Array, ys: Any, *, mask: Any = None, resets: Any = None):
        return call(state, xs, ys, Steps(mask, resets))

    return OnlineLearner(init, step)
