"""Appendix A: online computation of the gradient, and online update of the weights."""

import jax
import jax.numpy as jnp
import optax
import pytest
import reference as ref
from pace import quick

import eprop_jax as ej

T, BATCH = 9, 4


@pytest.fixture(scope="module")
def problem():
    net = ej.Network(ej.cells.gru(3, 5, gain_rec=2.0), ej.readouts.leaky(5, 2, tau=3.0))
    xs = jax.random.normal(jax.random.key(1), (T, BATCH, 3))
    ys = jax.random.normal(jax.random.key(2), (T, BATCH, 2))
    return net, net.init(jax.random.key(0)), xs, ys


def distance(a, b):
    square = lambda tree: sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(tree))
    return (square(jax.tree.map(jnp.subtract, a, b)) / square(b)) ** 0.5


RULES = {
    "e-prop": lambda net: ej.eprop(net, ej.losses.squared_error),
    "RTRL": lambda net: ej.rtrl(net, ej.losses.squared_error),
    "order 2": lambda net: ej.m_order_eprop(net, ej.losses.squared_error, order=2),
}


@pytest.mark.parametrize("name", RULES)
def test_summing_c_t_at_fixed_weights_is_the_gradient_of_the_sequence(problem, name):
    net, params, xs, ys = problem
    rule = RULES[name](net)
    learner = ej.online(rule, optax.sgd(0.0))
    state, out = learner.step(learner.init(params, (BATCH,)), xs, ys)
    loss, grads = ej.value_and_grad(rule)(params, xs, ys)
    assert distance(out.grads, grads) < 1e-10
    assert float(out.loss) == pytest.approx(float(loss), rel=1e-12)
    assert distance(state.params, params) == 0


@pytest.mark.parametrize("every", quick([1, 2, 4], 2))
@pytest.mark.parametrize("name", RULES)
def test_online_update_equals_a_hand_written_loop(problem, name, every):
    net, params, xs, ys = problem
    rule, optimizer = RULES[name](net), optax.sgd(0.05, momentum=0.9)
    learner = ej.online(rule, optimizer, every=every)
    state, _ = learner.step(learner.init(params, (BATCH,)), xs, ys)

    p, opt_state, carry = params, optimizer.init(params), rule.init(params, (BATCH,))
    for t in range(0, T, every):
        carry, out = rule.step(p, carry, xs[t : t + every], ys[t : t + every])
        updates, opt_state = optimizer.update(out.grads, opt_state, p)
        p = optax.apply_updates(p, updates)
    assert distance(state.params, p) < 1e-12


def test_online_update_is_not_the_batch_update(problem):
    net, params, xs, ys = problem
    rule, optimizer = RULES["RTRL"](net), optax.sgd(0.05)
    learner = ej.online(rule, optimizer)
    state, _ = learner.step(learner.init(params, (BATCH,)), xs, ys)
    grads = ej.value_and_grad(rule)(params, xs, ys)[1]
    batch = jax.tree.map(lambda p, g: p - 0.05 * g, params, grads)
    moved = jax.tree.map(jnp.subtract, batch, params)
    gap = jax.tree.map(jnp.subtract, state.params, batch)
    assert ref.norm(gap) > 1e-2 * ref.norm(moved)


def test_the_stream_may_be_cut_anywhere(problem):
    net, params, xs, ys = problem
    learner = ej.online(RULES["e-prop"](net), optax.sgd(0.05), every=1)
    whole, _ = learner.step(learner.init(params, (BATCH,)), xs, ys)
    state = learner.init(params, (BATCH,))
    for a, b in ((0, 2), (2, 3), (3, T)):
        state, _ = learner.step(state, xs[a:b], ys[a:b])
    assert distance(state.params, whole.params) < 1e-12


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sums_are_formed_in_float32_where_parameters_are_narrower(dtype):
    """500 steps whose gradients point one way: in bfloat16 their sum stops at 256 times a step."""
    net = ej.Network(ej.cells.gru(3, 5, gain_rec=2.0), ej.readouts.leaky(5, 2, tau=3.0))
    cast = lambda tree, dtype: jax.tree.map(lambda x: x.astype(dtype), tree)
    params, K = cast(net.init(jax.random.key(0)), dtype), 500
    xs, ys = jnp.ones((K, BATCH, 3)), jnp.full((K, BATCH, 2), 3.0)
    rule = RULES["e-prop"](net)
    learner = ej.online(rule, optax.sgd(0.0))
    _, out = learner.step(learner.init(params, (BATCH,)), xs, ys)
    assert {g.dtype for g in jax.tree.leaves(out.grads)} == {jnp.dtype(dtype)}
    loss, wanted = ej.value_and_grad(rule)(cast(params, "float64"), xs, ys)
    assert distance(cast(out.grads, "float64"), wanted) < float(jnp.finfo(dtype).eps)
    assert float(out.loss) == pytest.approx(float(loss), rel=1e-5)


def test_narrow_parameters_move_as_in_a_hand_written_loop(problem):
    net, params, xs, ys = problem
    rule, optimizer = RULES["RTRL"](net), optax.sgd(0.25, momentum=0.5)
    params = jax.tree.map(lambda x: x.astype("bfloat16"), params)
    learner = ej.online(rule, optimizer, every=2)
    state, _ = learner.step(learner.init(params, (BATCH,)), xs, ys)

    p, opt_state, carry = params, optimizer.init(params), rule.init(params, (BATCH,))
    for t in range(0, T, 2):
        carry, out = rule.step(p, carry, xs[t : t + 2], ys[t : t + 2])
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(out.grads, opt_state, p)
        p = optax.apply_updates(p, updates)
    assert all(jnp.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (state.params, p))))
    assert not jnp.array_equal(p["cell"]["w_rec"]["z"], params["cell"]["w_rec"]["z"])


def test_extra_arguments_are_those_of_the_steps_since_the_last_update(problem):
    """Polyak's step length reads the loss."""
    net, params, xs, ys = problem
    rule, optimizer = RULES["e-prop"](net), optax.polyak_sgd(max_learning_rate=0.1)
    learner = ej.online(rule, optimizer, every=2)
    state, _ = learner.step(learner.init(params, (BATCH,)), xs, ys)

    p, opt_state, carry = params, optimizer.init(params), rule.init(params, (BATCH,))
    for t in range(0, T, 2):
        carry, out = rule.step(p, carry, xs[t : t + 2], ys[t : t + 2])
        updates, opt_state = optimizer.update(out.grads, opt_state, p, value=out.loss)
        p = optax.apply_updates(p, updates)
    assert distance(state.params, p) < 1e-12
    assert distance(state.params, params) > 1e-3


def test_a_line_search_sees_the_loss_of_the_same_steps(problem):
    net, params, xs, ys = problem
    seen = []

    def update(grads, state, params, *, value, grad, value_fn, **_):
        half = jax.tree.map(lambda p: p / 2, params)
        return jax.tree.map(lambda g: -0.1 * g, grad), (value, value_fn(params), value_fn(half))

    start = (jnp.zeros(()),) * 3
    optimizer = optax.GradientTransformationExtraArgs(lambda params: start, update)
    rule = RULES["e-prop"](net)
    learner = ej.online(rule, optimizer, every=4)
    state = learner.init(params, (BATCH,))
    for t in (0, 4):
        before = state
        state, _ = learner.step(state, xs[t : t + 4], ys[t : t + 4])
        seen.append(state.opt_state)
    loss = lambda p: float(rule.step(p, before.carry, xs[4:8], ys[4:8])[1].loss)
    half = jax.tree.map(lambda p: p / 2, before.params)
    wanted = [loss(before.params), loss(before.params), loss(half)]
    assert [float(x) for x in seen[1]] == pytest.approx(wanted, rel=1e-12)
    assert len(set(wanted)) == 2 and wanted[0] != float(seen[0][0])


def test_label_and_mask_trees_are_shaped_like_the_parameters_and_random_b_stays(problem):
    net, params, xs, ys = problem
    params = {**params, "feedback": ej.feedback.init(jax.random.key(3), net)}
    everything = jax.tree.map(lambda _: True, params)
    inner = optax.chain(
        optax.add_decayed_weights(0.1, mask=everything), optax.masked(optax.sgd(0.05), everything)
    )
    optimizer = optax.multi_transform({"all": inner}, jax.tree.map(lambda _: "all", params))

    def run(feedback):
        rule = ej.eprop(net, ej.losses.squared_error, feedback=feedback)
        learner = ej.online(rule, optimizer, every=2)
        state, _ = learner.step(learner.init(params, (BATCH,)), xs, ys)

        p, opt_state, carry = params, optimizer.init(params), rule.init(params, (BATCH,))
        for t in range(0, T, 2):
            carry, out = rule.step(p, carry, xs[t : t + 2], ys[t : t + 2])
            updates, opt_state = optimizer.update(out.grads, opt_state, p)
            p = optax.apply_updates(p, updates)
            if feedback == "random":
                p["feedback"] = params["feedback"]
        assert distance(state.params, p) < 1e-12
        return state.params["feedback"]

    assert jnp.array_equal(run("random"), params["feedback"])
    assert distance(run("adaptive"), params["feedback"]) > 1e-2


def test_refusals(problem):
    net, params, xs, ys = problem
    rule = RULES["e-prop"](net)
    with pytest.raises(ValueError, match="every: got 0, wanted an int >= 1"):
        ej.online(rule, optax.sgd(0.1), every=0)
    with pytest.raises(TypeError, match="optimizer: got float"):
        ej.online(rule, 0.1)
    with pytest.raises(TypeError, match="rule: got function"):
        ej.online(lambda x: x, optax.sgd(0.1))
    learner = ej.online(rule, optax.sgd(0.1))
    with pytest.raises(ValueError, match="carry: was made for batch"):
        learner.step(learner.init(params, (2,)), xs, ys)
