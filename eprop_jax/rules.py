"""What every rule does around its own mathematics: refuse, cast, run the network, fill the carry.

Batches of any shape are folded into one axis here, so that the mathematics sees [K, B, ...].
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax import checks, derivative, feedback, forward, functions
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
    Wires,
    by_layer,
    each_layer,
)
from eprop_jax.forward import compute, init_state
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
    """its direct derivative ∂L/∂h^t: [K, B, n], or [1, B, n] where it is the same at each step"""
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
    for name_of, given in (("activity_loss", activity_loss), ("state_loss", state_loss)):
        if net.stacked and type(given) is tuple and len(given) != len(net.cells):
            raise ValueError(
                f"{name_of}: got {len(given)} of them, wanted one function for all layers, or a "
                f"tuple of {len(net.cells)}, one a layer (None: no such loss there)"
            )
        for l, f in enumerate(losses_of(net, given)):
            if f is not None:
                own = type(given) is tuple and net.stacked
                checks.is_callable(f"{name_of}[{l}]" if own else name_of, f)
    checks.one_of("feedback", kind, feedback.KINDS)
    return RuleSpec(name, order, net, loss, activity_loss, kind, state_loss)


def losses_of(net: Network, given: Any) -> tuple:
    """An activity or state loss, layer by layer: one for all, or of a stack a tuple."""
    return given if net.stacked and type(given) is tuple else (given,) * len(net.cells)


def of_one_layer(name: str, rule: Any) -> RuleSpec:
    """The spec of one of the library's rules that run step by step; refuse any other."""
    spec = of_library(name, rule)
    with_steps(name, rule)
    return spec


def with_steps(name: str, rule: LearningRule) -> None:
    """Refuse a rule that has whole sequences alone."""
    if rule.spec is not None and rule.spec.language is not None:
        raise ValueError(f"{name}: {whole_alone(rule.spec)}")


def whole_alone(spec: RuleSpec) -> str:
    got = "a stack of layers" if spec.network.stacked else f"the paths {spec.language!r}"
    return (
        f"got {spec.name} of {got}, which runs over whole sequences alone, wanted "
        "ej.value_and_grad(rule)(params, xs, ys) or ej.train, with chunk=None (steps, chunks and what "
        "is built on them take one layer under ej.eprop, ej.m_order_eprop, ej.rtrl or ej.bptt)"
    )


def of_library(name: str, rule: Any) -> RuleSpec:
    """The spec of one of the library's rules; refuse any other."""
    if not isinstance(rule, LearningRule) or rule.spec is None or rule.spec.gradient is None:
        raise TypeError(f"{name}: got {type(rule).__name__}, wanted one of the library's rules")
    return rule.spec


def build(spec: RuleSpec, init_traces: Callable, gradient: Callable) -> LearningRule:
    """init, step and whole of a rule, from its traces and its gradient.

    `init_traces(spec, params, state, B)` gives the carry's fields beside `state`;
    `gradient(spec, params, carry, data, keep)` works on one batch axis, in the compute dtype.
    """
    spec = spec._replace(gradient=gradient)
    net = spec.network
    expected = jax.eval_shape(net.init, jax.random.key(0))
    reads_B = spec.feedback != "symmetric"
    known = {}

    def check(params):
        checks.parameters(params, expected, feedback.like(net), reads_B, spec.name)

    def begin(params, batch_shape):
        """The carry, before any step."""
        state = init_state(net, params, batch_shape)
        b = math.prod(batch_shape)
        one_axis = jax.tree.map(lambda x: x.reshape(b, x.shape[-1]), state)
        traces = init_traces(spec, compute(net, params), one_axis, b)
        traces = jax.tree.map(lambda x: x.reshape(*batch_shape, *x.shape[1:]), traces)
        return Carry(state, **traces)

    def like_init(params, batch):
        """The form of the carry, found once for each batch and dtype, where the cell's own functions
        are tried."""
        key = batch, compute_dtype(params)
        if key not in known:
            check_unit(net, params)
            known[key] = jax.eval_shape(lambda p: begin(p, batch), params)
        return known[key]

    def check_start(params, batch_shape):
        check(params)
        like_init(params, checks.batch(batch_shape))

    def check_step(params, carry, xs, ys, mask=None):
        check(params)
        batch = checks.sequence(xs, ys, net.n_in, mask)
        checks.carry(carry, batch, net.readout.n_out, lambda: like_init(params, batch), xs.shape[0])

    def check_whole(params, xs, ys, mask=None):
        check(params)
        like_init(params, checks.sequence(xs, ys, net.n_in, mask))

    def start(params, batch_shape):
        check_start(params, batch_shape)
        return begin(params, batch_shape)

    def step(params, carry, xs, ys, mask=None):
        check_step(params, carry, xs, ys, mask)
        return advance(spec, params, carry, xs, ys, mask, True)

    def whole(params, xs, ys, mask=None, window=None):
        check_whole(params, xs, ys, mask)
        carry = Carry(init_state(net, params, xs.shape[1:-1]))
        return advance(spec, params, carry, xs, ys, mask, False, window)[1:]

    started = checks.explained(jax.jit(start, static_argnums=1), check_start)

    def init(params, batch_shape=()) -> Carry:
        return started(params, checks.batch(batch_shape))

    return LearningRule(
        init,
        derivative.step_by_rule(step, check_step),
        derivative.whole_by_rule(whole, check_whole),
        spec,
    )


def advance(
    spec: RuleSpec,
    params: dict,
    carry: Carry,
    xs: Array,
    ys: PyTree,
    mask: Array | None,
    keep: bool,
    window: int | None = None,
) -> tuple[Carry, StepOutput, Callable[[], Array] | None]:
    """A chunk of the rule, for a batch of any shape, and a function () -> ∂L/∂xs."""
    batch = xs.shape[1:-1]
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[len(batch) :]), carry)
    weights = compute(spec.network, params)
    data = fold(params, xs, ys, mask)._replace(window=window)
    flat, out, dL_dxs = spec.gradient(spec, weights, flat, data, keep)
    carry = jax.tree.map(lambda x, like: x.reshape(like.shape), flat, carry)
    as_xs = lambda: dL_dxs().reshape(xs.shape).astype(xs.dtype)
    return carry, unfold(params, out, batch), None if dL_dxs is None else as_xs


def check_unit(net: Network, params: dict) -> None:
    """The cell's and the read-out's one-unit functions, tried on shapes alone."""
    jax.eval_shape(functools.partial(_try_unit, net), params)


def _try_unit(net: Network, params: dict) -> None:
    at = [f"['cell'][{l}]" if net.stacked else "['cell']" for l in range(len(net.cells))]
    layers = [*zip(net.cells, by_layer(net, params["cell"]), at)]
    for layer, p, name in (*layers, (jac.as_cell(net.readout), params["readout"], "['readout']")):
        p = jax.tree.map(lambda x: x.astype(compute_dtype(params)), p)
        c = layer.initial_state(p, (1,))
        scalar = lambda x: jax.ShapeDtypeStruct((), x.dtype)
        real = jax.ShapeDtypeStruct((), compute_dtype(p))
        drive = jac.of_gates(dict.fromkeys(jac.gate_names(p), real))
        values = jax.tree.map(scalar, jac.theta(layer, p))
        functions.unit_functions(layer, jax.tree.map(scalar, c), drive, values)
        J = jac.structure(layer, p, c)
        lines = dict.fromkeys(("w_in", "w_rec", "w_out"))
        for (path, _), source in zip(
            jax.tree.leaves_with_path(p), tr.sources(p, J, lines), strict=True
        ):
            alive = tr.reached(J, source, "w_rec" in p)
            if source.xi is None and all(J.psi[c] is None for c in alive):
                raise ValueError(
                    f"params{name}{jax.tree_util.keystr(path)}: the output's derivative with "
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


def masked(net: Network, grads: dict) -> dict:
    """A synapse that does not exist has no gradient."""
    return {**grads, "cell": each_layer(net, forward.existing, grads["cell"])}


class Data(NamedTuple):
    """A chunk's inputs and targets, on one batch axis."""

    xs: Array
    """[K, B, n_in], in the compute dtype"""
    ys: PyTree
    """[K, B, ...]"""
    mask: Array | None
    """[K, B] bool: the steps that count; None: all"""
    window: int | None = None
    """the steps over which the activity loss takes its mean; None: the chunk"""


def fold(params: dict, xs: Array, ys: PyTree, mask: Array | None = None) -> Data:
    """[K, *batch, ...] -> [K, B, ...]."""
    n_batch, k = xs.ndim - 2, xs.shape[0]
    b = math.prod(xs.shape[1:-1])
    return Data(
        xs.reshape(k, b, xs.shape[-1]).astype(compute_dtype(params)),
        jax.tree.map(lambda y: jnp.reshape(y, (k, b, *jnp.shape(y)[1 + n_batch :])), ys),
        None if mask is None else mask.reshape(k, b),
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


def _scalar(name: str, loss: Callable, dtype: Any) -> Callable[..., Array]:
    """What a user's loss returns, summed, in the compute dtype."""
    return lambda *given: jnp.sum(functions.loss_value(name, loss, *given)).astype(dtype)


def activity_losses(
    loss: Callable | None, wires: Wires, h: Array, data: Data
) -> tuple[Array, Array | None]:
    """The activity loss of each example, [B], and its derivative by h^t, [1 or K, B, n].

    It is a loss of f, the mean of h over the steps of a window that count.
    """
    if loss is None:
        return jnp.zeros(h.shape[1], h.dtype), None
    K, B = h.shape[:2]
    size = K if data.window is None else min(data.window, K)
    at = jnp.arange(K) // size
    counts = only(data.mask, jnp.ones((K, B), h.dtype))
    total = lambda x: jax.ops.segment_sum(x, at, -(-K // size)) if size < K else x.sum(0)[None]
    number = total(counts)  # [windows, B]
    share = 1 / jnp.maximum(number, 1)
    f = wires.gather(total(only(data.mask, h)) * share[..., None])
    of_rates = _scalar("activity_loss", loss, h.dtype)
    losses, dL_df = jax.vmap(jax.vmap(jax.value_and_grad(of_rates)))(f)
    there = number > 0
    losses = jnp.where(there, losses, 0).sum(0)
    dL_df = wires.own(jnp.where(there[..., None], dL_df, 0)) * share[..., None]
    if data.mask is None and size == K:
        return losses, dL_df
    return losses, counts[..., None] * dL_df[at]


def state_losses(loss: Callable, wires: Wires, c: PyTree) -> tuple[Array, tuple[Array, ...]]:
    """The state loss of each step and example, Σ_j over units, [K, B], and ∂/∂c^t by component."""
    of_unit = _scalar("state_loss", loss, jac.floats(c)[0].dtype)
    of = jax.value_and_grad(of_unit, allow_int=True)  # a counter has no derivative, and gets none
    losses, dL_dc = jax.vmap(jax.vmap(jax.vmap(of)))(c)
    where = jac.float_positions(c)
    return wires.total(jnp.sum(losses, -1)), tuple(jax.tree.leaves(dL_dc)[i] for i in where)


def meet(spec: RuleSpec, params: dict, state: State, data: Data) -> Chunk:
    """Run the chunk, and differentiate the loss where it touches the network."""
    run = forward.run(spec.network, params, state, data.xs)
    B, wires = run.y.shape[1], spec.network.cell.wires
    losses, dL_dy = jax.vmap(jax.vmap(jax.value_and_grad(per_step(spec))))(run.y, data.ys)
    activity, dL_dh = activity_losses(spec.activity_loss, wires, run.h, data)
    dL_dc = None
    if spec.state_loss is not None:
        more, dL_dc = state_losses(spec.state_loss, wires, run.c)
        losses, dL_dc = losses + more, tuple(x / B for x in dL_dc)
    # A loss may have no number, or no derivative, at a step that does not count.
    counts = functools.partial(only, data.mask)
    losses, dL_dy, dL_dc = jax.tree.map(counts, (losses, dL_dy, dL_dc))
    return Chunk(run, losses, dL_dy / B, activity, None if dL_dh is None else dL_dh / B, dL_dc)


def only(mask: Array | None, x: Array) -> Array:
    """x [K, B, ...] at the steps that count, 0 elsewhere."""
    if mask is None:
        return x
    return jnp.where(mask.reshape(*mask.shape, *(1,) * (x.ndim - 2)), x, jnp.zeros_like(x))


def finish(spec: RuleSpec, params: dict, chunk: Chunk, grads: dict) -> StepOutput:
    grads = feedback.gradient(params, spec.feedback, masked(spec.network, grads))
    return StepOutput(chunk.loss, grads, chunk.run.y, chunk.run.h, chunk.losses)
