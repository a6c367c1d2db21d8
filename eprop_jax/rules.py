"""What every rule does around its own mathematics: refuse, cast, run the network, fill the carry.

Batches of any shape are folded into one axis here, so that the mathematics sees [K, B, ...].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax import checks, feedback, forward
from eprop_jax import jacobians as jac
from eprop_jax import traces as tr
from eprop_jax.base import (
    Array,
    Carry,
    LearningRule,
    Network,
    PyTree,
    RuleSpec,
    State,
    StepOutput,
)
from eprop_jax.units import compute_dtype


class Chunk(NamedTuple):
    """K steps of the network, and how the loss meets them."""

    run: forward.Trajectory
    losses: Array
    """[K, B]"""
    dL_dy: Array
    """∂L/∂y^t of the mean over the batch, [K, B, n_out]"""
    activity: Array
    """activity loss, [B]"""
    dL_dh: Array | None
    """its direct derivative ∂L/∂h^t, the same at each step, [B, n]"""
    dL_dc: tuple[Array, ...] | None = None
    """direct derivative ∂L/∂c^t of the state loss, by component: [K, B, n]"""

    @property
    def loss(self) -> Array:
        return (jnp.sum(self.losses) + jnp.sum(self.activity)) / self.losses.shape[1]


def specify(
    name: str,
    order: int | None,
    net: Network,
    loss: Any,
    activity_loss: Any,
    state_loss: Any,
    kind: str = "symmetric",
) -> RuleSpec:
    """Refuse what is no network or no loss."""
    checks.instance("net", net, Network, "an ej.Network(cell, readout)")
    checks.is_callable("loss", loss)
    if activity_loss is not None:
        checks.is_callable("activity_loss", activity_loss)
    if state_loss is not None:
        checks.is_callable("state_loss", state_loss)
    checks.one_of("feedback", kind, feedback.KINDS)
    return RuleSpec(name, order, net, loss, activity_loss, kind, state_loss)


def of_library(name: str, rule: Any) -> RuleSpec:
    """The spec of one of the library's rules; refuse any other."""
    if not isinstance(rule, LearningRule) or rule.spec is None or rule.spec.gradient is None:
        raise TypeError(f"{name}: got {type(rule).__name__}, wanted one of the library's rules")
    return rule.spec


def build(spec: RuleSpec, init_traces: Callable, gradient: Callable) -> LearningRule:
    """init, step and whole of a rule, from its traces and its gradient.

    `init_traces(spec, params, state, B)` gives the carry's fields beside `state`;
    `gradient(spec, params, carry, xs, ys, keep)` works on one batch axis, in the compute dtype.
    """
    spec = spec._replace(gradient=gradient)
    net = spec.network
    expected = jax.eval_shape(net.init, jax.random.key(0))
    B_shape = None if spec.feedback == "symmetric" else (net.readout.n_units, net.readout.n_out)

    def check(params):
        checks.parameters(params, expected, B_shape, spec.name)

    @jax.jit
    def _step(params, carry, xs, ys):
        return advance(spec, params, carry, xs, ys, True)

    @jax.jit
    def _whole(params, xs, ys):
        carry = Carry(init_state(net, params, xs.shape[1:-1]))
        return advance(spec, params, carry, xs, ys, False)[1]

    def init(params, batch_shape=()) -> Carry:
        check(params)
        batch_shape = checks.batch(batch_shape)
        check_unit(net, params)
        state = init_state(net, params, batch_shape)
        b = math.prod(batch_shape)
        one_axis = jax.tree.map(lambda x: x.reshape(b, x.shape[-1]), state)
        traces = init_traces(spec, compute(net, params), one_axis, b)
        traces = jax.tree.map(lambda x: x.reshape(*batch_shape, *x.shape[1:]), traces)
        return Carry(state, **traces)

    known = {}

    def like_init(params, batch):
        """The form of the carry, found once for each batch and dtype."""
        key = batch, compute_dtype(params)
        if key not in known:
            known[key] = jax.eval_shape(lambda p: init(p, batch), params)
        return known[key]

    def step(params, carry, xs, ys):
        check(params)
        batch = checks.sequence(xs, ys, net.cell.n_in)
        checks.carry(carry, batch, net.readout.n_out, lambda: like_init(params, batch))
        return _step(params, carry, xs, ys)

    def whole(params, xs, ys):
        check(params)
        batch = checks.sequence(xs, ys, net.cell.n_in)
        like_init(params, batch)  # tries the cell's own functions, once
        return _whole(params, xs, ys)

    return LearningRule(init, step, whole, spec)


def init_state(net: Network, params: dict, batch_shape: tuple[int, ...]) -> State:
    """What the network itself starts from."""
    c = net.cell.initial_state(params["cell"], batch_shape)
    return State(c, net.readout.initial_state(params["readout"], batch_shape))


def advance(
    spec: RuleSpec, params: dict, carry: Carry, xs: Array, ys: PyTree, keep: bool
) -> tuple[Carry, StepOutput]:
    """A chunk of the rule, for a batch of any shape."""
    batch = xs.shape[1:-1]
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[len(batch) :]), carry)
    weights = compute(spec.network, params)
    flat, out = spec.gradient(spec, weights, flat, *fold(params, xs, ys), keep)
    carry = jax.tree.map(lambda x, like: x.reshape(like.shape), flat, carry)
    return carry, unfold(params, out, batch)


def check_unit(net: Network, params: dict) -> None:
    """The cell's and the read-out's one-unit functions, tried on shapes alone."""
    for layer, name in ((net.cell, "cell"), (jac.as_cell(net.readout), "readout")):
        p = jax.tree.map(lambda x: x.astype(compute_dtype(params)), params[name])
        c = layer.initial_state(p, (1,))
        scalar = lambda x: jax.ShapeDtypeStruct((), x.dtype)
        real = jax.ShapeDtypeStruct((), compute_dtype(p))
        drive = jac.of_gates(dict.fromkeys(jac.gate_names(p), real))
        values = jax.tree.map(scalar, jac.theta(layer, p))
        checks.unit_functions(layer, jax.tree.map(scalar, c), drive, values)
        J = jac.structure(layer, p, c)
        lines = dict.fromkeys(("w_in", "w_rec", "w_out"))
        for (path, _), source in zip(
            jax.tree.leaves_with_path(p), tr.sources(p, J, lines), strict=True
        ):
            alive = tr.reached(J, source, "w_rec" in p)
            if source.xi is None and all(J.psi[c] is None for c in alive):
                raise ValueError(
                    f"params['{name}']{jax.tree_util.keystr(path)}: the output's derivative with "
                    "respect to it is zero whatever the values are (dynamics or output does not "
                    "read it, or reads it through a step function without a surrogate); wanted a "
                    "parameter that can be trained"
                )
        for r, reasons in jac.unit_dependence(layer, p, c).items():
            if reasons:
                raise ValueError(
                    f"shared: got component {r}, whose derivatives depend on {', '.join(reasons)}; "
                    "wanted one that has the same derivatives for all units"
                )


def compute(net: Network, params: dict) -> dict:
    """Parameters as the mathematics uses them: at least float32, absent synapses zero."""
    params = jax.tree.map(lambda p: p.astype(compute_dtype(params)), params)
    if net.cell.connectivity is None or "w_rec" not in params["cell"]:
        return params
    mask = jnp.asarray(net.cell.connectivity)
    w_rec = jax.tree.map(lambda w: jnp.where(mask, w, 0), params["cell"]["w_rec"])
    return {**params, "cell": {**params["cell"], "w_rec": w_rec}}


def masked(net: Network, grads: dict) -> dict:
    """A synapse that does not exist has no gradient."""
    if net.cell.connectivity is None or "w_rec" not in grads["cell"]:
        return grads
    mask = jnp.asarray(net.cell.connectivity)
    w_rec = jax.tree.map(lambda g: jnp.where(mask, g, 0), grads["cell"]["w_rec"])
    return {**grads, "cell": {**grads["cell"], "w_rec": w_rec}}


def fold(params: dict, xs: Array, ys: PyTree) -> tuple[Array, PyTree]:
    """[K, *batch, ...] -> [K, B, ...]; inputs in the compute dtype."""
    n_batch, k = xs.ndim - 2, xs.shape[0]
    b = math.prod(xs.shape[1:-1])
    xs = xs.reshape(k, b, xs.shape[-1]).astype(compute_dtype(params))
    return xs, jax.tree.map(lambda y: jnp.reshape(y, (k, b, *jnp.shape(y)[1 + n_batch :])), ys)


def unfold(params: dict, out: StepOutput, batch: tuple[int, ...]) -> StepOutput:
    """The batch's own shape again; gradients in the parameters' dtype."""
    outputs, activity, losses = (
        x.reshape(x.shape[0], *batch, *x.shape[2:]) for x in (out.outputs, out.activity, out.losses)
    )
    grads = jax.tree.map(lambda g, p: g.astype(p.dtype), out.grads, params)
    return StepOutput(out.loss, grads, outputs, activity, losses)


def per_step(spec: RuleSpec) -> Callable[[Array, PyTree], Array]:
    """The loss of one example and step, as a scalar."""

    def loss(y, target):
        return jnp.sum(checks.loss_value("loss", spec.loss(y, target))).astype(y.dtype)

    return loss


def of_rates(spec: RuleSpec) -> Callable[[Array], Array]:
    """The activity loss of one example, as a scalar."""
    return lambda f: jnp.sum(checks.loss_value("activity_loss", spec.activity_loss(f)))


def activity_losses(spec: RuleSpec, h: Array) -> tuple[Array, Array | None]:
    """The activity loss of each example over the window, [B], and its derivative by h's mean."""
    if spec.activity_loss is None:
        return jnp.zeros(h.shape[1], h.dtype), None
    wires = spec.network.cell.wires
    f = wires.gather(jnp.mean(h, 0))
    losses, dL_df = jax.vmap(jax.value_and_grad(of_rates(spec)))(f)
    return losses, wires.own(dL_df)


def state_losses(spec: RuleSpec, c: PyTree) -> tuple[Array, tuple[Array, ...]]:
    """The state loss of each step and example, Σ_j over units, [K, B], and ∂/∂c^t by component."""

    def of_unit(c_j):
        return jnp.sum(checks.loss_value("state_loss", spec.state_loss(c_j)))

    of = jax.value_and_grad(of_unit, allow_int=True)  # a counter has no derivative, and gets none
    losses, dL_dc = jax.vmap(jax.vmap(jax.vmap(of)))(c)
    where = jac.float_positions(c)
    return spec.network.cell.wires.total(jnp.sum(losses, -1)), tuple(
        jax.tree.leaves(dL_dc)[i] for i in where
    )


def meet(spec: RuleSpec, params: dict, state: State, xs: Array, ys: PyTree) -> Chunk:
    """Run the chunk, and differentiate the loss where it touches the network."""
    run = forward.run(spec.network, params, state, xs)
    K, B = run.y.shape[:2]
    losses, dL_dy = jax.vmap(jax.vmap(jax.value_and_grad(per_step(spec))))(run.y, ys)
    activity, dL_df = activity_losses(spec, run.h)
    dL_dh = None if dL_df is None else dL_df / (K * B)
    dL_dc = None
    if spec.state_loss is not None:
        more, dL_dc = state_losses(spec, run.c)
        losses, dL_dc = losses + more, tuple(x / B for x in dL_dc)
    return Chunk(run, losses, dL_dy / B, activity, dL_dh, dL_dc)


def finish(spec: RuleSpec, params: dict, chunk: Chunk, grads: dict) -> StepOutput:
    grads = feedback.gradient(params, spec.feedback, masked(spec.network, grads))
    return StepOutput(chunk.loss, grads, chunk.run.y, chunk.run.h, chunk.losses)
