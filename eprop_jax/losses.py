"""Losses of one example at one step, loss(y [n_out], target) -> [], and of a window's activity.

A rule sums them over steps and takes the mean over the batch. Any such function fits, optax's
included; one that returns an array (optax.squared_error) is summed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax import checks
from eprop_jax.network.types import Array
from eprop_jax.network.units import like

Loss = Callable[[Array, Any], Array]


def squared_error(y: Array, target: Array) -> Array:
    """½ Σ_k (y_k − target_k)².

    Args:
      y: [n_out].
      target: [n_out].

    Raises:
      TypeError, ValueError: if `y` is no [n_out], the shapes differ, or an integer is beyond int32.

    >>> import jax.numpy as jnp, eprop_jax as ej
    >>> float(ej.losses.squared_error(jnp.array([1.0, 2.0]), jnp.array([1.0, 0.0])))
    2.0
    """
    checks.array("y", y, 1, "[n_out]")
    target = jnp.asarray(checks.fits("ys", target))
    if target.shape != y.shape:
        raise ValueError(
            f"ys: got a target of shape {list(target.shape)} for one example and step, wanted "
            f"{list(y.shape)}, one value a read-out unit"
        )
    return 0.5 * jnp.sum((y - target.astype(y.dtype)) ** 2)


def softmax_cross_entropy(y: Array, target: Array) -> Array:
    """−Σ_k target_k log softmax(y)_k, for a one-hot (or soft) target, or an integer class.

    Args:
      y: logits, [n_out].
      target: integer [] (a class outside 0 … n_out − 1 gives NaN), or floating [n_out].

    Raises:
      TypeError, ValueError: if `y` is no [n_out], the target is neither, or beyond int32.

    >>> import jax.numpy as jnp, eprop_jax as ej
    >>> round(float(ej.losses.softmax_cross_entropy(jnp.zeros(4), jnp.array(2))), 4)
    1.3863
    """
    checks.array("y", y, 1, "[n_out]")
    target = jnp.asarray(checks.fits("ys", target))
    log_p = jax.nn.log_softmax(y)
    if target.shape == () and jnp.issubdtype(target.dtype, jnp.integer):
        chosen = jnp.arange(y.shape[0]) == target.astype(int)
        # A class that does not exist must not pass as a loss of zero.
        return jnp.where(jnp.any(chosen), -jnp.sum(jnp.where(chosen, log_p, 0.0)), jnp.nan)
    if target.shape != y.shape:
        raise ValueError(
            f"ys: got a target {target.dtype}{list(target.shape)} for one example and step, wanted "
            f"an integer class [] or a distribution {list(y.shape)}"
        )
    return -jnp.sum(target.astype(y.dtype) * log_p)


def masked(loss: Loss) -> Loss:
    """Weight each step: the target becomes (target, mask), mask [] a bool or a number.

    A step of weight 0 is as if it were not there, also where the loss has no value or no derivative
    (a distance, a logarithm, a ratio, a target that is NaN).

    Args:
      loss: any per-step loss.

    Raises:
      TypeError: if `loss` is no function, or the target no pair.
      ValueError: if the mask of one example and step is no scalar.

    >>> import jax.numpy as jnp, eprop_jax as ej
    >>> loss = ej.losses.masked(ej.losses.squared_error)
    >>> float(loss(jnp.array([2.0]), (jnp.array([0.0]), jnp.array(False))))
    0.0
    """
    checks.is_callable("loss", loss)

    def weighted(y, target):
        if not isinstance(target, tuple) or len(target) != 2:
            raise TypeError(
                f"ys: got {'an array' if hasattr(target, 'dtype') else type(target).__name__}, "
                "wanted the pair (target, mask) of a masked loss"
            )
        target, mask = target
        mask = jnp.asarray(mask).astype(y.dtype)
        if mask.shape != ():
            raise ValueError(
                f"ys: got a mask of shape {list(mask.shape)} for one example and step, wanted [], "
                "the second of the pair (target, mask)"
            )
        return mask * _where(loss)(mask != 0, y, jax.tree.map(jnp.asarray, target))

    return weighted


def _where(loss: Loss) -> Callable[[Array, Array, Any], Array]:
    """(counts, y, target) -> the loss, or 0 with a derivative of 0 where it does not count. (In
    `where(counts, loss, 0)` alone, autodiff multiplies 0 by the derivative that does not exist.)"""

    @jax.custom_jvp
    def chosen(counts, y, target):
        return jnp.where(counts, jnp.sum(loss(y, target)), jnp.zeros((), y.dtype))

    @chosen.defjvp
    def _(given, dots):
        (counts, y, target), (_, y_dot, target_dot) = given, dots
        leaves, tree = jax.tree.flatten((y, target))
        pairs = zip(leaves, jax.tree.leaves((y_dot, target_dot)))
        real = {i: dot for i, (x, dot) in enumerate(pairs) if jnp.issubdtype(x.dtype, jnp.floating)}

        def of(floats):
            return jnp.sum(loss(*tree.unflatten([floats.get(i, x) for i, x in enumerate(leaves)])))

        gradient = jax.grad(of)({i: leaves[i] for i in real})
        only = lambda g: jnp.where(counts, g, jnp.zeros_like(g)).astype(y.dtype)
        terms = [jnp.vdot(only(g), real[i].astype(y.dtype)) for i, g in gradient.items()]
        return chosen(*given), sum(terms, jnp.zeros((), y.dtype))

    return chosen


def firing_rate(target: Any, strength: float = 1.0) -> Callable[[Array], Array]:
    """Activity loss ½ · strength · Σ_j (f_j − target)², f_j the mean of h_j over the window.

    Pass it to a rule as `activity_loss`. The window is the chunk that `step` gets, and f is each
    example's own; the loss is the mean over the batch, like every other.

    Args:
      target: the rate wanted, in spikes a step (10 Hz at dt = 1 ms: 0.01), a number or [n].
      strength: c_reg, not negative. Like `target` it may be traced.

    Raises:
      TypeError, ValueError: if `target` or `strength` is no number, or negative.

    >>> import jax.numpy as jnp, eprop_jax as ej
    >>> round(float(ej.losses.firing_rate(0.01, strength=2.0)(jnp.array([0.02, 0.01]))), 6)
    0.0001
    """
    checks.nonnegative("target", target)
    target = target if checks.is_traced(target) else np.array(target)  # a later change is none here
    strength = checks.nonnegative("strength", checks.number("strength", strength))

    def loss(f):
        checks.array("f", f, 1, "[n]")
        wanted = like(checks.per_unit("target", target, f.shape[0]), f)
        return 0.5 * like(strength, f) * jnp.sum((f - wanted) ** 2)

    return loss


def voltage(strength: float = 1.0, name: str = "v") -> Callable[[Any], Array]:
    """State loss ½ · strength · v²: L2 on a component of the hidden state.

    Pass it to a rule as `state_loss`; the rule sums it over units and steps and takes the mean over
    the batch.

    Args:
      strength: c_v, not negative; it may be traced.
      name: the component, as the cell's state names it.

    Raises:
      TypeError, ValueError: if `strength` is negative or `name` no name; when a rule calls it, if
        the state has no such component.

    >>> import eprop_jax as ej
    >>> float(ej.losses.voltage(2.0)(ej.cells.SpikingState(v=3.0)))
    9.0
    """
    strength = checks.nonnegative("strength", checks.number("strength", strength))
    if not isinstance(name, str):
        raise TypeError(f"name: got {name!r}, wanted the name of a component of the state")

    def loss(c):
        if not hasattr(c, name):
            has = getattr(c, "_fields", "it is one number without a name")
            raise ValueError(f"name: got {name!r}, wanted a component of the state: {has}")
        v = getattr(c, name)
        return 0.5 * like(strength, v) * v**2

    return loss
