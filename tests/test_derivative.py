"""The loss that a rule returns differentiates by the rule, whatever JAX does to it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import problem
from reference import assert_same

import eprop_jax as ej

stop = jax.lax.stop_gradient
CHUNKS = (None, 1, 7)
P = problem("alif", "leaky", n=4, T=9, batch=(2,))
GRU = problem("gru", "linear", n=4, T=9, batch=(2,))
B = ej.feedback.init(jax.random.key(5), P.net)
RULES = {
    "BPTT": (ej.bptt, {}),
    "RTRL": (ej.rtrl, {}),
    "e-prop": (ej.eprop, {}),
    "e-prop, random": (ej.eprop, {"feedback": "random"}),
    "order 2": (ej.m_order_eprop, {"order": 2}),
}


CASES = [
    *(("e-prop, random", chunk) for chunk in CHUNKS),
    *((name, None) for name in RULES if name != "e-prop, random"),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ("e-prop", 1), ("e-prop", 7), ("RTRL", 7), ("order 2", 7), ("BPTT", 7))),
]  # fmt: skip


def made(name, p=P, loss=ej.losses.squared_error):
    make, options = RULES[name]
    params = {**p.params, "feedback": B} if "feedback" in options else p.params
    return make(p.net, loss, **options), params


def l2(params):
    return sum(jnp.sum(x**2) for x in jax.tree.leaves(params))


def along(grads, v):
    return sum(jnp.vdot(g, x) for g, x in zip(jax.tree.leaves(grads), jax.tree.leaves(v)))


@pytest.mark.parametrize("name, chunk", CASES)
def test_grad_of_the_loss_is_the_rule(name, chunk):
    rule, params = made(name)
    f = ej.value_and_grad(rule, chunk=chunk)
    of = lambda p: f(p, P.xs, P.ys)[0]
    v = jax.tree.map(jnp.cos, params)

    @jax.jit
    def everything(p):
        summand = lambda p: of(p) + 0.1 * l2(p)
        return (
            f(p, P.xs, P.ys)[1], jax.grad(of)(p), jax.value_and_grad(summand)(p)[1],
            jax.jvp(of, (p,), (v,))[1], jax.linearize(of, p)[1](v),
        )  # fmt: skip

    grads, by_grad, of_sum, by_jvp, by_linearize = everything(params)
    assert_same(by_grad, grads, 1e-12)
    assert_same(of_sum, jax.tree.map(lambda g, p: g + 0.2 * p, grads, params), 1e-12)
    for got in (by_jvp, by_linearize):
        np.testing.assert_allclose(got, along(grads, v), rtol=1e-12)


def test_that_rules_differ_here():
    """Else the test above would pass with autodiff's gradient for all of them."""
    exact = ej.value_and_grad(ej.bptt(P.net, ej.losses.squared_error))(P.params, P.xs, P.ys)[1]
    for name in ("e-prop", "e-prop, random", "order 2"):
        rule, params = made(name)
        got = ej.value_and_grad(rule)(params, P.xs, P.ys)[1]
        assert np.abs(exact["cell"]["w_rec"] - got["cell"]["w_rec"]).max() > 1e-3


def test_without_jit_and_under_vmap():
    rule, params = made("e-prop, random")
    f = ej.value_and_grad(rule, has_aux=True)
    of = lambda p, xs: f(p, xs, P.ys)[0][0]
    assert_same(jax.grad(of)(params, P.xs), f(params, P.xs, P.ys)[1], 1e-12)
    many = jnp.stack([P.xs, 2 * P.xs, P.xs + 1])
    wanted = jax.vmap(lambda xs: f(params, xs, P.ys)[1])(many)
    assert_same(jax.vmap(jax.grad(of), (None, 0))(params, many), wanted, 1e-12)


def test_the_second_derivative_is_that_of_the_rules_own_gradient():
    rule, params = made("order 2", GRU)
    f = jax.jit(ej.value_and_grad(rule))
    v = jax.tree.map(jnp.cos, params)
    at = lambda t: jax.tree.map(lambda p, d: p + t * d, params, v)
    gradient = jax.grad(lambda p: ej.value_and_grad(rule)(p, GRU.xs, GRU.ys)[0])
    forward = jax.jit(lambda p: jax.jvp(gradient, (p,), (v,))[1])(params)
    backward = jax.jit(jax.grad(lambda p: along(gradient(p), v)))(params)  # its transpose
    h = 1e-4
    differences = [
        jax.tree.map(
            lambda a, b: (a - b) / (2 * d), *(f(at(t), GRU.xs, GRU.ys)[1] for t in (d, -d))
        )
        for d in (h, h / 2)
    ]
    wanted = jax.tree.map(lambda coarse, fine: (4 * fine - coarse) / 3, *differences)
    assert_same(forward, wanted, 1e-8)
    np.testing.assert_allclose(along(backward, v), along(forward, v), rtol=1e-10)


def test_a_sum_of_steps_is_the_sum_of_their_gradients():
    """A loop over `step`, in Python or by scan: to params, and to each chunk's own inputs."""
    rule, params = made("e-prop", GRU)
    xs, ys = GRU.xs, GRU.ys

    def in_python(p, xs):
        carry, total = rule.init(params, xs.shape[1:2]), 0.0
        for a, b in ((0, 1), (1, 4), (4, 9)):
            carry, out = rule.step(p, carry, xs[a:b], ys[a:b])
            total = total + out.loss
        return total

    def by_scan(p):
        def body(carry, xy):
            carry, out = rule.step(p, carry, *jax.tree.map(lambda a: a[None], xy))
            return carry, out.loss

        return jnp.sum(jax.lax.scan(body, rule.init(params, (2,)), (xs, ys))[1])

    wanted = ej.value_and_grad(rule)(params, xs, ys)[1]
    by_params, by_xs = jax.jit(jax.grad(in_python, (0, 1)))(params, xs)
    assert_same(by_params, wanted, 1e-12)
    assert_same(jax.jit(jax.grad(by_scan))(params), wanted, 1e-12)
    carry, _ = rule.step(params, rule.init(params, (2,)), xs[:1], ys[:1])
    last = lambda x: rule.step(params, carry, x, ys[1:4])[1].loss
    assert_same(by_xs[1:4], jax.grad(last)(xs[1:4]), 1e-12)


def test_targets_enter_the_loss_alone():
    rule, params = made("e-prop")
    f = ej.value_and_grad(rule, has_aux=True)
    (_, aux), _ = f(params, P.xs, P.ys)
    got = jax.grad(lambda ys: f(params, P.xs, ys)[0][0])(P.ys)
    assert_same(got, (P.ys - aux.outputs) / P.xs.shape[1], 1e-12)


def refused(f, *args, match):
    with pytest.raises(TypeError, match=match):
        jax.grad(f, tuple(range(len(args))))(*args)


def test_what_no_rule_differentiates_is_refused():
    rule, params = made("e-prop")
    carry = rule.init(params, (2,))
    run = lambda p, c: rule.step(p, c, P.xs[:2], P.ys[:2])
    alone = "a rule has a gradient of its loss alone"
    refused(lambda p: jnp.sum(run(p, carry)[1].outputs), params, match=alone)
    refused(lambda p: jnp.sum(run(p, carry)[1].losses), params, match=alone)
    refused(lambda p: jnp.sum(run(p, carry)[0].gamma.cell["w_in"]), params, match=alone)
    refused(lambda p: jnp.sum(run(p, carry)[0].state.y), params, match=alone)
    aux = lambda p: jnp.sum(ej.value_and_grad(rule, has_aux=True)(p, P.xs, P.ys)[0][1].activity)
    refused(aux, params, match=alone)

    def of_gamma(g):
        return run(params, carry._replace(gamma=g))[1].loss

    def of_start(p, v):
        c = carry.state.c._replace(v=v)
        return run(p, carry._replace(state=carry.state._replace(c=c)))[1].loss

    refused(of_gamma, carry.gamma, match="carry: got one by which")
    refused(of_start, params, carry.state.c.v, match="carry: got one by which")


def test_a_rule_of_ones_own_too():
    rule, params = made("e-prop")
    own = ej.LearningRule(rule.init, lambda *given: rule.step(*given))
    f = ej.value_and_grad(own, chunk=4)
    assert_same(jax.grad(lambda p: f(p, P.xs, P.ys)[0])(params), f(params, P.xs, P.ys)[1], 1e-12)
    refused(lambda xs: f(params, xs, P.ys)[0], P.xs, match="no gradient to its inputs")


def inputs_by_autodiff(p, explicit):
    """∂L/∂xs, where the explicit recurrence is stopped or not."""

    def of(xs):
        of_example = lambda b: inputs_loss(p._replace(ys=p.ys[:, b]), xs[:, b], explicit)
        return sum(map(of_example, range(xs.shape[1]))) / xs.shape[1]

    return jax.jit(jax.grad(of))(p.xs)


def inputs_loss(p, xs, explicit):
    n = p.net.cell.n_units
    cell, readout, w = p.cell.reference(n), p.readout.reference, p.params["readout"]
    c, y, total = cell.start(n), jnp.zeros(2), 0.0
    for x, target in zip(xs, p.ys):
        h = cell.output(p.params["cell"], c)
        c = cell.step(p.params["cell"], c, h if explicit else stop(h), x)
        y = readout(w, y, cell.output(p.params["cell"], c) @ w["w_out"] + w["bias"])
        total = total + 0.5 * jnp.sum((y - target) ** 2)
    return total


@pytest.mark.parametrize(
    "p, chunk",
    [(P, None), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((P, 7), (GRU, 1)))],
    ids=["alif", "alif-7", "gru-1"],
)
def test_grad_to_inputs_is_autodiff_with_the_explicit_recurrence_stopped(p, chunk):
    exact, stopped = (inputs_by_autodiff(p, e) for e in (True, False))
    assert np.abs(exact - stopped).max() > 1e-3
    for name, wanted in (("RTRL", exact), ("e-prop", stopped)):
        rule, params = made(name, p)
        f = ej.value_and_grad(rule, chunk=chunk)
        got = jax.grad(lambda xs: f(params, xs, p.ys)[0])(p.xs)
        assert_same(got, wanted, 1e-12)


def test_a_derivative_through_training_is_that_of_the_numbers():
    """`ej.train` is a program like any other: by its learning rate it has its own derivative."""
    rule, params = made("e-prop", GRU)

    def last(rate):
        data = lambda key: (GRU.xs, GRU.ys)
        return ej.train(rule, optax.sgd(rate), params, data, steps=3)[1]["loss"][-1]

    last = jax.jit(last)
    got, h = jax.jit(jax.grad(last))(0.05), 1e-5
    wanted = (last(0.05 + h) - last(0.05 - h)) / (2 * h)
    assert abs(wanted) > 1e-3
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
