"""Sequences packed into one row give the sum of the gradients of the sequences run alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
from cases import problem
from pace import quick

import eprop_jax as ej

LOSS = ej.losses.squared_error
LENGTHS = ((3, 17, 5, 4, 16, 9, 10), (8, 7, 6, 3, 3, 17, 12, 8))
"""of the sequences in each example's row of 64 steps"""
T = 64
CELL = ("alif, all trained", "custom")

RULES = {
    "bptt": lambda net, **o: ej.bptt(net, LOSS, **o),
    "rtrl": lambda net, **o: ej.rtrl(net, LOSS, **o),
    "e-prop": lambda net, **o: ej.eprop(net, LOSS, **o),
    "order 2": lambda net, **o: ej.m_order_eprop(net, LOSS, order=2, **o),
    "random order 3": lambda net, **o: ej.m_order_eprop(net, LOSS, order=3, feedback="random", **o),
    "adaptive e-prop": lambda net, **o: ej.eprop(net, LOSS, feedback="adaptive", **o),
}


def resets(first=False):
    at = np.zeros((T, len(LENGTHS)), bool)
    for b, lengths in enumerate(LENGTHS):
        assert sum(lengths) == T
        at[np.cumsum([0, *lengths[:-1]]), b] = True
        at[0, b] = first
    return jnp.asarray(at)


@functools.cache
def world(name, readout):
    p = problem(name, readout, n=3, n_in=2, T=T, batch=(2,))
    return p, ej.feedback.init(jax.random.key(5), p.net)


def given(net, params, B, rule):
    return params if rule.spec.feedback == "symmetric" else {**params, "feedback": B}


def alone(rule, params, xs, ys):
    """The sum over all sequences, each run by itself from the initial state, step by step."""
    step, total = jax.jit(rule.step), None
    for b, lengths in enumerate(LENGTHS):
        ends = set(np.cumsum(lengths))
        carry = rule.init(params, (1,))
        for t in range(T):
            carry, out = step(params, carry, xs[t : t + 1, b : b + 1], ys[t : t + 1, b : b + 1])
            carry = rule.init(params, (1,)) if t + 1 in ends else carry
            found = out.loss, out.grads
            total = found if total is None else jax.tree.map(jnp.add, total, found)
    return jax.tree.map(lambda x: x / len(LENGTHS), total)


@functools.cache
def wanted(cell, readout, name, state):
    p, B = world(cell, readout)
    rule = made(p.net, "rtrl" if name == "bptt" else name, state)  # BPTT's steps are truncated
    return alone(rule, given(p.net, p.params, B, rule), p.xs, p.ys)


def made(net, name, state):
    of_v = (lambda c: 0.1 * c.v**2) if state else None
    return RULES[name](net, state_loss=of_v)


def check(cell, readout, name, chunk, state=True):
    p, B = world(cell, readout)
    rule = made(p.net, name, state)
    params = given(p.net, p.params, B, rule)
    value, grads = ej.value_and_grad(rule, chunk=chunk)(params, p.xs, p.ys, resets=resets())
    loss, expected = wanted(cell, readout, name, state)
    np.testing.assert_allclose(value, loss, rtol=1e-12)
    ref.assert_same(grads, expected)


@pytest.mark.parametrize("chunk", quick([None, 1, 7, "auto"], 7))
@pytest.mark.parametrize("name", quick(RULES, "order 2"))
def test_packed_sequences_are_the_sum_of_those_run_alone(name, chunk):
    if name == "bptt" and chunk in (1, 7):
        pytest.skip("truncated, where chunks end")
    check(*CELL, name, chunk)


@pytest.mark.parametrize("cell, readout, name, chunk", [
    ("lif, refractory", "leaky", "e-prop", 7),
    pytest.param("lif, refractory", "leaky", "e-prop", 1, marks=pytest.mark.slow),
    pytest.param("lif, refractory", "leaky", "rtrl", 7, marks=pytest.mark.slow),
    pytest.param("lif, refractory", "leaky", "e-prop", None, marks=pytest.mark.slow),
])  # fmt: skip
def test_shared_traces_and_counters_start_afresh_too(cell, readout, name, chunk):
    check(cell, readout, name, chunk)


@pytest.mark.slow
def test_a_reset_at_the_first_step_of_a_call_drops_what_the_carry_holds():
    p, _ = world(*CELL)
    rule = made(p.net, "order 2", True)
    run = lambda carry, t, at: rule.step(p.params, carry, p.xs[t], p.ys[t], resets=at)
    begin = rule.init(p.params, (2,))
    carry, _ = run(begin, slice(0, 5), None)
    for K in (1, 3):
        at = jnp.zeros((K, 2), bool).at[0].set(True)
        got, out = run(carry, slice(5, 5 + K), at)
        expected, alone = run(begin, slice(5, 5 + K), None)
        ref.assert_same((got, out), (expected, alone))


def stack():
    cells = [ej.cells.alif(2, 3, v_th=0.4, trainable=("v_th", "tau_m")), ej.cells.gru(3, 2)]
    net = ej.Network(cells, ej.readouts.leaky(2, 2, tau=4.0))
    wide = lambda tree: jax.tree.map(lambda x: x.astype("float64"), tree)
    xs, ys = world(*CELL)[0].xs, world(*CELL)[0].ys
    return net, wide(net.init(jax.random.key(1))), xs, ys


@pytest.mark.parametrize("chunk", quick([None, 1, 7], 7))
@pytest.mark.parametrize("language", quick(["i*f*", "(i|e|f)*", ej.paths.order(2)], "i*f*"))
def test_stacks_start_afresh_too(language, chunk):
    net, params, xs, ys = stack()
    rule = ej.by_paths(net, LOSS, paths=language)
    found = ej.value_and_grad(rule, chunk=chunk)(params, xs, ys, resets=resets(True))
    ref.assert_same(found, alone(rule, params, xs, ys))


def test_the_network_alone_and_the_online_learner_take_resets():
    import optax

    net, params, xs, ys = stack()
    run = net.apply(params, xs, resets=resets())
    first, second = net.apply(params, xs[:3, :1]), net.apply(params, xs[3:20, :1])
    ref.assert_same(run.outputs[:20, :1], jnp.concatenate([first.outputs, second.outputs]))
    rule = ej.by_paths(net, LOSS, paths="i*f*")
    learner = ej.online(rule, optax.sgd(0.0), every=5)
    _, out = learner.step(learner.init(params, (2,)), xs, ys, resets=resets())
    ref.assert_same(out.grads, alone(rule, params, xs, ys)[1])


@pytest.mark.parametrize("value, words", [
    (jnp.zeros((T, 2)), "resets: got dtype"), (jnp.zeros((T, 3), bool), r"resets: got shape \[64, 3\]"),
    ([True], "resets: got list"),
])  # fmt: skip
def test_what_is_no_reset_is_refused(value, words):
    net, params, xs, ys = stack()
    f = ej.value_and_grad(ej.by_paths(net, LOSS, paths="i*f*"))
    with pytest.raises((TypeError, ValueError), match=f"{words}.*wanted"):
        f(params, xs, ys, resets=value)
