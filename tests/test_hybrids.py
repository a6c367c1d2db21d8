"""Eq. 10 and Eq. 18 give the exact gradient, as BPTT does, where the recurrence matters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eprop_jax as ej
from eprop_jax import hybrids

T, N, N_IN, N_OUT = 7, 4, 2, 2
loss = ej.losses.squared_error
HYBRIDS = {
    "eq_10": hybrids.implicit_eligibility_gradient,
    "eq_18": hybrids.first_explicit_gradient,
}
NETWORKS = {
    "rnn": lambda: (ej.cells.rnn(N_IN, N, gain_rec=1.5), ej.readouts.linear(N, N_OUT)),
    "gru": lambda: (ej.cells.gru(N_IN, N, gain_rec=1.5), ej.readouts.leaky(N, N_OUT, kappa=0.8)),
    "alif": lambda: (
        ej.cells.alif(
            N_IN, N, tau_m=5.0, tau_a=10.0, v_th=0.3, gain_rec=1.5, refractory=2,
            self_connections=False, reset_gradient=True,
            surrogate=ej.surrogates.arctan(1.0, 0.5),
            trainable=("tau_m", "tau_a", "beta", "v_th"),
        ),
        ej.readouts.custom(
            N, N_OUT, lambda phi, y, a: jnp.tanh(phi["decay"] * y + a), theta={"decay": 0.7}
        ),
    ),
}  # fmt: skip


@functools.cache
def example(name, batch):
    net = ej.Network(*NETWORKS[name]())
    keys = jax.random.split(jax.random.key(0), 3)
    xs = 1.5 * jax.random.normal(keys[1], (T, *batch, N_IN))
    ys = jax.random.normal(keys[2], (T, *batch, N_OUT))
    params = net.init(keys[0])
    return net, params, xs, ys, ej.value_and_grad(ej.bptt(net, loss))(params, xs, ys)


def difference(got, wanted):
    """The largest over the leaves, relative to the leaf."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(wanted))
    return max(float(np.linalg.norm(g - w) / np.linalg.norm(w)) for g, w in pairs)


@pytest.mark.parametrize(
    ("name", "batch"), [("gru", ()), *((name, (2, 3)) for name in NETWORKS)], ids=str
)
@pytest.mark.parametrize("equation", HYBRIDS)
def test_is_the_exact_gradient(equation, name, batch):
    net, params, xs, ys, (wanted_loss, wanted) = example(name, batch)
    got_loss, got = HYBRIDS[equation](net, loss)(params, xs, ys)
    assert jax.tree.structure(got) == jax.tree.structure(params)
    np.testing.assert_allclose(got_loss, wanted_loss, rtol=1e-12)
    assert difference(got, wanted) < 1e-10


@pytest.mark.parametrize("name", NETWORKS)
def test_what_section_4_leaves_out_is_not_small(name):
    """With ∂L/∂h for dL/dh, or without the second sum of Eq. 18, this would be e-prop."""
    net, params, xs, ys, (_, wanted) = example(name, (2, 3))
    _, got = ej.value_and_grad(ej.eprop(net, loss))(params, xs, ys)
    assert difference(got["cell"], wanted["cell"]) > 1e-2


@pytest.mark.parametrize("equation", HYBRIDS)
def test_without_explicit_recurrence(equation):
    cell = ej.cells.linear_recurrence(N_IN, N, frequency=0.3, trainable=("decay",))
    net = ej.Network(cell, ej.readouts.linear(N, N_OUT))
    params, xs, ys = net.init(jax.random.key(0)), jnp.ones((T, N_IN)), jnp.ones((T, N_OUT))
    _, wanted = ej.value_and_grad(ej.bptt(net, loss))(params, xs, ys)
    assert difference(HYBRIDS[equation](net, loss)(params, xs, ys)[1], wanted) < 1e-10


@pytest.mark.parametrize("equation", HYBRIDS)
def test_refuses_as_the_rules_do(equation):
    net, params, xs, ys, _ = example("rnn", ())
    with pytest.raises(TypeError, match="net"):
        HYBRIDS[equation](net.cell, loss)
    with pytest.raises(TypeError, match="loss"):
        HYBRIDS[equation](net, "squared error")
    with pytest.raises(ValueError, match="xs"):
        HYBRIDS[equation](net, loss)(params, xs[..., :1], ys)
