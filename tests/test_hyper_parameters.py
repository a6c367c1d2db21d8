"""Hyper-parameters may be traced: one vmapped program over them equals the single runs."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference as ref

import eprop_jax as ej

LOSS = ej.losses.squared_error
N_IN, N, N_OUT, T, BATCH = 3, 6, 2, 6, 2
XS = jax.random.normal(jax.random.key(1), (T, BATCH, N_IN)) * 2
YS = jax.random.normal(jax.random.key(2), (T, BATCH, N_OUT))
RULES = {"e-prop": ej.eprop, "order 2": functools.partial(ej.m_order_eprop, order=2)}


def alif(tau_m, v_th, width, strength):
    """A network, and a rule's options, of the four that Bar 4 names."""
    cell = ej.cells.alif(
        N_IN, N, tau_m=tau_m, tau_a=20.0, v_th=v_th, gain_in=2.0, gain_rec=3.0,
        surrogate=ej.surrogates.piecewise_linear(0.3 / v_th, width),
    )  # fmt: skip
    net = ej.Network(cell, ej.readouts.leaky(N, N_OUT, tau=4.0))
    return net, dict(activity_loss=ej.losses.firing_rate(0.1, strength))


def own(keep, sharp, tau, beta):
    """A custom cell's constants, and a read-out's time constant."""
    cell = ej.cells.custom(
        N_IN, N, lambda th, c, a: th["keep"] * c + a - th["beta"] * jnp.tanh(c),
        lambda th, c: jnp.tanh(th["sharp"] * c), 0.0, gain_rec=2.0,
        constants={"keep": keep, "sharp": sharp, "beta": beta},
    )  # fmt: skip
    return ej.Network(cell, ej.readouts.leaky(N, N_OUT, tau=tau, scale_input=True)), {}


def cast(tree, dtype):
    return jax.tree.map(lambda x: x.astype(dtype), tree)


def gradient(make, rule, chunk, dtype, *hyper):
    net, options = make(*hyper)
    params = cast(net.init(jax.random.key(0)), dtype)
    f = ej.value_and_grad(RULES[rule](net, LOSS, **options), chunk=chunk)
    return f(params, XS.astype(dtype), YS.astype(dtype))


def alone(run, *hyper):
    """With Python numbers, as one who makes no sweep writes it."""
    return jax.jit(lambda: run(*map(float, hyper)))()


def grid(*axes):
    return [jnp.asarray(x) for x in zip(*itertools.product(*axes))]


ALIF = alif, ((4.0, 15.0), (0.3, 0.8), (0.4, 1.0), (0.5, 5.0))
OWN = own, ((0.5, 0.9), (0.7, 1.5), (2.0, 9.0), (0.1, 0.4))


@pytest.mark.parametrize(
    "network, rule, chunk, dtype",
    [
        pytest.param(ALIF, "e-prop", None, "float64", marks=pytest.mark.slow),
        (ALIF, "e-prop", 3, "float64"),
        pytest.param(ALIF, "order 2", 3, "float64", marks=pytest.mark.slow),
        (ALIF, "e-prop", None, "float32"),
        (OWN, "e-prop", 3, "float32"),
    ],
    ids=lambda x: x[0].__name__ if isinstance(x, tuple) else str(x),
)
def test_one_program_over_hyper_parameters_equals_the_single_runs(network, rule, chunk, dtype):
    make, axes = network
    run = functools.partial(gradient, make, rule, chunk, jnp.dtype(dtype))
    together = jax.jit(jax.vmap(run))(*grid(*axes))
    for i in (0, 15):  # each value of each axis
        single = alone(run, *(x[i] for x in grid(*axes)))
        got = jax.tree.map(lambda x, i=i: x[i], together)
        assert ref.distance(got, single) < (1e-6 if dtype == "float32" else 1e-12)
    w_rec = np.asarray(together[1]["cell"]["w_rec"]).reshape(2, 2, 2, 2, -1)
    for axis in range(4):
        assert np.any(np.ptp(w_rec, axis=axis) > 1e-4), axis


def test_training_runs_over_hyper_parameters_in_one_program():
    def run(tau_m, v_th, strength):
        net, options = alif(tau_m, v_th, 0.8, strength)
        params = net.init(jax.random.key(0))
        data = XS[None], YS[None]
        state, log = ej.train(ej.eprop(net, LOSS, **options), optax.sgd(0.01), params, data, 3)
        return state.params, log["loss"]

    points = grid((4.0, 15.0), (0.3, 0.8), (0.5, 5.0))
    together = jax.jit(jax.vmap(run))(*points)
    for i in (1, 6):
        single = alone(run, *(x[i] for x in points))
        assert ref.distance(jax.tree.map(lambda x, i=i: x[i], together), single) < 1e-12
    assert len(set(np.asarray(together[1][:, -1]))) == 8


alpha = lambda x: jnp.linspace(0.3, 0.8, N) * x
EVERY = {
    "dt, default surrogate and beta": lambda x: (
        ej.cells.alif(N_IN, N, dt=x, v_th=0.3 * x, reset_gradient=True),
        ej.readouts.leaky(N, N_OUT, dt=x),
    ),
    "alpha, rho [n], beta": lambda x: (
        ej.cells.alif(N_IN, N, alpha=alpha(x), rho=0.9 * x, beta=x, v_th=0.3, scale_input=True),
        ej.readouts.leaky(N, N_OUT, kappa=0.8 * x),
    ),
    "trained": lambda x: (
        ej.cells.alif(
            N_IN, N, tau_m=5.0 * x, tau_a=alpha(x), v_th=0.3 * x, beta=x,
            trainable=("tau_m", "tau_a", "v_th", "beta"),
        ),
        ej.readouts.leaky(N, N_OUT, tau=3.0 * x, trainable=("tau",)),
    ),
    "leaky_rnn, y_0": lambda x: (
        ej.cells.leaky_rnn(N_IN, N, tau=x, gain_in=x, gain_rec=x),
        ej.readouts.custom(
            N, N_OUT, lambda p, y, a: jnp.tanh(p["g"] * y + p["s"] * a), y_0=x, theta={"g": 0.5 * x},
            constants={"s": x}, gain=x,
        ),
    ),
    "linear_recurrence": lambda x: (
        ej.cells.linear_recurrence(N_IN, N, decay=alpha(x), frequency=x),
        ej.readouts.leaky(N, N_OUT, tau=x, gain=x),
    ),
    "lstm": lambda x: (ej.cells.lstm(N_IN, 3, forget_bias=x), ej.readouts.linear(3, N_OUT)),
    "initial state": lambda x: (
        ej.cells.custom(
            N_IN, N, lambda th, c, a: 0.5 * c + a, lambda th, c: jnp.tanh(c * th["k"]), state=x,
            theta={"k": x},
        ),
        ej.readouts.linear(N, N_OUT),
    ),
    "synapses of each kind": lambda x: (
        ej.cells.alif(
            N_IN, N, tau_m=5.0 * x, gain_in=x, gain_rec=x, trainable=("initial.v",),
            w_in=ej.synapses.sparse(2), w_rec=ej.synapses.conv((N, 1), 1, (3,)),
        ),
        ej.readouts.leaky(N, N_OUT, tau=x, gain=x, w_out=ej.synapses.grouped(1)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EVERY)
def test_every_hyper_parameter_may_be_traced(name):
    def run(x):
        net = ej.Network(*EVERY[name](x))
        params = cast(net.init(jax.random.key(0)), jnp.float32)  # beside traced float64
        params = {**params, "feedback": ej.feedback.init(jax.random.key(3), net, x)}
        params = cast(params, jnp.float32)
        rates = x * jnp.full(net.cell.n_units, 0.1)
        more = dict(activity_loss=ej.losses.firing_rate(rates, x))
        if net.cell.name == "alif":
            more["state_loss"] = ej.losses.voltage(x)
        rule = ej.eprop(net, LOSS, feedback="random", **more)
        return ej.value_and_grad(rule)(params, XS.astype("float32"), YS.astype("float32"))

    together = jax.jit(jax.vmap(run))(jnp.array([0.7, 1.1]))
    assert ref.distance(jax.tree.map(lambda x: x[1], together), alone(run, 1.1)) < 1e-6
    g = np.asarray(
        together[1]["cell"]["w_in"] if name != "lstm" else together[1]["cell"]["w_in"]["f"]
    )
    assert np.any(np.abs(g[0] - g[1]) > 1e-4)


def test_a_traced_number_is_the_same_for_all_units_and_a_traced_vector_is_not():
    def shared(tau):
        cell, readout = ej.cells.lif(N_IN, N, tau_m=tau), ej.readouts.leaky(N, tau=tau, n_out=N)
        found.append((cell.shared, readout.shared))
        return tau

    found = []
    jax.vmap(shared)(jnp.ones(2))
    jax.vmap(shared)(jnp.ones((2, N)))
    shared(3.0)
    assert found == [(("v",), True), ((), False), (("v",), True)]


def test_a_sweep_over_time_constants_keeps_one_trace_for_a_shared_voltage():
    def traces(tau):
        net = ej.Network(ej.cells.lif(N_IN, N, tau_m=tau), ej.readouts.leaky(N, N_OUT, tau=tau))
        carry = ej.eprop(net, LOSS).init(net.init(jax.random.key(0)), (BATCH,))
        return carry.epsilon["w_rec"].v, carry.gamma.cell["w_rec"]

    epsilon, gamma = jax.eval_shape(jax.vmap(traces), jnp.array([3.0, 9.0]))
    assert epsilon.shape == (2, BATCH, N, 1)
    assert gamma.shape == (2, BATCH, 1, N, N)


def test_the_promise_of_shared_is_checked_for_traced_constants_too():
    def cell(keep):
        cell = ej.cells.custom(
            N_IN, N, lambda th, c, a: th["keep"] * c + a, lambda th, c: jnp.tanh(c), 0.0,
            constants={"keep": keep}, shared=("",),
        )  # fmt: skip
        net = ej.Network(cell, ej.readouts.linear(N, N_OUT))
        return ej.value_and_grad(ej.eprop(net, LOSS), 3)(net.init(jax.random.key(0)), XS, YS)[0]

    assert jax.eval_shape(jax.vmap(cell), jnp.array([0.5, 0.6])).shape == (2,)
    with pytest.raises(ValueError, match=r"shared: .*keep"):
        jax.eval_shape(jax.vmap(cell), jnp.full((2, N), 0.5))


def test_a_value_that_is_known_is_refused_beside_one_that_is_traced():
    with pytest.raises(ValueError, match="v_th"):
        jax.vmap(lambda tau: ej.cells.lif(3, 4, tau_m=tau, v_th=-1.0).init(jax.random.key(0)))(
            jnp.ones(2)
        )
    with pytest.raises(ValueError, match=r"tau_m: got shape \(3,\)"):
        jax.vmap(lambda tau: ej.cells.lif(3, 4, tau_m=tau).init(jax.random.key(0)))(
            jnp.ones((2, 3))
        )
    with pytest.raises(TypeError, match="connectivity: got a tracer"):
        jax.jit(lambda m: ej.cells.rnn(3, 4, connectivity=m).init(jax.random.key(0)))(
            jnp.ones((4, 4), bool)
        )


# -- the derivative of a spike ---------------------------------------------------------------------


@pytest.mark.parametrize("mode", [jax.grad, jax.jacfwd])
def test_the_second_derivative_of_a_spike_is_that_of_its_surrogate(mode):
    psi = ej.surrogates.arctan(0.7, 1.3)
    z = ej.surrogates.spike(psi)
    x = jnp.array([-0.4, 0.0, 0.9])
    each = lambda f: jax.vmap(f)(x)
    assert np.allclose(each(mode(z)), each(psi), rtol=1e-14)
    assert np.allclose(each(mode(jax.jacfwd(z))), each(jax.grad(psi)), rtol=1e-13)
    assert np.allclose(each(mode(jax.grad(z))), each(jax.grad(psi)), rtol=1e-13)


def test_a_spike_is_differentiated_where_its_surrogate_closes_over_a_tracer():
    """Also by its width: ∂z/∂x = ψ(x; w), so ∂²z/∂x∂w = ∂ψ/∂w, and ∂z/∂w = 0."""

    def slope(x, width):
        own = lambda x: 0.3 * jnp.exp(-((x / width) ** 2))  # a ψ of one's own
        return jax.grad(ej.surrogates.spike(own))(x)

    def value(x, width):
        return ej.surrogates.spike(ej.surrogates.exponential(0.3, width))(x)

    x, w = jnp.array(0.4), jnp.array([0.5, 2.0])
    want = 0.3 * np.exp(-((0.4 / np.asarray(w)) ** 2))
    assert np.allclose(jax.jit(jax.vmap(slope, (None, 0)))(x, w), want, rtol=1e-12)
    by_width = jax.vmap(jax.grad(slope, 1), (None, 0))(x, w)
    assert np.allclose(by_width, want * 2 * 0.4**2 / np.asarray(w) ** 3, rtol=1e-12)
    assert jax.grad(value, 1)(x, w[0]) == 0
