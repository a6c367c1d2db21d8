"""`mask`: steps that do not count, for the loss and for every regulariser, are as if not there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import problem
from pace import quick
from reference import assert_same

import eprop_jax as ej

P = problem("alif", "leaky", n=4, T=9, batch=(2,))
RATE, VOLTAGE = ej.losses.firing_rate(0.3, strength=5.0), ej.losses.voltage(0.7)
LENGTHS = (5, 9)
MASK = jnp.asarray(np.arange(9)[:, None] < np.array(LENGTHS))
RULES = {
    "BPTT": (ej.bptt, {}),
    "RTRL": (ej.rtrl, {}),
    "e-prop": (ej.eprop, {}),
    "order 2": (ej.m_order_eprop, {"order": 2}),
}


def distance(y, target):
    """Singular where y is the target."""
    return jnp.sqrt(jnp.sum((y - target) ** 2))


def make(name, loss=ej.losses.squared_error, regularised=True):
    rule, options = RULES[name]
    more = dict(activity_loss=RATE, state_loss=VOLTAGE) if regularised else {}
    return rule(P.net, loss, **options, **more)


def mean(trees):
    return jax.tree.map(lambda *x: sum(x) / len(x), *trees)


@pytest.mark.parametrize("name", RULES)
def test_padded_sequences_are_the_mean_of_those_run_alone(name):
    f = ej.value_and_grad(make(name))
    alone = [f(P.params, P.xs[:t, b], P.ys[:t, b]) for b, t in enumerate(LENGTHS)]
    assert_same(f(P.params, P.xs, P.ys, mask=MASK), mean(alone), 1e-12)
    without = f(P.params, P.xs, P.ys)
    assert abs(without[0] - mean(alone)[0]) > 1e-3  # padding matters here


SLOW = [pytest.param(name, 4, marks=pytest.mark.slow) for name in ("RTRL", "order 2")]


@pytest.mark.parametrize("name, chunk", [("e-prop", 1), ("e-prop", 4), ("RTRL", 1), *SLOW])
def test_chunks_see_the_mask_too(name, chunk):
    """Of the activity loss the window is the chunk; the others do not know of chunks."""
    net_losses = make(name, regularised=False)
    whole = ej.value_and_grad(net_losses)(P.params, P.xs, P.ys, mask=MASK)
    parts = ej.value_and_grad(net_losses, chunk=chunk)(P.params, P.xs, P.ys, mask=MASK)
    assert_same(parts, whole, 1e-10)
    rule = make(name)
    carry = rule.init(P.params, (2,))
    got = ej.value_and_grad(rule, chunk=chunk)(P.params, P.xs, P.ys, mask=MASK)
    total = []
    for t in range(0, 9, chunk):
        part = slice(t, t + chunk)
        carry, out = rule.step(P.params, carry, P.xs[part], P.ys[part], mask=MASK[part])
        total.append((out.loss, out.grads))
    assert_same(got, jax.tree.map(lambda *x: sum(x), *total), 1e-10)


def test_activity_losses_take_their_window_by_the_steps_that_count():
    """K = 1, by hand: a step that does not count has no rate at all."""
    rule = ej.eprop(P.net, lambda y, t: 0.0 * jnp.sum(y), activity_loss=RATE)
    carry = rule.init(P.params, (2,))
    step = lambda mask: rule.step(P.params, carry, P.xs[:1], P.ys[:1], mask=mask)[1]
    both, one = step(None), step(jnp.array([[True, False]]))
    h = both.activity[0]
    by_hand = lambda h: 0.5 * 5.0 * jnp.sum((h - 0.3) ** 2)
    np.testing.assert_allclose(both.loss, (by_hand(h[0]) + by_hand(h[1])) / 2, rtol=1e-12)
    np.testing.assert_allclose(one.loss, by_hand(h[0]) / 2, rtol=1e-12)


@pytest.mark.parametrize("chunk", quick([None, 1, 4], 4))
def test_a_singular_loss_at_a_padded_step_does_no_harm(chunk):
    """The target is the output itself there: the distance has no derivative."""
    rule = ej.eprop(P.net, distance)
    (_, aux), _ = ej.value_and_grad(rule, has_aux=True)(P.params, P.xs, P.ys)
    ys = jnp.where(MASK[..., None], P.ys, aux.outputs)
    f = ej.value_and_grad(rule, chunk=chunk)
    assert not np.isfinite(f(P.params, P.xs, ys)[1]["cell"]["w_in"]).all()
    assert_same(f(P.params, P.xs, ys, mask=MASK), f(P.params, P.xs, P.ys, mask=MASK), 1e-12)
    weighted = ej.eprop(P.net, ej.losses.masked(distance))
    got = ej.value_and_grad(weighted, chunk=chunk)(P.params, P.xs, (ys, MASK))
    assert_same(got, f(P.params, P.xs, P.ys, mask=MASK), 1e-12)


def test_masked_is_safe_in_any_derivative():
    y = jnp.array([0.3, -0.2])
    loss = ej.losses.masked(lambda y, t: jnp.log(jnp.sum((y - t) ** 2)))
    for derivative in (jax.grad, jax.jacfwd, jax.hessian):
        assert not np.any(derivative(lambda y: loss(y, (jnp.array([0.3, -0.2]), False)))(y))
    at = lambda weight: lambda y: loss(y, (jnp.zeros(2), weight))
    np.testing.assert_allclose(jax.grad(at(0.5))(y), y / jnp.sum(y**2), rtol=1e-12)
    by_weight = jax.grad(lambda w: at(w)(y))(0.5)
    np.testing.assert_allclose(by_weight, jnp.log(jnp.sum(y**2)), rtol=1e-12)


def test_what_is_no_mask_is_refused():
    f = ej.value_and_grad(make("e-prop"))
    for mask, match in (
        (MASK.astype(float), r"mask: got dtype float64, wanted bool"),
        (MASK[:5], r"mask: got shape \[5, 2\], wanted \[9, 2\]"),
        ([True] * 9, r"mask: got list, wanted an array"),
    ):
        with pytest.raises((TypeError, ValueError), match=match):
            f(P.params, P.xs, P.ys, mask=mask)


def test_apply_runs_the_network_without_targets():
    rule = make("e-prop")
    (_, aux), _ = ej.value_and_grad(rule, has_aux=True)(P.params, P.xs, P.ys)
    run = P.net.apply(P.params, P.xs)
    assert_same(run.outputs, aux.outputs, 1e-12)
    assert_same(run.activity, aux.activity, 1e-12)
    carry, _ = rule.step(P.params, rule.init(P.params, (2,)), P.xs, P.ys)
    assert_same(run.state, carry.state, 1e-12)
    first = P.net.apply(P.params, P.xs[:4])
    second = P.net.apply(P.params, P.xs[4:], state=first.state)
    assert_same(second.outputs, run.outputs[4:], 1e-12)
    assert_same(second.state, run.state, 1e-12)
    shown = P.net.apply(P.params, P.xs, mask=MASK)
    assert_same(shown.outputs, jnp.where(MASK[..., None], run.outputs, 0), 1e-12)
    assert_same(P.net.apply(P.params, P.xs[:, 0]).outputs, run.outputs[:, 0], 1e-12)
    of = lambda p: jnp.sum((P.net.apply(p, P.xs).outputs - P.ys) ** 2) / 4
    exact = ej.value_and_grad(ej.bptt(P.net, ej.losses.squared_error))(P.params, P.xs, P.ys)[1]
    assert_same(jax.jit(jax.grad(of))(P.params), exact, 1e-10)  # autodiff's own


def test_apply_refuses_what_does_not_fit():
    for given, match in (
        ((P.params, P.xs[..., :1]), "xs: got shape"),
        (({"cell": {}}, P.xs), "params: got"),
        ((P.params, P.xs, jnp.zeros(3)), "state: got"),
        ((P.params, P.xs, P.net.apply(P.params, P.xs[:, 0]).state), "state"),
    ):
        with pytest.raises((TypeError, ValueError), match=match):
            P.net.apply(*given)
