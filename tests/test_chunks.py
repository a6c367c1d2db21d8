"""Any chunking gives the same gradient; the carry is a fixed point; JAX's transforms apply."""

import functools

import jax
import jax.numpy as jnp
import pytest
import reference as ref
from cases import problem
from pace import quick

import eprop_jax as ej

LOSS = ej.losses.squared_error
T = 10
RULES = {
    "e-prop": (lambda net: ej.eprop(net, LOSS), 1),
    "random e-prop": (lambda net: ej.eprop(net, LOSS, feedback="random"), 1),
    "adaptive e-prop": (lambda net: ej.eprop(net, LOSS, feedback="adaptive"), 1),
    "order 2": (lambda net: ej.m_order_eprop(net, LOSS, order=2), 2),
    "random order 3": (lambda net: ej.m_order_eprop(net, LOSS, order=3, feedback="random"), 3),
    "rtrl": (lambda net: ej.rtrl(net, LOSS), None),
}


@functools.cache
def world(cell="alif, all trained", readout="custom", n=3):
    p = problem(cell, readout, n=n, n_in=2, T=T)
    return p, ej.feedback.init(jax.random.key(5), p.net)


def with_feedback(rule, params, B):
    return params if rule.spec.feedback == "symmetric" else {**params, "feedback": B}


@functools.cache
def expected(cell, readout, order, random):
    p, B = world(cell, readout)
    return p.reference(order=order, B=B if random else None)[1]


def check(cell, readout, name, chunk):
    p, B = world(cell, readout)
    make, order = RULES[name]
    rule = make(p.net)
    kind = rule.spec.feedback
    grads = dict(
        ej.value_and_grad(rule, chunk=chunk)(with_feedback(rule, p.params, B), p.xs, p.ys)[1]
    )
    if kind != "symmetric":
        wanted = {"adaptive": grads["readout"]["w_out"], "random": jnp.zeros_like(B)}[kind]
        assert jnp.array_equal(grads.pop("feedback"), wanted)
    ref.assert_same(grads, expected(cell, readout, order, kind != "symmetric"))


@pytest.mark.parametrize("chunk", quick([1, 3, 7, T], 1, 7))
@pytest.mark.parametrize("name", quick(RULES, "e-prop", "random order 3", "rtrl"))
def test_every_chunk_gives_the_gradient_of_the_definition(name, chunk):
    check("alif, all trained", "custom", name, chunk)


@pytest.mark.parametrize("name", quick(["e-prop", "order 2", "rtrl"], "e-prop", "order 2"))
@pytest.mark.parametrize(
    "cell, readout",
    [
        pytest.param("gru", "linear", marks=pytest.mark.slow),
        ("lif, refractory", "leaky, tau trained"),
        pytest.param("linear_recurrence, λ trained", "leaky", marks=pytest.mark.slow),
        ("rnn", "leaky"),
    ],
)
def test_every_chunk_for_other_cells_and_readouts(cell, readout, name):
    check(cell, readout, name, 4)


@pytest.mark.parametrize("name", quick(["random e-prop", "order 2", "rtrl"], "random e-prop"))
def test_uneven_step_calls_add_up(name):
    p, B = world("lstm", "leaky")
    make, order = RULES[name]
    rule = make(p.net)
    params = with_feedback(rule, p.params, B)
    carry, total, start = rule.init(params, (2,)), [], 0
    for k in (1, 4, 2, 2, 1):
        carry, out = rule.step(params, carry, p.xs[start : start + k], p.ys[start : start + k])
        total.append(out.grads)
        start += k
    grads = jax.tree.map(lambda *g: sum(g), *total)
    grads.pop("feedback", None)
    ref.assert_same(grads, expected("lstm", "leaky", order, name.startswith("random")))


# -- truncated BPTT --------------------------------------------------------------------------------


def test_bptt_in_chunks_is_truncated_bptt():
    p, _ = world("gru", "leaky")
    rule = ej.bptt(p.net, LOSS)
    grads = ej.value_and_grad(rule, chunk=4)(p.params, p.xs, p.ys)[1]

    def truncated(params):  # states cross the border, gradients do not
        cell = p.cell.reference(3)
        losses = []
        for x, target in zip(jnp.moveaxis(p.xs, 1, 0), jnp.moveaxis(p.ys, 1, 0)):
            c, y = cell.start(3), jnp.zeros(2)
            for t in range(T):
                c, y = ref.stop((c, y)) if t % 4 == 0 else (c, y)
                c = cell.step(params["cell"], c, cell.output(params["cell"], c), x[t])
                h = cell.output(params["cell"], c)
                p_out = params["readout"]
                y = p.readout.reference(p_out, y, h @ p_out["w_out"] + p_out["bias"])
                losses.append(ref.squared_error(y, target[t]))
        return sum(losses) / 2

    wanted = jax.jit(jax.grad(truncated))(p.params)
    ref.assert_same(grads, wanted)
    assert ref.distance(grads, p.reference()[1]) > 1e-3


# -- the carry is a fixed point --------------------------------------------------------------------


def cast(tree, dtype):
    return jax.tree.map(lambda x: x.astype(dtype), tree)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("name", RULES)
def test_the_carry_keeps_its_shapes_and_dtypes(name, dtype):
    p, B = world()
    rule = RULES[name][0](p.net)
    params = cast(with_feedback(rule, p.params, B), dtype)
    xs, ys = cast((p.xs, p.ys), dtype)
    carry = rule.init(params, (2,))
    wide = jnp.float64 if dtype == "float64" else jnp.float32
    floats = [x.dtype for x in jax.tree.leaves(carry) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert set(floats) == {jnp.dtype(wide)}
    for k in (1, 3):
        after, out = jax.eval_shape(rule.step, params, carry, xs[:k], ys[:k])
        assert jax.tree.structure(after) == jax.tree.structure(carry)
        for was, now in zip(jax.tree.leaves(carry), jax.tree.leaves(after)):
            assert (was.shape, was.dtype) == (now.shape, now.dtype)
        assert {g.dtype for g in jax.tree.leaves(out.grads)} == {jnp.dtype(dtype)}
        assert out.loss.dtype == wide


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-4), ("bfloat16", 0.1)])
@pytest.mark.parametrize("chunk", [None, 3])
def test_narrow_parameters_give_nearly_the_same_gradient(dtype, tolerance, chunk):
    p, _ = world("gru", "leaky")
    rule = ej.eprop(p.net, LOSS)
    f = ej.value_and_grad(rule, chunk=chunk)
    grads = f(cast(p.params, dtype), *cast((p.xs, p.ys), dtype))[1]
    assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype(dtype)}
    assert ref.distance(cast(grads, "float64"), p.reference(order=1)[1]) < tolerance


# -- transforms -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["random e-prop", "order 2"])
def test_scan_over_step(name):
    p, B = world("gru", "leaky")
    rule = RULES[name][0](p.net)
    params = with_feedback(rule, p.params, B)

    def body(carry, at):
        carry, out = rule.step(params, carry, *jax.tree.map(lambda x: x[None], at))
        return carry, out.grads

    _, grads = jax.jit(lambda: jax.lax.scan(body, rule.init(params, (2,)), (p.xs, p.ys)))()
    wanted = ej.value_and_grad(rule)(params, p.xs, p.ys)[1]
    ref.assert_same(jax.tree.map(lambda g: g.sum(0), grads), wanted)


@pytest.mark.parametrize("chunk", [None, 4])
def test_value_and_grad_under_jit(chunk):
    p, _ = world("gru", "leaky")
    f = ej.value_and_grad(ej.eprop(p.net, LOSS), chunk=chunk)
    ref.assert_same(jax.jit(f)(p.params, p.xs, p.ys), f(p.params, p.xs, p.ys))


@pytest.mark.parametrize("chunk", [None, 4])
def test_vmap_over_seeds(chunk):
    p, _ = world("lif, refractory", "linear")
    f = ej.value_and_grad(ej.eprop(p.net, LOSS), chunk=chunk)
    many = jax.vmap(p.net.init)(jax.random.split(jax.random.key(1), 3))
    loss, grads = jax.vmap(f, in_axes=(0, None, None))(many, p.xs, p.ys)
    assert loss.shape == (3,)
    for i in range(3):
        one = f(jax.tree.map(lambda x: x[i], many), p.xs, p.ys)[1]
        ref.assert_same(jax.tree.map(lambda x: x[i], grads), one)


def test_vmap_over_the_batch_is_the_native_batch():
    p, _ = world("gru", "linear")
    f = ej.value_and_grad(ej.rtrl(p.net, LOSS), chunk=5)
    each = jax.vmap(f, in_axes=(None, 1, 1))(p.params, p.xs, p.ys)
    ref.assert_same(jax.tree.map(lambda x: x.mean(0), each), f(p.params, p.xs, p.ys))


def test_scan_over_updates_is_the_loop_with_the_gradient_of_the_definition():
    p, _ = world("gru", "leaky")
    f = ej.value_and_grad(ej.eprop(p.net, LOSS))
    move = lambda params, grads: jax.tree.map(lambda w, g: w - 0.05 * g, params, grads)

    def update(params, _):
        loss, grads = f(params, p.xs, p.ys)
        return move(params, grads), loss

    last, losses = jax.lax.scan(update, p.params, length=3)
    params, wanted = p.params, []
    for _ in range(3):
        loss, grads = p.reference(order=1, params=params)
        params = move(params, grads)
        wanted.append(float(loss))
    ref.assert_same(last, params)
    assert losses.tolist() == pytest.approx(wanted, rel=1e-9) and len(set(wanted)) == 3


# -- one compilation a shape -----------------------------------------------------------------------


def counted():
    calls = []

    def loss(y, target):
        calls.append(y.shape)
        return ej.losses.squared_error(y, target)

    return loss, calls


@pytest.mark.parametrize("chunk", [None, 5])
def test_a_sequence_is_compiled_once_for_one_shape(chunk):
    p, _ = world("rnn", "linear")
    loss, calls = counted()
    f = ej.value_and_grad(ej.eprop(p.net, loss), chunk=chunk)
    f(p.params, p.xs, p.ys)
    traced = len(calls)
    assert traced > 0
    for scale in (1.0, 2.0, 3.0):
        f(jax.tree.map(lambda w: w * scale, p.params), scale * p.xs, p.ys)
    assert len(calls) == traced
    f(p.params, p.xs[:, :1], p.ys[:, :1])
    assert len(calls) > traced


@pytest.mark.parametrize("name", ["bptt", "e-prop", "order 2", "rtrl"])
def test_a_step_is_compiled_once_for_one_shape(name):
    p, _ = world("rnn", "linear")
    loss, calls = counted()
    make = {
        "bptt": ej.bptt,
        "e-prop": ej.eprop,
        "order 2": functools.partial(ej.m_order_eprop, order=2),
        "rtrl": ej.rtrl,
    }[name]
    rule = make(p.net, loss)
    carry = rule.init(p.params, (2,))
    carry, _ = rule.step(p.params, carry, p.xs[:1], p.ys[:1])
    traced = len(calls)
    for t in range(1, T):
        carry, _ = rule.step(p.params, carry, p.xs[t : t + 1], p.ys[t : t + 1])
    assert len(calls) == traced > 0
