"""What every rule does around its own mathematics: refuse, cast, run the network, fill the carry.

Batches of any shape are folded into one axis here, so that the mathematics sees [K, B, ...].
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eprop_jax import checks
from eprop_jax.engine import chunks, derivative, objective, signals
from eprop_jax.engine import jacobians as jac
from eprop_jax.engine import traces as tr
from eprop_jax.engine.influence import Influence, started
from eprop_jax.engine.maybe import there, those
from eprop_jax.network import functions, unitwise
from eprop_jax.network.forward import compute, init_state
from eprop_jax.network.types import (
    NO_STEPS,
    Array,
    Carry,
    Cell,
    FirstCarry,
    LearningRule,
    Network,
    PyTree,
    RuleSpec,
    State,
    StepOutput,
    Steps,
    by_layer,
    feedback_like,
)
from eprop_jax.network.units import compute_dtype


def specify(
    name: str,
    language: str | None,
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
        for l, f in those(dict(enumerate(objective.losses_of(net, given)))).items():
            own = type(given) is tuple and net.stacked
            checks.is_callable(f"{name_of}[{l}]" if own else name_of, f)
    checks.one_of("feedback", kind, signals.KINDS)
    return RuleSpec(name, language, net, loss, activity_loss, kind, state_loss)


def of_library(name: str, rule: Any) -> RuleSpec:
    """The spec of one of the library's rules; refuse any other."""
    if not isinstance(rule, LearningRule) or rule.spec is None or rule.spec.gradient is None:
        raise TypeError(f"{name}: got {type(rule).__name__}, wanted one of the library's rules")
    return rule.spec


def language_of(spec: RuleSpec) -> str:
    """Refuse a rule of which no language says what it keeps."""
    if spec.language is None:
        raise ValueError(
            f"rule: got {spec}, whose paths no language tells, wanted a rule by a language of paths"
        )
    return spec.language


def build(
    spec: RuleSpec,
    begun: Callable,
    gradient: Callable,
    traced: bool = True,
    refuse: Callable[[dict], None] = lambda params: None,
) -> LearningRule:
    """init, step and whole of a rule, from its traces (if it is `traced`) and its gradient.

    `begun(spec, params, state, B)` gives the carry before any step, whose first field is `state`;
    `gradient(spec, params, carry, data, keep)` works on one batch axis, in the compute dtype;
    `refuse(params)` refuses what the rule cannot train. Without a language there is no form for whole
    sequences.
    """
    spec = spec._replace(gradient=gradient)
    net = spec.network
    expected = jax.eval_shape(net.init, jax.random.key(0))
    reads_B = spec.feedback != "symmetric"
    tried = set()

    def check(params):
        checks.parameters(params, expected, feedback_like(net), reads_B, spec.name)

    # The carry's form is asked for by itself, and traced once for all.
    begin = jax.jit(functools.partial(beginning, spec, begun), static_argnums=1, inline=True)

    def check_units(params):
        """The cell's own functions, tried once for each dtype."""
        dtype = compute_dtype(params)
        if dtype not in tried:
            check_unit(net, params)
            jax.eval_shape(refuse, params)
            if spec.moves and not any(m.jumps for m in spec.moves):
                jax.eval_shape(functools.partial(check_initial, spec), params)
            tried.add(dtype)

    def like_init(params, batch):
        check_units(params)
        return jax.eval_shape(lambda p: begin(p, batch), params)

    def check_start(params, batch_shape):
        check(params)
        check_delays(spec, params, traced)
        check_units(params)

    def check_step(params, carry, xs, ys, steps=NO_STEPS):
        check(params)
        batch = checks.sequence(xs, ys, net.n_in, steps)
        checks.carry(carry, batch, net.readout.n_out, lambda: like_init(params, batch), xs.shape[0])

    def check_whole(params, xs, ys, steps=NO_STEPS):
        check(params)
        check_delays(spec, params, False)
        checks.sequence(xs, ys, net.n_in, steps)
        check_units(params)

    def start(params, batch_shape):
        check_start(params, batch_shape)
        return begin(params, batch_shape)

    def step(params, carry, xs, ys, steps=NO_STEPS):
        check_step(params, carry, xs, ys, steps)
        return advance(spec, params, carry, xs, ys, steps, True)

    def whole(params, xs, ys, steps=NO_STEPS, window=None):
        check_whole(params, xs, ys, steps)
        carry = beginning(spec, without_traces, params, xs.shape[1:-1])
        return advance(spec, params, carry, xs, ys, steps, False, window)[1:]

    started = checks.explained(jax.jit(start, static_argnums=1), check_start)

    def init(params, batch_shape=()) -> Any:
        return started(params, checks.batch(batch_shape))

    return LearningRule(
        init,
        derivative.step_by_rule(step, check_step),
        None if spec.language is None else derivative.whole_by_rule(whole, check_whole),
        spec,
    )


def of_influence(spec: RuleSpec, influence: Influence | None) -> LearningRule:
    """A rule of one layer, by its own traces; None: it keeps none."""
    begun = without_traces if influence is None else started(influence)
    traced = influence is not None
    return build(spec._replace(influence=influence), begun, chunks.gradient(influence), traced)


def carry_of(rule: LearningRule, params: PyTree, batch: tuple[int, ...]) -> Any:
    """The shapes of a rule's carry; of a rule that reads B, whether or not it stands in `params`."""
    spec = rule.spec
    if spec is not None and spec.feedback != "symmetric" and "feedback" not in params:
        like, dtype = feedback_like(spec.network), jax.tree.leaves(params)[0].dtype
        B = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), like)
        params = {**params, "feedback": B}
    return jax.eval_shape(lambda p: rule.init(p, batch), params)


def beginning(spec: RuleSpec, begun: Callable, params: dict, batch_shape: tuple[int, ...]) -> Any:
    """The carry before any step."""
    state, b = init_state(spec.network, params, batch_shape), math.prod(batch_shape)
    one_axis = jax.tree.map(lambda x: x.reshape(b, x.shape[-1]), state)
    carry = begun(spec, compute(spec.network, params), one_axis, b)._replace(state=())
    return unfolded(carry, b, batch_shape)._replace(state=state)


def without_traces(spec: RuleSpec, params: dict, state: State, batch: int) -> Any:
    """The carry of a rule that keeps nothing but the network's state."""
    trained = any("initial" in p for p in by_layer(spec.network, params["cell"]))
    return FirstCarry(state, jnp.ones(batch, state.y.dtype)) if trained else Carry(state)


def unfolded(carry: Any, size: int, batch: tuple[int, ...]) -> Any:
    """Traces [B, ...] -> [*batch, ...]."""

    def unfold(path, x):
        if jnp.shape(x)[:1] != (size,):
            raise ValueError(
                f"start: got {list(jnp.shape(x))} at carry{jax.tree_util.keystr(path)}, wanted a first "
                f"axis of all examples, [{size}, ...]"
            )
        return x.reshape(*batch, *x.shape[1:])

    return jax.tree_util.tree_map_with_path(unfold, carry)


def advance(
    spec: RuleSpec,
    params: dict,
    carry: Any,
    xs: Array,
    ys: PyTree,
    steps: Steps,
    keep: bool,
    window: int | None = None,
) -> tuple[Any, StepOutput, Callable[[], Array] | None]:
    """A chunk of the rule, for a batch of any shape, and a function () -> ∂L/∂xs."""
    batch = xs.shape[1:-1]
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[len(batch) :]), carry)
    weights = compute(spec.network, params)
    data = objective.fold(params, xs, ys, steps)._replace(window=window)
    flat, out, dL_dxs = spec.gradient(spec, weights, flat, data, keep)
    carry = jax.tree.map(lambda x, like: x.reshape(like.shape), flat, carry)
    as_xs = lambda: dL_dxs().reshape(xs.shape).astype(xs.dtype)
    return carry, objective.unfold(params, out, batch), None if dL_dxs is None else as_xs


def check_delays(spec: RuleSpec, params: dict, traced: bool) -> None:
    """A trace holds what has arrived. What is still on its way on a synapse with a delay, no trace
    holds: a rule that follows paths over it has whole sequences alone."""
    for l, (cell, p) in enumerate(zip(spec.network.cells, by_layer(spec.network, params["cell"]))):
        late = {line for line, s in cell.synapses.items() if s.delay and line in p}
        nodes = spec.costates(params) if late and spec.costates else ()
        mine = [x for x in nodes if x.layer == l] if spec.costates else spec.moves
        if "w_rec" in late and any(x.e != x.s for x in mine):
            raise ValueError(
                f"net: got delays on w_rec of layer {l} under {spec.name}, which tells s from e, "
                "wanted synapses without delays"
            )
        jumps = not (spec.costates or spec.moves)  # not told: a rule of one's own
        over = {"w_rec"} if jumps or any(x.jumps for x in mine) else set()
        over |= {"w_in"} if any(above == l for x in nodes for above, _ in x.f) else set()
        if traced and late & over:
            raise ValueError(
                f"net: got delays on {', '.join(sorted(late & over))} of layer {l} under {spec.name}, "
                "whose traces would follow paths over them, wanted whole sequences (ej.value_and_grad "
                "without chunk), or a rule that takes no such path, such as ej.eprop"
            )


def check_initial(spec: RuleSpec, params: dict) -> None:
    """Of a rule that takes no jump: from an initial value that its own unit does not keep, nothing goes
    on."""
    cell, p = spec.network.cell, compute(spec.network, params)["cell"]
    c = jax.eval_shape(lambda p: cell.initial_state(p, (1,)), p)
    J = jac.structure(cell, p, c)
    for name in p.get("initial", {}):
        r = unitwise.components(c)[name]
        if not any(row[r] for row in there(J.D)):
            raise ValueError(
                f"params['cell']['initial']['{name}']: got no path to the loss under {spec.name}, "
                "which takes no jump, so that its gradient would be a silent zero; wanted a component "
                "that its unit keeps, trained by itself (trainable=('initial.…',)), or ej.m_order_eprop"
            )


def check_unit(net: Network, params: dict) -> None:
    """The cell's and the read-out's one-unit functions, tried on shapes alone."""
    jax.eval_shape(functools.partial(_try_unit, net), params)


def _try_unit(net: Network, params: dict) -> None:
    at = [f"['cell'][{l}]" if net.stacked else "['cell']" for l in range(len(net.cells))]
    layers = [*zip(net.cells, by_layer(net, params["cell"]), at)]
    out = unitwise.as_cell(net.readout), params["readout"], "['readout']"
    for layer, p, name in (*layers, out):
        p = jax.tree.map(lambda x: x.astype(compute_dtype(params)), p)
        c = layer.initial_state(p, (1,))
        J = _blocks_of(layer, p, c)
        for (path, _), entry in zip(
            jax.tree.leaves_with_path(p), tr.entries(layer, p, c, J, {}), strict=True
        ):
            alive = tr.reached(J, entry, "w_rec" in p)
            if not (there(entry.xi) or any(there(J.psi[c]) for c in alive)):
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


def _blocks_of(cell: Cell, p: dict, c: PyTree) -> jac.Blocks:
    """Which blocks a layer's unit has, where its functions are what they should be."""
    scalar = lambda x: jax.ShapeDtypeStruct((), x.dtype)
    drive = dict.fromkeys(unitwise.gate_names(p), jax.ShapeDtypeStruct((), compute_dtype(p)))
    c_j, a_j, theta = jax.tree.map(scalar, (c, unitwise.of_gates(drive), unitwise.theta(cell, p)))
    seen = cell, {"theta": theta, "c": c_j, "a": a_j}
    functions.unit_functions(*seen)
    try:
        return jac.structure(cell, p, c)
    except Exception:
        functions.differentiable_forward(*seen)
        raise
