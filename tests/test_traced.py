"""A user's function is traced once, and that does not show."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eprop_jax as ej
from eprop_jax.network import traced, unitwise

XS = jnp.ones((3, 1, 2))


KEEP = 0.9
"""A variable of a module or notebook, which its functions read."""


def dynamics(theta, c, a):
    return KEEP * c + a


class Leaky:
    """The same of an object."""

    def __init__(self, keep):
        self.keep = keep

    def dynamics(self, theta, c, a):
        return self.keep * c + a


def h(theta, c):
    return c


def states(f):
    """c³ of a cell made now, and y³ of a read-out; and the network, which lives on."""
    cell = ej.cells.custom(2, 2, f(), h, 0.0, drives=("w_in",))
    net = ej.Network(cell, ej.readouts.custom(2, 1, f(), bias=False))
    params = jax.tree.map(jnp.ones_like, net.init(jax.random.key(0)))
    run = net.apply(params, XS)
    return (float(run.state.c[0, 0]), float(run.state.y[0, 0])), net


def by_hand(keep):
    c = y = 0.0
    for _ in range(3):
        c = keep * c + 2.0
        y = keep * y + 2 * c
    return c, y


def test_a_cell_made_anew_sees_a_changed_variable(monkeypatch):
    one, _first = states(lambda: dynamics)
    monkeypatch.setitem(globals(), "KEEP", 0.25)
    two, _ = states(lambda: dynamics)
    np.testing.assert_allclose([one, two], [by_hand(0.9), by_hand(0.25)])


def test_a_cell_made_anew_sees_a_changed_object():
    unit = Leaky(0.9)
    one, _first = states(lambda: unit.dynamics)
    unit.keep = 0.25
    two, _ = states(lambda: unit.dynamics)
    np.testing.assert_allclose([one, two], [by_hand(0.9), by_hand(0.25)])


def test_an_equal_function_that_goes_takes_nothing_with_it():
    """A method is made anew each time that it is asked for, equal to the one before."""
    unit, at = Leaky(0.5), {"theta": {}, "c": jnp.ones(()), "a": jnp.ones(())}
    first, second = unit.dynamics, unit.dynamics
    assert first == second and first is not second
    traced.once(unitwise.next_state, first)
    of_second = traced.once(unitwise.next_state, second)
    del first
    gc.collect()
    assert of_second(at) == 1.5


def test_a_function_is_traced_once_and_not_kept():
    calls = []

    def dynamics(theta, c, a):
        calls.append(1)
        return 0.5 * c + a

    at = {"theta": {}, "c": jnp.ones(()), "a": jnp.ones(())}
    for _ in range(2):
        assert traced.once(unitwise.next_state, dynamics)(at) == 1.5
    assert len(calls) == 1
    gone = weakref.ref(dynamics)
    del dynamics
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("function", [jnp.ones(2), []], ids=["array", "list"])
def test_what_can_be_no_key_is_forgotten_too(function):
    traced.forget(function)
