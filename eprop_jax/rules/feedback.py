"""Learning signals: which weights carry ∂L/∂y_k back to unit j (Eq. 40: L_j = Σ_k B_jk ∂L/∂y_k).

symmetric: B is the read-out's own w^out. random: B is fixed, and its gradient is zero. adaptive: B
starts random and gets the same updates as w^out (Bellec et al. 2020). B [n, n_out] stands in
params["feedback"], where an optimiser sees it like the rest. One that decays weights moves what has
a gradient of zero too: `fixed` keeps random B from it. `ej.train` and `ej.online` do that by
themselves; a loop of one's own wraps its optimiser. Only the cell's gradient sees B; the read-out's
own is exact.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from eprop_jax import checks
from eprop_jax.network.types import Array, LearningRule, Network, PyTree, each_layer

if TYPE_CHECKING:  # importing it takes as long as all of this library
    import optax

__all__ = ["fixed", "init"]


def init(key: Array, net: Network, gain: float = 1.0) -> PyTree:
    """Random feedback weights B [n, n_out], normal with standard deviation gain/√n. Of a stack a
    tuple: every layer has its own, and stands at the read-out by it, also where `reads` leaves it out.

    Args:
      key: a PRNG key.
      net: the network.
      gain: scale, which may be traced.

    Raises:
      TypeError, ValueError: if `key` is no key, `net` no Network, or `gain` negative.

    >>> import jax, eprop_jax as ej
    >>> net = ej.Network(ej.cells.rnn(3, 5), ej.readouts.linear(5, 2))
    >>> params = net.init(jax.random.key(0))
    >>> params["feedback"] = ej.feedback.init(jax.random.key(1), net)
    >>> params["feedback"].shape
    (5, 2)
    """
    checks.instance("net", net, Network, "an ej.Network")
    checks.key("key", key)
    checks.nonnegative("gain", checks.number("gain", gain))

    def of_layer(cell, key):
        B = jax.random.normal(key, (cell.n_units, net.readout.n_out))
        return B * jnp.asarray(gain / cell.n_units**0.5, B.dtype)

    keys = tuple(jax.random.split(key, len(net.cells))) if net.stacked else key
    return each_layer(net, of_layer, keys)


def fixed(
    optimizer: optax.GradientTransformation, rule: LearningRule
) -> optax.GradientTransformationExtraArgs:
    """The same optimiser, which leaves params["feedback"] where it is, unless the rule adapts it.

    The optimiser sees the whole tree, so that label and mask trees are shaped like the parameters;
    of what it gives, B's part is replaced by zeros. `ej.train` and `ej.online` use this function.

    Args:
      optimizer: any optax transformation.
      rule: the rule whose gradients it takes.

    Returns:
      An optax transformation, for the parameters that the rule takes. Extra arguments of its
      `update` are passed on to what takes them, and ignored by the rest.

    Raises:
      TypeError: for what is no optimiser or no rule.

    >>> import jax, jax.numpy as jnp, optax, eprop_jax as ej
    >>> net = ej.Network(ej.cells.rnn(3, 5), ej.readouts.linear(5, 2))
    >>> rule = ej.eprop(net, ej.losses.squared_error, feedback="random")
    >>> params = net.init(jax.random.key(0))
    >>> params["feedback"] = ej.feedback.init(jax.random.key(1), net)
    >>> optimizer = ej.feedback.fixed(optax.adamw(1e-2, weight_decay=0.1), rule)
    >>> loss, grads = ej.value_and_grad(rule)(params, jnp.ones((4, 3)), jnp.ones((4, 2)))
    >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
    >>> bool(jnp.any(updates["readout"]["w_out"])), bool(jnp.any(updates["feedback"]))
    (True, False)
    """
    import optax

    checks.optimizer("optimizer", optimizer)
    checks.instance("rule", rule, LearningRule, "an ej.LearningRule")
    whole = _with_extra_args(optimizer)
    if rule.spec is None or rule.spec.feedback == "adaptive":
        return whole

    def update(updates, state, params=None, **extra):
        changes, state = whole.update(updates, state, params, **extra)
        if isinstance(changes, dict) and "feedback" in changes:
            B = jax.tree.map(jnp.zeros_like, changes["feedback"])  # pyright: ignore
            changes = {**changes, "feedback": B}
        return changes, state

    return optax.GradientTransformationExtraArgs(whole.init, update)


def _with_extra_args(optimizer) -> optax.GradientTransformationExtraArgs:
    """One that takes extra arguments without saying so by its type, as `optax.MultiSteps`, gets
    them too."""
    import optax

    kinds = {p.kind for p in inspect.signature(optimizer.update).parameters.values()}
    if inspect.Parameter.VAR_KEYWORD in kinds:
        return optax.GradientTransformationExtraArgs(optimizer.init, optimizer.update)
    return optax.with_extra_args_support(optimizer)
