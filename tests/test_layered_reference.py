"""The oracles for layers agree: with each other, with `jax.grad`, and with the rules of one layer."""

import functools
from typing import Any, NamedTuple

import cases
import jax
import jax.numpy as jnp
import layered_reference as lay
import numpy as np
import pytest
import reference as ref

import eprop_jax as ej
from eprop_jax.engine import paths

pytestmark = pytest.mark.slow  # compiling the blocks of every network is most of it


class Pair(NamedTuple):
    u: Any
    v: Any


def coupled(n_in, n):
    """Two components that drive each other, a trained value that the dynamics and the output read."""
    return ej.cells.custom(
        n_in,
        n,
        lambda theta, c, a: Pair(
            u=0.8 * c.u - 0.4 * jnp.tanh(c.v) + a, v=theta["g"] * c.u * a + 0.7 * c.v
        ),
        lambda theta, c: jnp.tanh(c.u + theta["g"] * c.v),
        Pair(u=0.1, v=-0.2),
        theta={"g": 0.4},
        gain_rec=1.5,
    )


def masked(n_in, n):
    return ej.cells.leaky_rnn(
        n_in, n, decay=0.6, gain_rec=2.0, connectivity=np.tri(n, k=1, dtype=bool)
    )


def stateless(n_in, n):
    return ej.cells.stateless(n_in, n, activation=jnp.tanh)


MAKE = {name: case.make for name, case in (cases.CELLS | cases.VARIANTS).items()}
MAKE |= {"coupled": coupled, "masked": masked, "stateless": stateless}
MAKE |= {  # whose initial state is trained
    "leaky, initial": lambda m, n: ej.cells.leaky_rnn(
        m, n, decay=0.6, gain_rec=2.0, trainable=("initial",)
    ),
    "alif, initial": lambda m, n: ej.cells.alif(
        m, n, tau_m=4.0, tau_a=9.0, v_th=0.4, gain_rec=2.0, trainable=("v_th", "initial")
    ),
}
LANGUAGES = {
    "all": "(i|e|f)*",
    "e-prop": "i*",
    "order 2": paths.order(2),
    "D-RTRL": "i*f*",
    "SnAp-1": "(i|s)*f*",
    "OTPE": "i*(fi*f*)?",
    "a drawn one": "i*(ei*)?f*",
    "letters apart": "(i|f)*(e(s|f)i*)?",
}


def network(kinds, readout="leaky", n=2, n_in=2, n_out=2, inputs=None, reads=None):
    inputs = inputs or (("x",), *((l,) for l in range(len(kinds) - 1)))
    reads = reads or (len(kinds) - 1,)
    sizes = [n + l % 2 for l in range(len(kinds))]  # no two neighbours alike
    cells = tuple(
        MAKE[kind](sum(n_in if k == "x" else sizes[k] for k in names), size)
        for kind, names, size in zip(kinds, inputs, sizes)
    )
    out = cases.READOUTS[readout].make(sum(sizes[l] for l in reads), n_out)
    return lay.Stack(cells, out, inputs, reads)


STACKS = {
    "one": network(["coupled"]),
    "two": network(["alif, all trained", "gru"], "custom"),
    "skips": network(
        ["lstm", "masked", "coupled"], inputs=(("x",), (0,), (1, "x", 0)), reads=(0, 2)
    ),
}


def more_losses(stack, seed=1):
    """Feedback of its own for every layer, and losses on rates and states."""
    rng = np.random.default_rng(seed)
    return {
        "feedback": tuple(jnp.asarray(rng.normal(size=(n, 2))) for n in stack.sizes),
        "activity": tuple(lambda f: jnp.sum((f - 0.3) ** 2) for _ in stack.sizes),
        "state": (*(None for _ in stack.sizes[1:]), lambda c: 0.1 * jax.tree.leaves(c)[0] ** 2),
    }


@functools.cache
def problem(name, T, batch=1, more=False):
    stack = STACKS[name]
    options = more_losses(stack) if more else {}
    return lay.problem(stack, *lay.drawn(stack, T, batch), ref.squared_error, **options)


def tangents(given, expression):
    return lay.tangent_gradient(given, paths.compile(expression))


@pytest.mark.parametrize("name, T, more", [("one", 4, True), ("two", 3, False), ("skips", 3, True)])
@pytest.mark.parametrize("language", LANGUAGES)
def test_forward_in_time_is_the_enumeration_of_words(name, T, more, language):
    given, expression = problem(name, T, more=more), LANGUAGES[language]
    accepts = functools.partial(paths.accepts, paths.compile(expression))
    words, found = lay.enumerate_words(given, accepts), tangents(given, expression)
    np.testing.assert_allclose(found[0], words[0], rtol=1e-13)
    ref.assert_same(found[1], words[1], 1e-13)


@pytest.mark.parametrize("name, more", [("one", True), ("two", True), ("skips", False)])
def test_all_paths_are_the_gradient_of_the_unrolled_loop(name, more):
    stack, T = STACKS[name], 10
    params, xs, ys = lay.drawn(stack, T, batch=2)
    options = more_losses(stack) if more else {}
    value, grads = jax.value_and_grad(
        lambda p: lay.total(stack, p, xs, ys, ref.squared_error, **options)
    )(params)
    found = tangents(problem(name, T, 2, more), "(i|e|f)*")
    np.testing.assert_allclose(found[0], value, rtol=1e-12)
    ref.assert_same(found[1], grads, 1e-11)


def test_languages_differ_where_they_should():
    """On these networks each cut is worth something: no test above holds because a path is zero."""
    given = problem("skips", 3, more=True)
    grads = [tangents(given, expression)[1]["cell"] for expression in LANGUAGES.values()]
    for k, one in enumerate(grads):
        for other in grads[:k]:
            assert ref.distance(one, other) > 1e-3


@pytest.mark.parametrize(
    "kind, feedback", [("alif, all trained", "random"), ("coupled", "symmetric")]
)
def test_one_layer_is_the_library_s_rules(kind, feedback):
    stack = network([kind], "leaky", n=3)
    net = ej.Network(stack.cells[0], stack.readout)
    params, xs, ys = lay.drawn(stack, 5, batch=2)
    both = {"cell": params["cell"][0], "readout": params["readout"]}
    activity = lambda f: jnp.sum((f - 0.3) ** 2)
    state = lambda c: 0.1 * jax.tree.leaves(c)[0] ** 2
    B = None
    if feedback == "random":
        both["feedback"] = ej.feedback.init(jax.random.key(5), net)
        B = (both["feedback"],)
    given = lay.problem(stack, params, xs, ys, ref.squared_error, B, (activity,), (state,))
    make = {
        "i*": ej.eprop,
        paths.order(2): functools.partial(ej.m_order_eprop, order=2),
        paths.order(3): functools.partial(ej.m_order_eprop, order=3),
    }
    for expression, rule in make.items():
        rule = rule(
            net, ej.losses.squared_error, feedback=feedback,
            activity_loss=activity, state_loss=state,
        )  # fmt: skip
        value, grads = ej.value_and_grad(rule)(both, xs, ys)
        found = tangents(given, expression)
        np.testing.assert_allclose(found[0], value, rtol=1e-12)
        grads = {"cell": (grads["cell"],), "readout": grads["readout"]}
        ref.assert_same(found[1], grads, 1e-11)
