"""What a chunk's loss is, and where it touches the network: what every rule does with it.

Batches are one axis here, [K, B, ...]; `fold` and `unfold` go there and back.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax.engine import signals
from eprop_jax.engine.maybe import each, total
from eprop_jax.network import forward, functions, unitwise
from eprop_jax.network.types import (
    NO_STEPS,
    Array,
    Maybe,
    Network,
    PyTree,
    RuleSpec,
    State,
    StepOutput,
    Steps,
    Units,
)
from eprop_jax.network.units import compute_dtype


class Chunk(NamedTuple):
    """K steps of the network, and how the loss meets them."""

    run: forward.Trajectory
    losses: Array
    """[K, B]"""
    dL_dy: Array
    """∂L/∂y^t of the mean over the batch, [K, B, n_out]"""
    activity: Array
    """activity loss, [B]"""
    dL_dh: Maybe
    """its direct derivative ∂L/∂h^t: [K, B, n], or [1, B, n] where it is the same at each step"""
    dL_dc: tuple[Array, ...] = ()
    """direct derivative ∂L/∂c^t of the state loss, by component: [K, B, n]; (): there is none"""

    @property
    def loss(self) -> Array:
        return (jnp.sum(self.losses) + jnp.sum(self.activity)) / self.losses.shape[1]


def losses_of(net: Network, given: Any) -> tuple:
    """An activity or state loss, layer by layer: one for all, or of a stack a tuple."""
    return given if net.stacked and type(given) is tuple else (given,) * len(net.cells)


class Data(NamedTuple):
    """A chunk's inputs and targets, on one batch axis."""

    xs: Array
    """[K, B, n_in], in the compute dtype"""
    ys: PyTree
    """[K, B, ...]"""
    mask: Array | None
    """[K, B] bool: the steps that count; None: all"""
    resets: Array | None = None
    """[K, B] bool: examples that start afresh before a step; None: none does"""
    window: int | None = None
    """the steps over which the activity loss takes its mean; None: the chunk"""


def fold(params: dict, xs: Array, ys: PyTree, steps: Steps = NO_STEPS) -> Data:
    """[K, *batch, ...] -> [K, B, ...]."""
    n_batch, k = xs.ndim - 2, xs.shape[0]
    b = math.prod(xs.shape[1:-1])
    return Data(
        xs.reshape(k, b, xs.shape[-1]).astype(compute_dtype(params)),
        jax.tree.map(lambda y: jnp.reshape(y, (k, b, *jnp.shape(y)[1 + n_batch :])), ys),
        *(each(lambda x: x.reshape(k, b), x) for x in steps),
    )


def unfold(params: dict, out: StepOutput, batch: tuple[int, ...]) -> StepOutput:
    """The batch's own shape again; gradients in the parameters' dtype."""
    outputs, activity, losses = jax.tree.map(
        lambda x: x.reshape(x.shape[0], *batch, *x.shape[2:]),
        (out.outputs, out.activity, out.losses),
    )
    grads = jax.tree.map(lambda g, p: g.astype(p.dtype), out.grads, params)
    return StepOutput(out.loss, grads, outputs, activity, losses)


def per_step(spec: RuleSpec) -> Callable[[Array, PyTree], Array]:
    """The loss of one example and step, as a scalar."""
    return lambda y, target: _scalar("loss", spec.loss, y.dtype)(y, target)


def _scalar(name: str, loss: Any, dtype: Any) -> Callable[..., Array]:
    """What a user's loss returns, summed, in the compute dtype."""
    return lambda *given: jnp.sum(functions.loss_value(name, loss, *given)).astype(dtype)


def activity_losses(
    loss: Callable | None, units: Units, h: Array, data: Data
) -> tuple[Array, Maybe]:
    """The activity loss of each example, [B], and its derivative by h^t, [1 or K, B, n].

    It is a loss of f, the mean of h over the steps of a window that count.
    """
    if loss is None:
        return jnp.zeros(h.shape[1], h.dtype), None
    K, B = h.shape[:2]
    size = K if data.window is None else min(data.window, K)
    at = jnp.arange(K) // size
    counts = only(data.mask, jnp.ones((K, B), h.dtype))
    over = lambda x: jax.ops.segment_sum(x, at, -(-K // size)) if size < K else x.sum(0)[None]
    number = over(counts)  # [windows, B]
    share = 1 / jnp.maximum(number, 1)
    f = units.gather(over(only(data.mask, h)) * share[..., None])
    of_rates = _scalar("activity_loss", loss, h.dtype)
    losses, dL_df = jax.vmap(jax.vmap(jax.value_and_grad(of_rates)))(f)
    there = number > 0
    losses = jnp.where(there, losses, 0).sum(0)
    dL_df = units.own(jnp.where(there[..., None], dL_df, 0)) * share[..., None]
    if data.mask is None and size == K:
        return losses, dL_df
    return losses, counts[..., None] * dL_df[at]


def state_losses(loss: Any, units: Units, path: Any) -> tuple[Maybe, tuple[Array, ...]]:
    """The state loss of each step and example, Σ_j over units, [K, B], and ∂/∂c^t by component, where
    `path.c` is c^t."""
    if loss is None:
        return None, ()
    of_unit = _scalar("state_loss", loss, unitwise.floats(path.c_K)[0].dtype)
    of = jax.value_and_grad(of_unit, allow_int=True)  # a counter has no derivative, and gets none
    losses, dL_dc = jax.vmap(jax.vmap(jax.vmap(of)))(path.c)
    where = unitwise.float_positions(path.c_K)
    return units.total(jnp.sum(losses, -1)), tuple(jax.tree.leaves(dL_dc)[i] for i in where)


def meet(spec: RuleSpec, params: dict, state: State, data: Data) -> Chunk:
    """Run the chunk, and differentiate the loss where it touches the network."""
    run = forward.run(spec.network, params, state, data.xs, data.resets)
    B = run.y.shape[1]
    losses, dL_dy = jax.vmap(jax.vmap(jax.value_and_grad(per_step(spec))))(run.y, data.ys)
    activity, dL_dh = activity_losses(spec.activity_loss, spec.units, run.h, data)
    of_states, dL_dc = state_losses(spec.state_loss, spec.units, run)
    losses, dL_dc = total(losses, of_states), tuple(x / B for x in dL_dc)
    # A loss may have no number, or no derivative, at a step that does not count.
    counts = functools.partial(only, data.mask)
    losses, dL_dy, dL_dc = jax.tree.map(counts, (losses, dL_dy, dL_dc))
    return Chunk(run, losses, dL_dy / B, activity, each(lambda x: x / B, dL_dh), dL_dc)


def only(mask: Array | None, x: Array) -> Array:
    """x [K, B, ...] at the steps that count, 0 elsewhere."""
    if mask is None:
        return x
    return jnp.where(mask.reshape(*mask.shape, *(1,) * (x.ndim - 2)), x, jnp.zeros_like(x))


def finish(spec: RuleSpec, params: dict, chunk: Chunk, grads: dict) -> StepOutput:
    grads = signals.gradient(spec, params, forward.existing(spec.network, grads))
    return StepOutput(chunk.loss, grads, chunk.run.y, chunk.run.h, chunk.losses)
