"""What every rule keeps: the shapes and trees of init, step and whole, and appendix A."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
import reference as ref
from cases import problem

import eprop_jax as ej

LOSS = ej.losses.squared_error
T = 5
RULES = {
    "bptt": lambda net: ej.bptt(net, LOSS),
    "rtrl": lambda net: ej.rtrl(net, LOSS),
    "e-prop": lambda net: ej.eprop(net, LOSS),
    "random e-prop": lambda net: ej.eprop(net, LOSS, feedback="random"),
    "adaptive e-prop": lambda net: ej.eprop(net, LOSS, feedback="adaptive"),
    "order 2": lambda net: ej.m_order_eprop(net, LOSS, order=2),
    "random order 3": lambda net: ej.m_order_eprop(net, LOSS, order=3, feedback="random"),
}


@pytest.fixture(scope="module", params=[("gru", (2,)), ("alif, all trained", (2, 3))], ids=str)
def world(request):
    cell, batch = request.param
    p = problem(cell, "leaky", n=3, n_in=2, n_out=2, T=T, batch=batch)
    return p, batch


def set_up(world, name):
    p, batch = world
    rule, params = RULES[name](p.net), dict(p.params)
    if rule.spec.feedback != "symmetric":
        params["feedback"] = ej.feedback.init(jax.random.key(9), p.net)
    return rule, params, p.xs, p.ys, batch


@pytest.mark.parametrize("name", RULES)
def test_shapes_and_trees(world, name):
    rule, params, xs, ys, batch = set_up(world, name)
    assert isinstance(rule, ej.LearningRule)
    carry = rule.init(params, batch)
    for part in (slice(0, 1), slice(0, 3)):
        k = part.stop
        after, out = jax.eval_shape(rule.step, params, carry, xs[part], ys[part])
        chex.assert_trees_all_equal_shapes_and_dtypes(after, carry)
        chex.assert_trees_all_equal_shapes_and_dtypes(out.grads, params)
        assert out.loss.shape == ()
        assert out.losses.shape == (k, *batch)
        assert out.outputs.shape == (k, *batch, 2)
        assert out.activity.shape == (k, *batch, 3)
    whole = jax.eval_shape(rule.whole, params, xs, ys)
    chex.assert_trees_all_equal_shapes_and_dtypes(whole.grads, params)
    assert whole.outputs.shape == (T, *batch, 2)


@pytest.mark.parametrize("name", RULES)
def test_summing_the_steps_at_fixed_weights_gives_the_batch_gradient(world, name):
    rule, params, xs, ys, batch = set_up(world, name)
    carry, total, outputs = rule.init(params, batch), [], []
    for t in range(T):
        carry, out = rule.step(params, carry, xs[t : t + 1], ys[t : t + 1])
        total.append((out.loss, out.grads))
        outputs.append(out.outputs)
    loss, grads = jax.tree.map(lambda *x: sum(x), *total)
    (wanted_loss, aux), wanted = ej.value_and_grad(rule, has_aux=True)(params, xs, ys)
    assert float(loss) == pytest.approx(float(wanted_loss), rel=1e-12)
    assert jnp.allclose(jnp.concatenate(outputs), aux.outputs, rtol=1e-12)
    assert jnp.allclose(jnp.sum(jnp.mean(aux.losses.reshape(T, -1), 1)), wanted_loss, rtol=1e-12)
    if name == "bptt":  # chunks of one step cut every path through time
        assert ref.distance(grads, wanted) > 1e-3
    else:
        ref.assert_same(grads, wanted)


def test_the_carry_shows_what_a_rule_remembers(world):
    held = {
        "bptt": ("state",),
        "rtrl": ("state", "alpha", "gamma"),
        "e-prop": ("state", "epsilon", "gamma"),
        "order 2": ("state", "epsilon", "beta", "gamma"),
    }
    for name, fields in held.items():
        rule, params, _, _, batch = set_up(world, name)
        carry = rule.init(params, batch)
        assert carry._fields == fields and all(map(jax.tree.leaves, carry)), name


@pytest.mark.parametrize("name", ["step", "online"])
def test_from_one_carry_go_two_futures(world, name):
    """What was given is still there: nothing is donated or kept between calls."""
    rule, params, xs, ys, batch = set_up(world, "e-prop")
    if name == "step":
        step = lambda carry, x, y: rule.step(params, carry, x, y)
        start = rule.init(params, batch)
    else:
        learner = ej.online(rule, optax.sgd(0.1, momentum=0.9))
        step, start = learner.step, learner.init(params, batch)
    middle, _ = step(start, xs[:3], ys[:3])
    futures = (xs[3:], -2.0 * xs[3:])
    found = [step(middle, x, ys[3:]) for x in futures]
    for x, future in zip(futures, found):
        alone, _ = step(start, xs[:3], ys[:3])
        chex.assert_trees_all_equal(step(alone, x, ys[3:]), future)
    assert ref.distance(found[0][1].grads, found[1][1].grads) > 1e-3
