"""What a user's functions return in another dtype than the parameters' is theirs to choose."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pace import quick

import eprop_jax as ej


class State(NamedTuple):
    v: Any
    clock: Any
    last: Any


RULES = {
    "BPTT": ej.bptt,
    "RTRL": ej.rtrl,
    "e-prop": ej.eprop,
    "order 2": lambda *args, **options: ej.m_order_eprop(*args, order=2, **options),
}


def of_32_bits(cell, n_in=2, n_out=2):
    net = ej.Network(cell, ej.readouts.leaky(cell.n_units, n_out))
    params = jax.tree.map(lambda p: p.astype(jnp.float32), net.init(jax.random.key(0)))
    rng = np.random.default_rng(1)
    draw = lambda k: jnp.asarray(rng.normal(size=(6, 2, k)), jnp.float32)
    return net, params, draw(n_in), draw(n_out)


@pytest.mark.parametrize("chunk", quick([None, 1, 4], 4))
@pytest.mark.parametrize("name", RULES)
def test_losses_of_64_bits_beside_parameters_of_32(name, chunk):
    """float64 is on in the suite: NumPy's numbers and arrays are that wide."""
    net, params, xs, ys = of_32_bits(ej.cells.gru(2, 3))
    wide = lambda x: x.astype(jnp.float64)

    def rule(to):
        return RULES[name](
            net,
            lambda y, t: jnp.sum((to(y) - to(t)) ** 2),
            activity_loss=lambda f: jnp.sum(to(f) ** 2),
            state_loss=lambda c: to(c) ** 2,
        )

    loss, grads = ej.value_and_grad(rule(wide), chunk=chunk)(params, xs, ys)
    same, wanted = ej.value_and_grad(rule(lambda x: x), chunk=chunk)(params, xs, ys)
    np.testing.assert_allclose(loss, same, rtol=1e-6)
    for g, p, w in zip(*map(jax.tree.leaves, (grads, params, wanted))):
        assert g.dtype == p.dtype
        np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-5)


def test_a_component_may_be_a_python_number():
    def unit(number, zero):
        def dynamics(theta, c, a):
            return State(v=0.5 * c.v + a + c.clock, clock=number, last=zero)

        return ej.cells.custom(2, 3, dynamics, lambda _, c: jnp.tanh(c.v), State(0.0, 0.1, 0))

    net, params, xs, ys = of_32_bits(unit(0.25, 1))
    for make in RULES.values():
        f = ej.value_and_grad(make(net, ej.losses.squared_error), chunk=2)
        as_arrays = unit(jnp.float32(0.25), jnp.int32(1))
        other = ej.Network(as_arrays, net.readout)
        got, wanted = f(params, xs, ys), make(other, ej.losses.squared_error)
        wanted = ej.value_and_grad(wanted, chunk=2)(params, xs, ys)
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), got, wanted))
