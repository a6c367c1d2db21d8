"""`ej.layer` inside a module of another library: the gradient is the rule's."""

import jax
import jax.numpy as jnp
import pytest
from cases import problem
from reference import assert_same, distance

import eprop_jax as ej

P = problem("alif", "leaky", n=4, T=9, batch=(2,))
WHY = "docs/INSIDE_OTHER_LIBRARIES.md has recipes for it (the extras `flax` and `equinox`)"


def loss_of(model):
    return 0.5 * jnp.sum((model(P.xs)[0] - P.ys) ** 2) / 2


def wanted():
    by_eprop, by_bptt = (
        ej.value_and_grad(rule(P.net, ej.losses.squared_error))(P.params, P.xs, P.ys)
        for rule in (ej.eprop, ej.bptt)
    )
    assert distance(by_eprop[1]["cell"], by_bptt[1]["cell"]) > 1e-2
    return by_eprop


def test_flax():
    nnx = pytest.importorskip("flax.nnx", reason=WHY)

    class Model(nnx.Module):
        def __init__(self):
            self.layer = ej.layer(P.net)
            self.params = nnx.data(jax.tree.map(nnx.Param, P.params))

        def __call__(self, xs):
            is_param = lambda x: isinstance(x, nnx.Param)
            return self.layer(jax.tree.map(lambda p: p[...], self.params, is_leaf=is_param), xs)

    loss, grads = nnx.jit(nnx.value_and_grad(loss_of))(Model())
    found = jax.tree.structure(P.params).unflatten(jax.tree.leaves(grads))
    assert_same((loss, found), wanted(), 1e-12)


def test_equinox():
    eqx = pytest.importorskip("equinox", reason=WHY)

    class Model(eqx.Module):
        params: dict
        layer: object = eqx.field(static=True)

        def __call__(self, xs):
            return self.layer(self.params, xs)

    model = Model(P.params, ej.layer(P.net))
    loss, grads = eqx.filter_jit(eqx.filter_value_and_grad(loss_of))(model)
    assert_same((loss, grads.params), wanted(), 1e-12)
