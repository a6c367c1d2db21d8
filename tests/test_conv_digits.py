"""benchmarks/conv_digits.py at a tiny size: every rule reaches every layer, and the loss falls."""

import jax
import jax.numpy as jnp
import optax
import pytest

import eprop_jax as ej
from benchmarks import conv_digits
from tests.pace import quick


@pytest.fixture(scope="module")
def small():
    net = conv_digits.network(True, channels=(2, 2), top=8)
    data = ej.tasks.digits()
    xs, ys = conv_digits.show(data.train_images[:8], data.train_labels[:8], steps=8)
    return net, jax.jit(net.init)(jax.random.key(0)), xs, ys


@pytest.mark.parametrize("name", quick([*conv_digits.RULES], "i*f*", "order 3"))
def test_every_parameter_has_a_gradient_and_the_loss_falls(name, small):
    net, params, xs, ys = small
    optimizer = optax.adam(1e-2)
    rule = conv_digits.RULES[name](net, conv_digits.LOSS)
    with jax.numpy_dtype_promotion("standard"):  # optax.adam needs it
        update = jax.jit(conv_digits.updater(rule, optimizer))
        opt_state = optimizer.init(params)
        params, opt_state, first, grads = update(params, opt_state, xs, ys)
        for _ in range(10):
            params, opt_state, loss, _ = update(params, opt_state, xs, ys)
    assert grads["cell"][0]["w_in"].shape == (3, 3, 1, 2)
    assert all(bool(jnp.any(g != 0)) for g in jax.tree.leaves(grads))
    assert loss < 0.8 * first


@pytest.mark.slow
def test_the_order_of_the_benchmark_is_the_smallest(small):
    net, *args = small
    rule = ej.m_order_eprop(net, conv_digits.LOSS, order=conv_digits.ORDER - 1)
    with pytest.raises(ValueError, match="no path to the loss"):
        jax.eval_shape(ej.value_and_grad(rule), *args)
    two = conv_digits.network(True, (2, 2), 8, reads=conv_digits.UPPER_TWO)
    rule = conv_digits.RULES_OF_TWO[f"order {conv_digits.ORDER - 1}"](two, conv_digits.LOSS)
    _, xs, ys = args
    grads = ej.value_and_grad(rule)(two.init(jax.random.key(0)), xs, ys)[1]
    assert all(bool(jnp.any(g != 0)) for g in jax.tree.leaves(grads))


def test_frozen_layers_stay(small):
    _, params, *_ = small
    optimizer = conv_digits.frozen(optax.sgd(1.0))
    changes, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params))
    moved = [all(bool(jnp.all(x)) for x in jax.tree.leaves(p)) for p in changes["cell"]]
    still = [not any(bool(jnp.any(x)) for x in jax.tree.leaves(p)) for p in changes["cell"]]
    assert (moved, still) == ([False, False, True], [True, True, False])
