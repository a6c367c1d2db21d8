"""Units that nothing recurrent drives, all steps at once: what the steps give, one after the other."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

import eprop_jax as ej
from eprop_jax.network import affine
from tests.pace import slow

LOSS = ej.losses.squared_error
T, B, N = 13, 3, 4


class Pair(NamedTuple):
    x: Any
    y: Any


def gated():
    """Two components, a decay that the input moves, a trained factor, and a trained beginning."""
    return ej.cells.custom(
        3,
        N,
        lambda theta, c, a: Pair(
            x=jax.nn.sigmoid(a["g"]) * c.x - theta["k"] * c.y / 2 + a["x"],
            y=jnp.where(a["g"] > 0, 0.9, 0.5) * c.y + theta["k"] * c.x,
        ),
        lambda theta, c: jnp.tanh(c.x + theta["k"] * c.y),
        Pair(x=0.3, y=-0.2),
        drives={"g": ("w_in",), "x": ("w_in", "bias")},
        theta={"k": 0.4},
        trainable=("initial",),
    )


CELLS = {
    "gated": gated,
    "linear": lambda: ej.cells.linear_recurrence(
        3, N, frequency=0.3, trainable=("decay", "frequency", "initial.re")
    ),
}
RULES = {
    "e-prop": ej.eprop,
    "BPTT": ej.bptt,
    "order 2": functools.partial(ej.m_order_eprop, order=2),
    "RTRL": ej.rtrl,
}


def net_of(cell):
    return ej.Network(cell, ej.readouts.leaky(N, 2, tau=4.0))


def stack_of(cell):
    cells = [ej.cells.alif(3, 5, tau_m=3.0), ej.cells.linear_recurrence(5, 6), gated_over(6)]
    return ej.Network([*cells, cell], ej.readouts.leaky(2 * N, 2), reads=(2, 3),
                      inputs=[("x",), (0,), (1,), ("x",)])  # fmt: skip


def gated_over(n_in):
    return ej.cells.custom(
        n_in, N, lambda theta, c, a: jax.nn.sigmoid(a["g"]) * c + a["x"], lambda theta, c: c**2, 0.1,
        drives={"g": ("w_in", "bias"), "x": ("w_in",)},
    )  # fmt: skip


def data(seed=1):
    kx, ky, kr = jax.random.split(jax.random.key(seed), 3)
    xs, ys = jax.random.normal(kx, (T, B, 3)), jax.random.normal(ky, (T, B, 2))
    return xs, ys, jax.random.bernoulli(kr, 0.2, (T, B)).at[0, 0].set(True)


def both(monkeypatch, f):
    """f() by the steps, and at once."""
    steps, used = f(), []

    def at_once(steps, at_once):
        used.append(None)
        return at_once()

    monkeypatch.setattr(affine, "by_device", at_once)
    jax.clear_caches()
    found = f()
    assert used
    return steps, found


def same(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for (path, x), y in zip(jax.tree.leaves_with_path(one), jax.tree.leaves(two)):
        assert x.shape == y.shape and x.dtype == y.dtype, path
        assert jnp.allclose(x, y, rtol=1e-12, atol=1e-12), path


KEPT = {("gated", "e-prop", True), ("linear", "BPTT", False)}
CASES = [*((cell, rule, True) for cell in CELLS for rule in RULES), ("linear", "BPTT", False)]


@pytest.mark.parametrize(
    "cell,rule,resets", [x if x in KEPT else pytest.param(*x, marks=slow) for x in CASES]
)
def test_a_layer(monkeypatch, cell, rule, resets):
    xs, ys, starts = data()
    starts = starts if resets else None

    def run():
        net = net_of(CELLS[cell]())
        params, of = net.init(jax.random.key(0)), RULES[rule](net, LOSS)
        whole = ej.value_and_grad(of, has_aux=True)(params, xs, ys, resets=starts)
        carry, found = of.init(params, (B,)), []
        for at in (slice(0, 5), slice(5, 6), slice(6, T)):
            cut = None if starts is None else starts[at]
            carry, out = of.step(params, carry, xs[at], ys[at], resets=cut)
            found.append(out)
        return whole, found, carry, net.apply(params, xs, resets=starts)

    same(*both(monkeypatch, run))


@pytest.mark.slow
@pytest.mark.parametrize("language", ("i*", "i*f*", "(i|f)*", "(i|e|f)*", ej.paths.order(2)))
def test_a_stack(monkeypatch, language):
    xs, ys, starts = data()

    def run():
        net = stack_of(gated())
        params = net.init(jax.random.key(0))
        rule = ej.by_paths(net, LOSS, paths=language, feedback="random")
        params = {**params, "feedback": ej.feedback.init(jax.random.key(1), net)}
        f = ej.value_and_grad(rule, has_aux=True)
        chunks = ej.value_and_grad(rule, chunk=5)
        return f(params, xs, ys, resets=starts), chunks(params, xs, ys)

    same(*both(monkeypatch, run))


def test_the_gradient_is_autodiffs(monkeypatch):
    xs, ys, starts = data()
    monkeypatch.setattr(affine, "by_device", lambda steps, at_once: at_once())
    net = net_of(gated())
    params = net.init(jax.random.key(0))
    found = ej.value_and_grad(ej.eprop(net, LOSS))(params, xs, ys, resets=starts)[1]

    def loss(params):  # by hand, step by step
        p, out = params["cell"], params["readout"]
        first = [jnp.broadcast_to(p["initial"][k], (B, N)) for k in "xy"]
        (x, y), total, k = first, 0.0, p["theta"]["k"]
        z = jnp.zeros((B, 2))
        for t in range(T):
            fresh = starts[t][:, None]
            x, y, z = (
                jnp.where(fresh, a, b) for a, b in zip((*first, jnp.zeros((B, 2))), (x, y, z))
            )
            g = xs[t] @ p["w_in"]["g"]
            a = xs[t] @ p["w_in"]["x"] + p["bias"]["x"]
            x, y = (jax.nn.sigmoid(g) * x - k * y / 2 + a, jnp.where(g > 0, 0.9, 0.5) * y + k * x)
            z = jnp.exp(-1 / 4.0) * z + jnp.tanh(x + k * y) @ out["w_out"] + out["bias"]
            total = total + 0.5 * jnp.sum((z - ys[t]) ** 2)
        return total / B

    with jax.numpy_rank_promotion("allow"):
        wanted = jax.grad(loss)(params)
    same(wanted, found)


class Counted(NamedTuple):
    v: Any
    n: Any


@pytest.mark.parametrize(
    "dynamics,state,is_affine",
    [
        (lambda theta, c, a: 0.9 * c + a, 0.0, True),
        (lambda theta, c, a: (a - c) / 2 + jnp.where(a > 0, c, 2 * c), 0.0, True),
        (lambda theta, c, a: jax.jit(lambda c: -c)(c) * a, 0.0, True),
        (lambda theta, c, a: a, 0.0, True),
        (lambda theta, c, a: c * c + a, 0.0, False),
        (lambda theta, c, a: a / c, 1.0, False),
        (lambda theta, c, a: jnp.where(c > 0, c, 2 * c) + a, 0.0, False),
        (lambda theta, c, a: jnp.abs(c) + a, 0.0, False),
        (lambda theta, c, a: 0.9 * c + a - jax.lax.stop_gradient(c), 0.0, False),
        (lambda theta, c, a: Counted(0.9 * c.v + a, c.n + 1), Counted(0.0, 0), False),
    ],
)
def test_affine_dynamics_is_told_from_its_jaxpr(dynamics, state, is_affine):
    of = functools.partial(
        ej.cells.custom, 2, 3, dynamics, lambda theta, c: jax.tree.leaves(c)[0], state
    )
    for drives, wanted in ((("w_in", "bias"), is_affine), (("w_in", "w_rec"), False)):
        cell = of(drives=drives)
        p = cell.init(jax.random.key(0))
        assert affine.is_affine(cell, p, cell.initial_state(p, (1,))) == wanted


def test_a_spike_is_not_affine():
    cell = ej.cells.lif(2, 3, drives=("w_in",))
    p = cell.init(jax.random.key(0))
    assert not affine.is_affine(cell, p, cell.initial_state(p, (1,)))


@pytest.mark.slow
def test_a_hundred_thousand_steps_in_one_call(monkeypatch):
    steps = 100_000
    xs = jax.random.normal(jax.random.key(1), (steps, 1, 3))
    ys = jnp.zeros((steps, 1, 2))

    def run():
        net = net_of(ej.cells.linear_recurrence(3, N, decay=0.999, frequency=0.1))
        params = net.init(jax.random.key(0))
        return ej.value_and_grad(ej.eprop(net, LOSS))(params, xs, ys)

    one, two = both(monkeypatch, run)
    scale = jax.tree.map(lambda x: 1 / jnp.max(jnp.abs(x)), one)
    same(*(jax.tree.map(jnp.multiply, x, scale) for x in (one, two)))
