"""The derivatives of one unit, laid down from one trace, against `jax.jacfwd` one scalar at a time."""

import jax
import jax.numpy as jnp
import pytest

from eprop_jax.engine.columns import columns


@jax.custom_jvp
def kinked(x):
    return jnp.abs(x)


kinked.defjvps(lambda dot, _, x: dot * jnp.tanh(x))


def plain(x):
    return jnp.sin(x[0]) * x[1] + kinked(x[2] - x[0]), 3.0 * x[0], x[1] / x[2] - x[0]


def jitted(x):
    return jax.jit(lambda a, b, c: (a * b, jax.nn.sigmoid(c)))(*x)


def chosen(x):
    return (jax.lax.cond(x[2] > 0, lambda a, b: a * b, lambda a, b: a - b, x[0], x[1]),)


def looped(x):
    """A loop of which one result no tangent reaches, and another that x[1] alone reaches."""

    def step(carry, _):
        n, a, b = carry
        return (n * 0.5, a * b + n, jnp.cos(b)), b * n

    (n, a, b), bs = jax.lax.scan(step, (jnp.ones(()), x[0], x[1]), None, length=3)
    return n * x[2], a, b, bs.sum()


def looped_late(x):
    return looped(x[::-1])


def awhile(x):
    return (
        jax.lax.while_loop(lambda z: z < 3.0, lambda z: z * 1.5 + 0.1 * jnp.sin(z), x[0]) * x[1],
    )


def sums(x):
    y = x[0] * x[1]
    return y + x[2], y + y, jnp.maximum(y, x[2]), jnp.where(x[2] > 1, y, x[2])


@pytest.mark.parametrize("f", [plain, jitted, chosen, looped, looped_late, awhile, sums])
@pytest.mark.parametrize("compiled", [False, True])
def test_columns_are_the_jacobian(f, compiled):
    x = [jnp.float64(0.7), jnp.float64(1.3), jnp.float64(0.4)]
    found = (jax.jit(lambda x: columns(f, x)) if compiled else lambda x: columns(f, x))(x)
    for k, column in enumerate(found):
        exact = jax.jacfwd(lambda s, k=k: f([*x[:k], s, *x[k + 1 :]]))(x[k])
        for mine, theirs in zip(column, exact, strict=True):
            assert (0.0 if mine is None else mine) == pytest.approx(float(theirs), abs=1e-14)


def absent(f):
    found = columns(f, [jnp.float64(0.7), jnp.float64(1.3), jnp.float64(0.4)])
    return [[x is None for x in column] for column in found]


def test_what_is_zero_whatever_the_values_are_is_absent():
    assert absent(plain) == [[False, False, False], [False, True, False], [False, True, False]]
    assert absent(jitted) == [[False, True], [False, True], [True, False]]
    assert absent(looped) == [
        [True, False, True, True], [True, False, False, False], [False, True, True, True]
    ]  # fmt: skip
    assert absent(lambda x: (jax.lax.stop_gradient(x[0]) * x[1], jnp.float64(2.0))) == [
        [True, True], [False, True], [True, True]
    ]  # fmt: skip


def test_what_no_tangent_reaches_stands_once():
    """exp of x[0] is the factor of two columns; of the function's own value nothing more is needed."""
    f = lambda x: (jnp.exp(x[0]) * x[1] + jnp.exp(x[0]) * x[2],)
    x = [jnp.float64(1.0)] * 3
    found = jax.make_jaxpr(lambda x: columns(f, x))(x)
    names = [eqn.primitive.name for eqn in found.jaxpr.eqns]
    assert names.count("exp") == 2
    assert len(names) == 9, names


def test_reverse_alone_is_refused():
    f = jax.custom_vjp(jnp.sin)
    f.defvjp(lambda x: (jnp.sin(x), x), lambda x, ct: (ct * jnp.cos(x),))
    with pytest.raises(TypeError, match="custom_vjp"):
        columns(lambda x: (f(x[0]),), [jnp.float64(1.0)])
