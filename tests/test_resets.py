"""Sequences packed into one row give the sum of the gradients of the sequences run alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference as ref
from cases import problem
from pace import quick

import eprop_jax as ej

LOSS = ej.losses.squared_error
T, LONGEST = 64, 17
LENGTHS = ((3, 17, 5, 4, 16, 9, 10), (8, 7, 6, 3, 3, 17, 12, 8))
"""of the sequences in each example's row of T steps"""
PLACES = [
    (b, end - n, end)
    for b, lengths in enumerate(LENGTHS)
    for n, end in zip(lengths, np.cumsum(lengths))
]
COUNTS = jnp.asarray(np.arange(LONGEST)[:, None] < [end - start for _, start, end in PLACES])
"""the steps that each has, apart"""
CELL, SHARED = ("alif, all trained", "custom"), ("lif, refractory", "leaky")

RULES = {
    "bptt": lambda net, **o: ej.bptt(net, LOSS, **o),
    "rtrl": lambda net, **o: ej.rtrl(net, LOSS, **o),
    "e-prop": lambda net, **o: ej.eprop(net, LOSS, **o),
    "order 2": lambda net, **o: ej.m_order_eprop(net, LOSS, order=2, **o),
    "random order 3": lambda net, **o: ej.m_order_eprop(net, LOSS, order=3, feedback="random", **o),
    "adaptive e-prop": lambda net, **o: ej.eprop(net, LOSS, feedback="adaptive", **o),
}


def resets(first=False):
    """[T, 2]; `first`: at the first step of a row too."""
    at = np.zeros((T, len(LENGTHS)), bool)
    for b, start, _ in PLACES:
        at[start, b] = start > 0 or first
    return jnp.asarray(at)


def apart(x):
    """[T, 2, ...] -> [LONGEST, sequences, ...], padded: tests/test_masks.py holds that a mask makes of
    them sequences that are run alone."""
    pad = lambda x: jnp.pad(x, ((0, LONGEST - len(x)), *((0, 0),) * (x.ndim - 1)))
    return jnp.stack([pad(x[start:end, b]) for b, start, end in PLACES], 1)


def packed(x):
    """The way back."""
    out = np.zeros((T, len(LENGTHS), *x.shape[2:]))
    for i, (b, start, end) in enumerate(PLACES):
        out[start:end, b] = x[: end - start, i]
    return jnp.asarray(out)


SUM = len(PLACES) / len(LENGTHS)
"""of a mean over sequences, the sum of them in the mean over rows"""


def together(rule, params, xs, ys, chunk=None, **given):
    """(loss, gradients), (outputs, activity)"""
    f = ej.value_and_grad(rule, chunk=chunk, has_aux=True)
    (loss, aux), grads = f(params, xs, ys, **given)
    return (loss, grads), (aux.outputs, aux.activity)


def alone(rule, params, xs, ys):
    """The same of all sequences, each from the initial state."""
    of_mean, shown = together(rule, params, apart(xs), apart(ys), mask=COUNTS)
    return jax.tree.map(lambda x: x * SUM, of_mean), jax.tree.map(packed, shown)


@functools.cache
def made(cell, readout, name):
    """(rule, its parameters, inputs, targets)"""
    p = problem(cell, readout, n=3, n_in=2, T=T, batch=(2,))
    rule, params = RULES[name](p.net, state_loss=ej.losses.voltage(0.2)), p.params
    if rule.spec.feedback != "symmetric":
        params = {**params, "feedback": ej.feedback.init(jax.random.key(5), p.net)}
    return rule, params, p.xs, p.ys


@functools.cache
def wanted(*case):
    return alone(*made(*case))


def same(case, chunk, first):
    ref.assert_same(together(*made(*case), chunk, resets=resets(first)), wanted(*case))


@pytest.mark.parametrize("first", quick([False, True], False))
@pytest.mark.parametrize("chunk", quick([None, 1, 7, "auto"], 7))
@pytest.mark.parametrize("name", quick(RULES, "e-prop"))
def test_packed_sequences_are_the_sum_of_those_run_alone(name, chunk, first):
    if name == "bptt" and chunk in (1, 7):
        chunk = T  # shorter ones are truncated, where they end
    same((*CELL, name), chunk, first)


@pytest.mark.parametrize("name", quick(["order 2", "rtrl"], "order 2"))
def test_where_the_resets_are_matters(name):
    """Without them, or with each a step late, it is another gradient."""
    case = (*CELL, name)
    same(case, None, True)
    (_, grads), _ = wanted(*case)
    for other in (jnp.zeros((T, 2), bool), jnp.roll(resets(), 1, 0)):
        _, found = ej.value_and_grad(made(*case)[0])(*made(*case)[1:], resets=other)
        assert ref.norm(jax.tree.map(jnp.subtract, found, grads)) > 1e-2 * ref.norm(grads)


@pytest.mark.parametrize("readout", quick(["leaky", "leaky, tau trained"], "leaky"))
@pytest.mark.parametrize("name", quick(["e-prop", "rtrl"], "e-prop"))
@pytest.mark.parametrize("chunk", quick([None, 1, 7], 7))
def test_shared_traces_and_counters_start_afresh_too(name, readout, chunk):
    same(("lif, refractory", readout, name), chunk, False)


@pytest.mark.parametrize("chunk", quick([None, 7], None))
@pytest.mark.parametrize("case", quick([(*SHARED, "e-prop"), (*CELL, "rtrl")], (*SHARED, "e-prop")))
def test_a_mask_holds_beside_resets_and_inputs_have_their_own_gradient(case, chunk):
    rule, params, xs, ys = made(*case)
    counts = jnp.asarray(np.random.default_rng(1).random((T, 2)) < 0.7)
    by_xs = lambda f: jax.value_and_grad(lambda xs: f(xs)[0])(xs)
    f, there = ej.value_and_grad(rule), COUNTS & apart(counts)
    of_mean = by_xs(lambda xs: f(params, apart(xs), apart(ys), mask=there))
    g = ej.value_and_grad(rule, chunk=chunk)
    found = by_xs(lambda xs: g(params, xs, ys, mask=counts, resets=resets()))
    ref.assert_same(found, jax.tree.map(lambda x: x * SUM, of_mean))


@pytest.mark.parametrize("K", quick([1, 3], 1))
@pytest.mark.parametrize("name", quick(["e-prop", "order 2", "rtrl"], "order 2"))
def test_a_reset_at_the_first_step_of_a_call_drops_what_the_carry_holds(name, K):
    rule, params, xs, ys = made(*CELL, name)
    nowhere = jnp.zeros((K, 2), bool)
    run = lambda carry, at: rule.step(params, carry, xs[:K], ys[:K], resets=at)[0]
    begin = rule.init(params, (2,))
    carry = run(run(run(begin, nowhere), nowhere), nowhere)
    one_anew = jax.tree.map(lambda old, new: old.at[1].set(new[1]), carry, begin)
    ref.assert_same(run(carry, nowhere.at[0, 1].set(True)), run(one_anew, nowhere))


def stack():
    cells = [ej.cells.alif(2, 3, v_th=0.4, trainable=("v_th", "tau_m")), ej.cells.gru(3, 2)]
    net = ej.Network(cells, ej.readouts.leaky(2, 2, tau=4.0))
    params = jax.tree.map(lambda x: x.astype("float64"), net.init(jax.random.key(1)))
    return net, params, *made(*SHARED, "e-prop")[2:]


@pytest.mark.parametrize("chunk", quick([None, 1, 7], 7))
@pytest.mark.parametrize("language", quick(["i*f*", "(i|e|f)*", ej.paths.order(2)], "i*f*"))
def test_stacks_start_afresh_too(language, chunk):
    net, *given = stack()
    rule = ej.by_paths(net, LOSS, paths=language)
    ref.assert_same(together(rule, *given, chunk, resets=resets(True)), alone(rule, *given))


def test_the_network_alone_and_the_online_learner_take_resets():
    rule, params, xs, ys = made(*SHARED, "e-prop")
    (_, grads), shown = wanted(*SHARED, "e-prop")
    run = rule.spec.network.apply(params, xs, resets=resets())
    ref.assert_same((run.outputs, run.activity), shown)
    learner = ej.online(rule, optax.sgd(0.0), every=8)
    _, out = learner.step(learner.init(params, (2,)), xs, ys, resets=resets())
    ref.assert_same(out.grads, grads)


def test_narrow_traces_take_resets():
    rule, params, xs, ys = made(*SHARED, "e-prop")
    rule, every = ej.narrow_traces(rule), jnp.ones((1, 2), bool)
    run = lambda carry, at: rule.step(params, carry, xs[:1], ys[:1], resets=at)[0]
    begin = rule.init(params, (2,))
    again = run(run(run(begin, ~every), ~every), every)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, again, run(begin, ~every)))


def test_rules_of_your_own_that_take_no_resets_work_as_before():
    rule, params, xs, ys = made(*SHARED, "e-prop")
    own = ej.LearningRule(rule.init, lambda *given: rule.step(*given), None)
    f = lambda rule, **o: ej.value_and_grad(rule, chunk=1)(params, xs[:7], ys[:7], **o)
    ref.assert_same(f(own), f(rule))
    with pytest.raises(TypeError, match="resets"):  # none is silently lost
        f(own, resets=resets()[:7])


@pytest.mark.parametrize("value, words", [
    (jnp.zeros((T, 2)), "resets: got dtype float64, wanted bool"),
    (jnp.zeros((T, 3), bool), r"resets: got shape \[64, 3\], wanted \[64, 2\]"),
    ([True], "resets: got list, wanted an array"),
])  # fmt: skip
def test_what_is_no_reset_is_refused(value, words):
    rule, params, xs, ys = made(*SHARED, "e-prop")
    net, stack_params, *_ = stack()
    layers, learner = ej.by_paths(net, LOSS, paths="i*f*"), ej.online(rule, optax.sgd(0.0))
    calls = [
        lambda: ej.value_and_grad(rule)(params, xs, ys, resets=value),
        lambda: ej.value_and_grad(rule, chunk=7)(params, xs, ys, resets=value),
        lambda: rule.step(params, rule.init(params, (2,)), xs, ys, resets=value),
        lambda: rule.whole(params, xs, ys, resets=value),
        lambda: rule.spec.network.apply(params, xs, resets=value),
        lambda: learner.step(learner.init(params, (2,)), xs, ys, resets=value),
        lambda: ej.value_and_grad(layers)(stack_params, xs, ys, resets=value),
    ]
    for call in calls:
        with pytest.raises((TypeError, ValueError), match=words):
            call()
