"""How far a gradient is from another, by hand."""

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
