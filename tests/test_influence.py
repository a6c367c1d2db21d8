"""A rule is its traces and the equations of one step: scanned, they give what the chunked forms give,
and a rule of one's own is right at every chunk."""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pace
import pytest
import reference as ref

import eprop_jax as ej
from eprop_jax.engine import definition

LOSS = ej.losses.squared_error
T, BATCH = 7, 3
CELLS = {
    "alif": functools.partial(ej.cells.alif, tau_m=5.0, v_th=0.3, trainable=("v_th", "beta")),
    "lif": functools.partial(ej.cells.lif, tau_m=5.0, v_th=0.3),
    "lstm": ej.cells.lstm,
    "masked": lambda n_in, n: ej.cells.gru(
        n_in, n, connectivity=jax.random.bernoulli(jax.random.key(3), 0.6, (n, n))
    ),
}


def problem(cell, readout=ej.readouts.leaky):
    net = ej.Network(CELLS[cell](2, 4), readout(4, 2))
    params = jax.tree.map(lambda x: x.astype(jnp.float64), net.init(jax.random.key(0)))
    params["feedback"] = ej.feedback.init(jax.random.key(5), net)
    xs = 2 * jax.random.normal(jax.random.key(1), (T, BATCH, 2))
    return net, params, xs, jax.random.normal(jax.random.key(2), (T, BATCH, 2))


def steps():
    mask, resets = jax.random.bernoulli(jax.random.key(6), 0.7, (2, T, BATCH))
    return {"mask": mask, "resets": ~resets}


RULES = {
    "eprop": ej.eprop,
    "order 1": functools.partial(ej.m_order_eprop, order=1),
    "order 3": functools.partial(ej.m_order_eprop, order=3),
    "rtrl": ej.rtrl,
}


@pytest.mark.parametrize(
    "rule_and_cell",
    pace.quick(
        list(itertools.product(RULES, ["alif", "lstm"])), ("eprop", "alif"), ("rtrl", "lstm")
    ),
)
def test_a_chunk_at_once_is_its_steps_scanned(rule_and_cell):
    """`Influence.over` against the scan of `advance`: gradients and the carry after each call."""
    rule, cell = rule_and_cell
    net, params, xs, ys = problem(cell)
    feedback = {} if rule == "rtrl" else {"feedback": "random"}
    losses = {"activity_loss": lambda f: jnp.sum(f**2), "state_loss": ej.losses.voltage(0.1)}
    losses = losses if cell == "alif" else {}
    fast = RULES[rule](net, LOSS, **feedback, **losses)
    plain = definition.of_influence(fast.spec, fast.spec.influence._replace(over=None))
    said = steps()
    carries = [x.init(params, (BATCH,)) for x in (fast, plain)]
    for at in (slice(0, 3), slice(3, 6)):
        part = {name: x[at] for name, x in said.items()}
        found = [
            x.step(params, carry, xs[at], ys[at], **part)
            for x, carry in zip((fast, plain), carries)
        ]
        carries = [carry for carry, _ in found]
        ref.assert_same(*(out.grads for _, out in found), 1e-12)
        ref.assert_same(*carries, 1e-12)


class Snap1Carry(NamedTuple):
    state: ej.State
    epsilon: Any
    gamma: Any


def advance(S, d):
    e_tm1 = d.dh_dc_tm1 @ S.epsilon + d.dh_dw_tm1
    epsilon = d.dc_dc @ S.epsilon + d.dc_dh.own @ e_tm1 + d.dc_dw
    e = d.dh_dc @ epsilon + d.dh_dw
    gamma = d.dy_dy @ S.gamma.cell + d.dy_dh @ e
    gamma_out = d.dy_dy @ S.gamma.readout + d.dy_dv
    dL_dw = d.L @ gamma + d.dL_dh @ e + d.dL_dc @ epsilon
    S = S._replace(epsilon=epsilon, gamma=S.gamma._replace(cell=gamma, readout=gamma_out))
    return S, dL_dw, d.dL_dy @ gamma_out


def start(zero):
    return Snap1Carry(zero.state, zero.own, zero.gamma)


SNAP_1 = ej.Influence(start, advance, local=True)


def snap_1(net, influence=SNAP_1, **options):
    return ej.by_influence(net, LOSS, influence, name="SnAp-1", **options)


@pytest.mark.parametrize(
    "cell_and_feedback",
    pace.quick(
        list(itertools.product(["alif", "lif", "masked"], ["symmetric", "random", "adaptive"])),
        ("lif", "random"),
        ("masked", "symmetric"),
    ),
)
def test_a_rule_of_ones_own_is_right_at_every_chunk(cell_and_feedback):
    cell, feedback = cell_and_feedback
    net, params, xs, ys = problem(cell)
    options = {"feedback": feedback}
    if cell != "masked":
        options["state_loss"] = ej.losses.voltage(0.1)
    by_paths = functools.partial(ej.by_paths, net, LOSS, **options)
    said = steps()
    wanted = ej.value_and_grad(by_paths(paths="(i|s)*"))(params, xs, ys, **said)
    e_prop = ej.value_and_grad(by_paths(paths="i*"))(params, xs, ys, **said)[1]
    assert ref.distance(e_prop["cell"], wanted[1]["cell"]) > 1e-3  # w_jj matters here
    for chunk in (None, 1, 3):
        found = ej.value_and_grad(snap_1(net, **options), chunk=chunk)(params, xs, ys, **said)
        ref.assert_same(found, wanted, 1e-10)


def test_an_activity_loss_meets_it_too():
    net, params, xs, ys = problem("lif")
    losses = {"activity_loss": lambda f: jnp.sum(f**2)}
    wanted = ej.value_and_grad(ej.by_paths(net, LOSS, paths="(i|s)*", **losses))(params, xs, ys)
    ref.assert_same(ej.value_and_grad(snap_1(net, **losses))(params, xs, ys), wanted)


@pytest.mark.parametrize("of", [ej.readouts.linear, ej.readouts.leaky])
def test_without_the_promise_there_is_a_gamma_for_each_output(of):
    net, params, xs, ys = problem("lif", of)
    grads = [
        ej.value_and_grad(snap_1(net, SNAP_1._replace(local=local)))(params, xs, ys)[1]
        for local in (True, False)
    ]
    ref.assert_same(*grads, 1e-12)


class Counted(NamedTuple):
    state: ej.State
    epsilon: Any
    gamma: Any
    steps: Any


def test_arrays_of_its_own_are_carried_and_start_afresh():
    net, params, xs, ys = problem("lif")

    def counting(S, d):
        after, *found = advance(S, d)
        return after._replace(steps=S.steps + 1), *found

    begin = lambda zero: Counted(*start(zero), jnp.full(zero.state.y.shape[0], 5, jnp.int32))
    rule = snap_1(net, ej.Influence(begin, counting))
    carry = rule.init(params, (BATCH,))
    resets = jnp.zeros((T, BATCH), bool).at[0, 0].set(True).at[4, 1].set(True)
    for at in (slice(0, 1), slice(1, T)):
        carry, _ = rule.step(params, carry, xs[at], ys[at], resets=resets[at])
    assert carry.steps.tolist() == [5 + T, 5 + 3, 5 + T]


def test_it_fits_where_rules_fit():
    net, params, xs, ys = problem("lif")
    rule = snap_1(net)
    assert repr(rule) == "LearningRule(SnAp-1, Network(lif 2 -> 4, leaky 4 -> 2))"
    params = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    del params["feedback"]
    xs, ys = xs.astype(jnp.float32), ys.astype(jnp.float32)
    loss = lambda p: ej.value_and_grad(rule)(p, xs, ys)[0]
    ref.assert_same(jax.grad(loss)(params), ej.value_and_grad(rule)(params, xs, ys)[1], 1e-6)
    narrow = ej.narrow_traces(rule)
    assert narrow.init(params, (BATCH,)).epsilon["w_rec"].v.dtype == jnp.bfloat16
    learner = ej.online(rule, optax.sgd(1e-2))
    state, out = learner.step(learner.init(params, (BATCH,)), xs[:1], ys[:1])
    assert type(state.carry) is Snap1Carry and jnp.isfinite(out.loss)
    assert ej.cost(rule, params, (BATCH,)).trace_bytes == sum(
        x.nbytes for x in jax.tree.leaves(rule.init(params, (BATCH,)))
    )


def test_what_no_language_tells_is_refused():
    net, params, xs, ys = problem("lif")
    del params["feedback"]
    rule = snap_1(net)
    with pytest.raises(TypeError, match="xs"):
        jax.grad(lambda xs: ej.value_and_grad(rule)(params, xs, ys)[0])(xs)
    with pytest.raises(ValueError, match="whose paths no language tells"):
        ej.paths.report(rule, params)


def test_wrong_equations_are_refused_by_name():
    net, params, xs, ys = problem("lif")
    del params["feedback"]

    def refused(match, start=start, advance=advance, kind=ValueError):
        with pytest.raises(kind, match=match):
            ej.value_and_grad(snap_1(net, ej.Influence(start, advance)))(params, xs, ys)

    def without_w_rec(S, d):
        S, dL_dw, dL_dv = advance(S, d)
        return S, type(dL_dw)((*dL_dw.leaves[:-1], None)), dL_dv

    refused(
        r"advance: its gradient has nothing for params\['cell'\]\['w_rec'\]", start, without_w_rec
    )
    refused("start: got dict", lambda zero: {"state": zero.state}, kind=TypeError)
    refused("first field is state", lambda zero: Snap1Carry(*start(zero))[1:], kind=TypeError)
    short = lambda zero: start(zero)._replace(epsilon=jnp.zeros(2))
    refused(r"start: got \[2\] at carry.epsilon, wanted a first axis of all examples, \[3, ", short)
    refused("advance: got Snap1Carry from it", advance=lambda S, d: S, kind=TypeError)
    pair = lambda S, d: advance(S, d)[:2]
    refused(r"advance: got \('Snap1Carry', 'Gradient'\) from it", advance=pair, kind=TypeError)

    def ends(S, d):
        S, *found = advance(S, d)
        return S._replace(epsilon=d.dc_dh @ S.epsilon), *found

    refused("advance: got Ends as epsilon, wanted Local", advance=ends, kind=TypeError)
    narrow = lambda zero: start(zero)._replace(
        epsilon=zero.local
    )  # one for all units, without w_jj
    refused("advance: got epsilon of another form .*zero.own", start=narrow)
    stack = ej.Network([ej.cells.lif(2, 4), ej.cells.lif(4, 4)], ej.readouts.linear(4, 2))
    with pytest.raises(ValueError, match="net: got a stack of 2 layers"):
        snap_1(stack)
    with pytest.raises(TypeError, match="influence: got function, wanted an"):
        snap_1(net, advance)
