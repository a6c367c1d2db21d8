"""Online update (appendix A): the weights move inside the sequence, with each step's own C^t.

    w^{t+1} = w^t + f(C^t)

Summing C^t at fixed weights gives the gradient of the whole sequence exactly; updating with each
C^t is another algorithm, since the traces then hold derivatives taken at older weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from eprop_jax import checks, feedback
from eprop_jax.base import Array, Carry, LearningRule, PyTree, StepOutput
from eprop_jax.sequence import scan_parts
from eprop_jax.units import compute_dtype, wide


class OnlineState(NamedTuple):
    """Everything that an online learner carries; constant in T."""

    params: PyTree
    opt_state: PyTree
    carry: Carry


class OnlineLearner(NamedTuple):
    """`init(params, batch_shape) -> OnlineState`; `step(state, xs, ys) -> (state, StepOutput)`."""

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
      An `OnlineLearner`. Its `step` takes xs [K, *batch, n_in] and ys [K, *batch, ...]. The
      StepOutput's loss is the sum over the K steps, its grads the sum of what was applied, both
      formed in float32 at least.

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
    checks.instance("rule", rule, LearningRule, "an ej.LearningRule")
    checks.optimizer("optimizer", optimizer)
    every = checks.size("every", every)
    optimizer = feedback.fixed(optimizer, rule)

    def init(params: PyTree, batch_shape: tuple[int, ...] = ()) -> OnlineState:
        carry = rule.init(params, batch_shape)  # refuses wrong parameters
        return OnlineState(params, optimizer.init(params), carry)

    @jax.jit
    def _step(state: OnlineState, xs: Array, ys: Any) -> tuple[OnlineState, StepOutput]:
        # Parts add up in the compute dtype, also where the parameters are narrower.
        as_params = lambda tree: jax.tree.map(lambda x, p: x.astype(p.dtype), tree, state.params)

        def update(total, part):
            (params, opt_state, before), loss, summed = total
            carry, out = rule.step(jax.tree.map(wide, params), before, *part)
            grads, summed = as_params(out.grads), jax.tree.map(jnp.add, summed, out.grads)
            value_fn = lambda p: rule.step(p, before, *part)[1].loss
            changes, opt_state = optimizer.update(
                grads, opt_state, params, value=out.loss, grad=grads, value_fn=value_fn
            )
            after = OnlineState(optax.apply_updates(params, changes), opt_state, carry)
            return (after, loss + out.loss, summed), (out.outputs, out.activity, out.losses)

        zero = jax.tree.map(lambda p: jnp.zeros_like(wide(p)), state.params)
        total = (state, jnp.zeros((), compute_dtype(state.params)), zero)
        (last, loss, summed), outputs = scan_parts(update, total, (xs, ys), every)
        return last, StepOutput(loss, as_params(summed), *outputs)

    def step(state: OnlineState, xs: Array, ys: Any) -> tuple[OnlineState, StepOutput]:
        checks.instance("state", state, OnlineState, "what this learner's init gave")
        if rule.spec is not None:  # refuse before tracing
            batch = checks.sequence(xs, ys, rule.spec.network.cell.n_in)
            checks.carry(state.carry, batch, rule.spec.network.readout.n_out, None, xs.shape[0])
        return _step(state, xs, ys)

    return OnlineLearner(init, step)
