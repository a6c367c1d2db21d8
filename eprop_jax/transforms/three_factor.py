"""A gradient that waits for its third factor: a reward, a TD error.

    z_b^t = decay · z_b^{t-1} + g_b^t        g_b^t: the rule's gradient C^t of example b, at step t
    dL/dw ≈ Σ_t 1/B Σ_b δ_b^t z_b^t          δ_b^t: what came of it, known later

Two factors, what was heard and what the unit did, are in the rule's trace; the learning signal makes
of it the gradient of one step's loss, and the third factor says how much that gradient is worth. As a
sum over t' ≤ t, with decay = γλ,

    Σ_t δ^t z^t = Σ_t' A^t' g^t',    A^t' = Σ_{t≥t'} (γλ)^{t-t'} δ^t

which is the same gradient with each step's loss weighted by its advantage, where nothing waits.

G. Bellec et al., Nature Communications 11:3625, 2020, reward-based e-prop:
Δw = −η Σ_t δ^t F_γ(L_j^t ē_ij^t), where g^t = L_j^t ē_ij^t and F_γ is the filter above, decay = γ.
R. Sutton and A. Barto, Reinforcement Learning, 2nd edition, 13.5: actor-critic with eligibility traces,
decay = γλ. J. Schulman et al. 2016: A is the generalised advantage estimate.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax import checks
from eprop_jax.engine import derivative
from eprop_jax.network.types import (
    NO_STEPS,
    Array,
    Carry,
    FirstCarry,
    LearningRule,
    PyTree,
    StepOutput,
    Steps,
)
from eprop_jax.network.units import compute_dtype, like, wide


class ThreeFactorCarry(NamedTuple):
    """What goes from step to step."""

    rule: Any
    """the rule's own carry"""
    z: PyTree
    """the eligibility of each example: a tree like params, each leaf [*batch, ...]"""


class ThreeFactor(NamedTuple):
    """`init(params, batch_shape) -> ThreeFactorCarry`; `step(params, carry, xs, ys, *, mask=None,
    resets=None) -> (carry, StepOutput)`; `gradient(carry, third) -> grads`."""

    init: Callable[..., ThreeFactorCarry]
    step: Callable[..., tuple[ThreeFactorCarry, StepOutput]]
    gradient: Callable[..., PyTree]


def three_factor(rule: LearningRule, decay: float) -> ThreeFactor:
    """A rule whose gradient is held back, example by example, until a third factor says what it is
    worth.

        z_b^t = decay · z_b^{t-1} + g_b^t,    gradient(carry, δ^t) = 1/B Σ_b δ_b^t z_b^t

    g_b^t is the rule's own gradient of example b at step t. All that a rule with traces needs of the
    past is in its carry, so its steps come one at a time, and Σ_t δ^t z^t at fixed weights is the
    rule's gradient of Σ_t 1/B Σ_b A_b^t loss_b^t, with A_b^t = Σ_{t'≥t} decay^{t'-t} δ_b^{t'}. Where
    weights move on the way, z is made of gradients taken at older ones, as all traces are.

    G. Bellec et al. 2020 (reward-based e-prop: loss = −log π(a) − c_V V, δ^t = r^t + γ V^{t+1} − V^t,
    decay = γ); Sutton and Barto, Reinforcement Learning, 13.5 (decay = γλ). docs/RECIPES.md has the
    actor-critic.

    Args:
      rule: any rule with traces of its own.
      decay: per step, in [0, 1]; it may be traced. 0: a third factor of this very step alone.

    Returns:
      A `ThreeFactor`. Its carry holds the rule's own, and z: the parameters once for each example.

      `step` takes xs [K, *batch, n_in] and ys [K, *batch, ...], as the rule's does, and moves z at
      each of the K steps; a longer call is the same as shorter ones. `mask` [K, *batch]: at steps
      that do not count g is 0, and z decays all the same. `resets` [K, *batch]: examples whose z
      starts from zero before a step, as their state and traces do. The StepOutput is the rule's, its
      grads those that wait for nothing. Its loss differentiates by the rule.

      `gradient(carry, third)` takes δ [*batch] of the last step, and gives a tree like params, in
      float32 at least. Several calls add up: Σ_t gradient(carry^t, δ^t).

    Raises:
      TypeError, ValueError: for what is no rule, or one with a regulariser, or a decay outside of
        [0, 1]; in `init`, for a rule without traces (BPTT), whose single steps reach back nowhere; when
        called, for what does not fit.

    >>> import jax, jax.numpy as jnp, eprop_jax as ej
    >>> net = ej.Network(ej.cells.gru(3, 5), ej.readouts.linear(5, 2))
    >>> params = net.init(jax.random.key(0))
    >>> learner = ej.three_factor(ej.eprop(net, ej.losses.softmax_cross_entropy), decay=0.9)
    >>> carry = learner.init(params, batch_shape=(4,))
    >>> carry, out = learner.step(params, carry, jnp.ones((1, 4, 3)), jnp.zeros((1, 4), int))
    >>> reward = jnp.array([1.0, 0.0, 0.0, -1.0])
    >>> grads = learner.gradient(carry, reward)
    >>> grads["cell"]["w_rec"]["z"].shape, carry.z["cell"]["w_rec"]["z"].shape
    ((5, 5), (4, 5, 5))
    """
    checks.instance("rule", rule, LearningRule, "an ej.LearningRule")
    decay = checks.decay("decay", checks.number("decay", decay))
    _without_regularisers(rule)

    def init(params: PyTree, batch_shape: tuple[int, ...] = ()) -> ThreeFactorCarry:
        batch_shape = checks.batch(batch_shape)
        begin = lambda: rule.init(params, batch_shape)  # refuses wrong parameters
        _traced(rule, jax.eval_shape(begin))
        zero = lambda p: jnp.zeros((*batch_shape, *p.shape), compute_dtype(p))
        return ThreeFactorCarry(begin(), jax.tree.map(zero, params))

    def check(params, carry, xs, ys, steps=NO_STEPS):
        checks.instance("carry", carry, ThreeFactorCarry, WANTED)
        if rule.spec is not None:
            net = rule.spec.network
            batch = checks.sequence(xs, ys, net.n_in, steps)
            expected = jax.eval_shape(lambda: init(params, batch))
            checks.carry(carry.rule, batch, net.readout.n_out, lambda: expected.rule, len(xs))
            checks.same("carry.z", carry.z, expected.z, WANTED)

    @jax.jit
    def compiled(params, carry, xs, ys, steps):
        check(params, carry, xs, ys, steps)
        axes = range(xs.ndim - 2)
        of_example = functools.partial(_one_step, rule)
        for _ in axes:
            of_example = jax.vmap(of_example, in_axes=(None, 0, 0, 0, 0))
        mean = lambda x: jnp.mean(x, tuple(axes))
        weights = jax.tree.map(wide, params)

        def advance(total, at):
            (of_rule, z), grads = total
            of_rule, out = of_example(weights, of_rule, *at)
            z = jax.tree.map(jnp.add, _decayed(z, decay, at[-1].resets), out.grads)
            grads = jax.tree.map(lambda total, g: total + mean(g), grads, out.grads)
            out = out._replace(loss=mean(out.loss), grads=())
            return (ThreeFactorCarry(of_rule, z), grads), out

        start = carry, jax.tree.map(jnp.zeros_like, weights)
        (carry, grads), out = jax.lax.scan(advance, start, (xs, ys, steps))
        grads = jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)
        return carry, out._replace(loss=jnp.sum(out.loss), grads=grads)

    call = checks.explained(compiled, check)

    def step(params, carry, xs, ys, *, mask=None, resets=None):
        return call(params, carry, xs, ys, Steps(mask, resets))

    return ThreeFactor(init, step, gradient)


WANTED = "what this learner's init and step give"


def _one_step(rule: LearningRule, params: PyTree, carry: Any, x: Array, y: PyTree, steps: Steps):
    """One step of one example: as nothing else is in the batch, the gradient is its own."""
    x, y, steps = jax.tree.map(lambda v: v[None], (x, y, steps))
    carry, out = rule.step(params, carry, x, y, **derivative.given(steps))
    outputs, activity, losses = jax.tree.map(
        lambda v: v[0], (out.outputs, out.activity, out.losses)
    )
    return carry, StepOutput(out.loss, out.grads, outputs, activity, losses)


def _decayed(z: PyTree, decay: Any, resets: Array | None) -> PyTree:
    """decay · z, and zero for the examples that start afresh."""

    def of_leaf(x):
        kept = like(decay, x) * x
        if resets is None:
            return kept
        return jnp.where(jnp.expand_dims(resets, range(resets.ndim, x.ndim)), 0, kept)

    return jax.tree.map(of_leaf, z)


def _check_third(carry, third):
    checks.instance("carry", carry, ThreeFactorCarry, WANTED)
    batch = carry.rule.state.y.shape[:-1]
    if checks.real("third", third).shape != batch:
        raise ValueError(
            f"third: got shape {list(jnp.shape(third))}, wanted {list(batch)}, one number an example"
        )


@jax.jit
def _met(carry: ThreeFactorCarry, third: Array) -> PyTree:
    _check_third(carry, third)
    mean = lambda z: jnp.tensordot(like(third, z), z, jnp.ndim(third)) / max(1, jnp.size(third))
    return jax.tree.map(mean, carry.z)


_gradient = checks.explained(_met, _check_third)


def gradient(carry: ThreeFactorCarry, third: Any) -> PyTree:
    """1/B Σ_b δ_b z_b. A list of numbers is as good as an array."""
    if type(third) in (list, tuple):
        third = checks.real("third", third)
    return _gradient(carry, third)


# -- refusals -------------------------------------------------------------------------------------


def _without_regularisers(rule: LearningRule) -> None:
    """A regulariser waits for no reward, and must not be multiplied by one."""
    for name in ("activity_loss", "state_loss"):
        if rule.spec is not None and getattr(rule.spec, name) is not None:
            raise ValueError(
                f"rule: got one with {name}, which the third factor would multiply, wanted one "
                "without: give it to a rule of its own beside this one, and add the two gradients"
            )


def _traced(rule: LearningRule, carry: Any) -> None:
    if not derivative.has_state(carry):
        raise TypeError(
            f"rule: got one whose carry is {type(carry).__name__}, wanted a NamedTuple whose first "
            "field is the network's ej.State"
        )
    if isinstance(carry, (Carry, FirstCarry)):
        raise ValueError(
            f"rule: got {rule}, which has no traces, so that a step alone reaches back nowhere; "
            "wanted one that has, such as ej.eprop, or ej.rtrl, which is exact"
        )
