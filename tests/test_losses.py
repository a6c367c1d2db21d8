"""The losses, against optax and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference as ref
from cases import problem

import eprop_jax as ej

Y = jnp.array([0.5, -1.0, 2.0])
TARGET = jnp.array([0.0, 1.0, 0.5])
N_OUT = 3


def test_squared_error_is_half_the_squared_distance():
    assert float(ej.losses.squared_error(Y, TARGET)) == 0.5 * (0.25 + 4.0 + 2.25)
    assert float(ej.losses.squared_error(Y, TARGET)) == float(jnp.sum(optax.l2_loss(Y, TARGET)))


def test_cross_entropy_takes_classes_one_hot_and_soft_targets():
    by_hand = -float(Y[1] - np.log(np.sum(np.exp(np.asarray(Y)))))
    loss = ej.losses.softmax_cross_entropy
    assert float(loss(Y, jnp.array(1))) == pytest.approx(by_hand, rel=1e-14)
    assert float(loss(Y, jnp.array(1, jnp.uint8))) == pytest.approx(by_hand, rel=1e-14)
    assert float(loss(Y, jax.nn.one_hot(1, 3))) == pytest.approx(by_hand, rel=1e-14)
    assert float(loss(Y, jnp.array([0, 1, 0]))) == pytest.approx(by_hand, rel=1e-14)
    soft = jnp.array([0.2, 0.3, 0.5])
    assert float(loss(Y, soft)) == pytest.approx(float(optax.softmax_cross_entropy(Y, soft)))


@pytest.mark.parametrize("label", [-1, 3])
def test_a_class_that_does_not_exist_is_no_loss_of_zero(label):
    assert np.isnan(ej.losses.softmax_cross_entropy(jnp.zeros(3), jnp.array(label)))


def test_cross_entropy_is_finite_for_large_logits():
    y = jnp.array([1e4, -1e4, 0.0])
    value, grad = jax.value_and_grad(ej.losses.softmax_cross_entropy)(y, jnp.array(1))
    assert float(value) == 2e4
    assert np.allclose(grad, [1.0, -1.0, 0.0])


def test_masked_weights_each_step():
    loss = ej.losses.masked(ej.losses.squared_error)
    full = float(ej.losses.squared_error(Y, TARGET))
    assert float(loss(Y, (TARGET, jnp.array(True)))) == full
    assert float(loss(Y, (TARGET, jnp.array(0)))) == 0.0
    assert float(loss(Y, (TARGET, jnp.array(0.25)))) == 0.25 * full


def test_a_masked_step_may_hold_no_number_at_all():
    loss = ej.losses.masked(ej.losses.squared_error)
    hole = jnp.full(3, jnp.nan)
    assert float(loss(Y, (hole, jnp.array(False)))) == 0.0
    assert np.all(jax.grad(loss)(Y, (hole, jnp.array(False))) == 0)


def test_firing_rate_by_hand():
    f = jnp.array([0.1, 0.3])
    assert float(ej.losses.firing_rate(0.2, 3.0)(f)) == pytest.approx(0.5 * 3 * 0.02)
    each = ej.losses.firing_rate([0.1, 0.2], 1.0)(f)
    assert float(each) == pytest.approx(0.5 * 0.01)


def test_a_masked_loss_counts_only_the_chosen_steps():
    p = problem("gru", "leaky", n_out=N_OUT, T=4, batch=(2,))
    mask = jnp.zeros((4, 2)).at[-1].set(1.0)
    rule = ej.bptt(p.net, ej.losses.masked(ej.losses.squared_error))
    loss, grads = ej.value_and_grad(rule)(p.params, p.xs, (p.ys, mask))
    last = lambda y, target: target[1] * ref.squared_error(y, target[0])
    wanted_loss, wanted = p.reference(last, ys=(p.ys, mask))
    assert float(loss) == pytest.approx(float(wanted_loss), rel=1e-12)
    ref.assert_same(grads, wanted)


CLASSES = jnp.asarray(np.random.default_rng(5).integers(0, N_OUT, (4, 2)))
VALUES = jnp.asarray(np.random.default_rng(6).normal(size=(4, 2, N_OUT)))
ONE_HOT = jax.nn.one_hot(CLASSES, N_OUT)


@pytest.mark.parametrize(
    "loss, same_as, ys",
    [
        (optax.l2_loss, ej.losses.squared_error, VALUES),
        (optax.squared_error, lambda y, t: jnp.sum((y - t) ** 2), VALUES),
        (
            optax.softmax_cross_entropy_with_integer_labels,
            ej.losses.softmax_cross_entropy,
            CLASSES,
        ),
        (optax.softmax_cross_entropy, ej.losses.softmax_cross_entropy, ONE_HOT),
        (
            ej.losses.masked(optax.softmax_cross_entropy_with_integer_labels),
            lambda y, t: t[1] * ej.losses.softmax_cross_entropy(y, t[0]),
            (CLASSES, jnp.asarray(np.linspace(0, 1, 8).reshape(4, 2))),
        ),
    ],
    ids=["l2", "squared", "integer labels", "one-hot", "masked"],
)
def test_optax_losses_fit(loss, same_as, ys):
    p = problem("rnn", "linear", n_out=N_OUT, T=4, batch=(2,))
    rule = ej.eprop(p.net, loss)
    value, grads = ej.value_and_grad(rule)(p.params, p.xs, ys)
    wanted_value, wanted = p.reference(same_as, ys=ys, order=1)
    assert float(value) == pytest.approx(float(wanted_value), rel=1e-12)
    ref.assert_same(grads, wanted)
