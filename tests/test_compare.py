"""How far a gradient is from another, by hand."""

import jax
import jax.numpy as jnp
import pytest

import eprop_jax as ej


def test_fidelity_by_hand():
    g = {"a": jnp.array([3.0, -4.0]), "b": jnp.array([0.0, 5.0])}
    reference = {"a": jnp.array([6.0, 8.0]), "b": jnp.array([0.0, 0.0])}
    f = ej.fidelity(g, reference)
    assert float(f.cosine) == pytest.approx((18 - 32) / (50**0.5 * 10), rel=1e-14)
    assert float(f.relative_error) == pytest.approx((9 + 144 + 25) ** 0.5 / 10, rel=1e-14)
    assert float(f.sign_agreement) == 0.5  # of the two that the reference moves
    assert float(f.norm_ratio) == pytest.approx(50**0.5 / 10, rel=1e-14)


def test_fidelity_of_nothing_is_nothing():
    f = ej.fidelity(jnp.zeros(2), jnp.array([1.0, 2.0]))
    assert (float(f.cosine), float(f.relative_error), float(f.norm_ratio)) == (0.0, 1.0, 0.0)


def test_steps_that_do_not_count_and_examples_that_start_afresh():
    """Two sequences packed in one row, and padding, against the second one alone."""
    net = ej.Network(ej.cells.rnn(2, 4, gain_rec=2.0), ej.readouts.linear(4, 1))
    rules = {"e-prop": ej.eprop(net, ej.losses.squared_error)}
    params = net.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (9, 2, 2))
    ys = jax.random.normal(jax.random.key(2), (9, 2, 1))
    at = jnp.arange(9)[:, None] * jnp.ones((1, 2), int)
    given = {"mask": (at >= 3) & (at < 7), "resets": at == 3}
    found = ej.compare(rules, params, xs, ys, **given).overall["e-prop"]
    alone = ej.compare(rules, params, xs[3:7], ys[3:7]).overall["e-prop"]
    whole = ej.compare(rules, params, xs, ys).overall["e-prop"]
    assert float(found.cosine) == pytest.approx(float(alone.cosine), rel=1e-12)
    assert abs(float(found.cosine) - float(whole.cosine)) > 1e-4
