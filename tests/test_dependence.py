"""What a jaxpr's results depend on, also through the jaxprs inside it; and what rules make of it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

import eprop_jax as ej
from eprop_jax.engine import dependence


class State(NamedTuple):
    v: Any
    w: Any


def conditional(f):
    return lambda th, c, a: jax.lax.cond(True, lambda o: f(*o), lambda o: f(*o), (th, c, a))


def looped(f):
    return lambda th, c, a: jax.lax.fori_loop(0, 2, lambda _, c: f(th, c, a), c)


def scanned(f):
    return lambda th, c, a: jax.lax.scan(lambda c, _: (f(th, c, a), None), c, length=2)[0]


WRAPPED = {
    "as it is": lambda f: f, "jit": jax.jit, "nested": lambda f: jax.jit(jax.checkpoint(jax.jit(f))),
    "cond": conditional, "while": looped, "scan": scanned,
}  # fmt: skip


def leak(theta, c, a):
    return State(0.9 * c.v + a, 0.5 * c.w + c.v * a)


def first_use(cell):
    net = ej.Network(cell, ej.readouts.linear(3, 2))
    params = jax.eval_shape(net.init, jax.random.key(0))
    return jax.eval_shape(lambda p: ej.eprop(net, ej.losses.squared_error).init(p, (1,)), params)


def unit(dynamics, **options):
    return ej.cells.custom(2, 3, dynamics, lambda _, c: c.v + c.w, State(0.0, 0.0), **options)


@pytest.mark.parametrize("wrap", WRAPPED)
def test_an_unread_parameter_is_refused_wherever_it_stands(wrap):
    with pytest.raises(ValueError, match=r"\['b'\]: .* zero whatever the values"):
        first_use(unit(WRAPPED[wrap](leak), theta={"b": 0.2}))
    read = lambda th, c, a: State(0.9 * c.v + a * th["b"], c.w)
    first_use(unit(WRAPPED[wrap](read), theta={"b": 0.2}))


@pytest.mark.parametrize("wrap", WRAPPED)
def test_a_true_promise_is_believed_and_a_false_one_is_not(wrap):
    carry = first_use(unit(WRAPPED[wrap](leak), shared=("v",)))
    assert carry.epsilon["w_in"].v.shape[-1] == 1
    with pytest.raises(ValueError, match="shared: got component 1"):
        first_use(unit(WRAPPED[wrap](leak), shared=("w",)))


def test_a_choice_by_value_is_no_promise():
    """Which branch is taken depends on the unit, so its factor does."""
    halves = lambda c: jax.lax.cond(c.v > 1, lambda v: 0.5 * v, lambda v: 0.9 * v, c.v)
    dynamics = lambda th, c, a: State(halves(c) + a, 0.5 * c.w)
    with pytest.raises(ValueError, match="shared: got component 0"):
        first_use(unit(dynamics, shared=("v",)))


def test_loops_pass_dependence_on():
    """x reaches z in the third round: z ← y, y ← x."""

    def by_scan(x, y, z):
        return jax.lax.scan(lambda c, _: ((c[0], c[0], c[1]), c[2]), (x, y, z), length=3)

    def by_while(x, n):
        return jax.lax.while_loop(lambda c: c[1] > 0, lambda c: (2 * c[0], c[1] - 1), (x, n))

    of = lambda f, *args: [sorted(s) for s in dependence.of_results(jax.make_jaxpr(f)(*args).jaxpr)]
    assert of(by_scan, 1.0, 1.0, 1.0) == [[0], [0, 1], [0, 1, 2], [0, 1, 2]]
    assert of(by_while, 1.0, 3) == [[0, 1], [1]]


def test_what_is_not_known_depends_on_all():
    f = lambda x, y: jnp.linalg.solve(x, y)
    sources = dependence.of_results(jax.make_jaxpr(f)(jnp.eye(2), jnp.ones(2)).jaxpr)
    assert sources == [frozenset({0, 1})]
