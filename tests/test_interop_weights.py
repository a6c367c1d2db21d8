"""Cells of flax and equinox, here: outputs and gradients are theirs, and what is trained goes back."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest
from pace import quick
from reference import assert_same, distance

import eprop_jax as ej
from eprop_jax.interop import equinox_nn, flax_linen, flax_nnx

N_IN, N, N_OUT, T, B = 3, 4, 2, 9, 2
WHY = "eprop_jax.interop has its weights (the extras `flax` and `equinox`)"


class Theirs(NamedTuple):
    """A module of another library as pure functions of its arrays."""

    arrays: Any
    """a tree, drawn at random, biases too"""
    run: Callable
    """(arrays, carry, xs [T, B, n_in]) -> (carry, hs [T, B, n])"""
    load: Callable
    """(arrays) -> (cell, params)"""
    back: Callable
    """(cell, params) -> arrays"""
    head: Callable
    """() -> (a read-out from a linear layer of the same library, its params, hs -> ys there)"""
    here: Any
    """the module of eprop_jax.interop"""


def drawn(tree, dtype, seed=0):
    """Weights with which the recurrence matters."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [0.8 * jax.random.normal(k, x.shape, dtype) for k, x in zip(keys, leaves)]
    return structure.unflatten(drawn)


def of_linen(kind, dtype, **options):
    nn = pytest.importorskip("flax.linen", reason=WHY)
    module = getattr(nn, kind)(N, param_dtype=dtype, **options)
    zeros = module.initialize_carry(jax.random.key(0), (B, N_IN))
    found = module.init(jax.random.key(0), zeros, jnp.zeros((B, N_IN), dtype))["params"]

    def run(arrays, carry, xs):
        return jax.lax.scan(lambda c, x: module.apply({"params": arrays}, c, x), carry, xs)

    def head():
        dense = nn.Dense(N_OUT, param_dtype=dtype)
        arrays = drawn(dense.init(jax.random.key(0), jnp.zeros((B, N), dtype))["params"], dtype, 5)
        return *flax_linen.load(dense, arrays), lambda hs: dense.apply({"params": arrays}, hs)

    back = lambda cell, params: flax_linen.give_back(cell, params, like=module)
    load = lambda arrays: flax_linen.load(module, arrays)
    return Theirs(drawn(found, dtype), run, load, back, head, flax_linen)


def of_nnx(kind, dtype, **options):
    nnx = pytest.importorskip("flax.nnx", reason=WHY)
    options = {"dtype": dtype, "param_dtype": dtype, "rngs": nnx.Rngs(0), **options}
    graph, state = nnx.split(getattr(nnx, kind)(N_IN, N, **options))

    def run(arrays, carry, xs):
        module = nnx.merge(graph, arrays)
        return jax.lax.scan(lambda c, x: module(c, x), carry, xs)

    def back(cell, params):
        like = nnx.merge(graph, drawn(state, dtype, 7))
        before = jax.tree.map(jnp.copy, nnx.state(like))
        given = nnx.state(flax_nnx.give_back(cell, params, like=like))
        assert distance(nnx.state(like), before) == 0 < distance(given, before)
        return given

    def head():
        linear = nnx.Linear(N, N_OUT, param_dtype=dtype, rngs=nnx.Rngs(1))
        linear.bias[...] = linear.bias[...] + 0.3
        return *flax_nnx.load(linear), linear

    load = lambda arrays: flax_nnx.load(nnx.merge(graph, arrays))
    return Theirs(drawn(state, dtype), run, load, back, head, flax_nnx)


def of_equinox(kind, dtype, **options):
    eqx = pytest.importorskip("equinox", reason=WHY)
    make = lambda seed: drawn(
        getattr(eqx.nn, kind)(N_IN, N, dtype=dtype, key=jax.random.key(0), **options), dtype, seed
    )

    def run(module, carry, xs):
        def step(c, x):
            c = jax.vmap(module)(x, c)
            return c, c[0] if type(c) is tuple else c

        return jax.lax.scan(step, carry, xs)

    def head():
        linear = eqx.nn.Linear(N, N_OUT, dtype=dtype, key=jax.random.key(1))
        return *equinox_nn.load(linear), jax.vmap(jax.vmap(linear))

    back = lambda cell, params: equinox_nn.give_back(cell, params, like=make(7))
    return Theirs(make(0), run, equinox_nn.load, back, head, equinox_nn)


CASES = {
    "linen GRU": (of_linen, "GRUCell", {}),
    "linen LSTM": (of_linen, "LSTMCell", {}),
    "linen optimized LSTM": (of_linen, "OptimizedLSTMCell", {}),
    "linen simple": (of_linen, "SimpleCell", {}),
    "linen simple, relu": (of_linen, "SimpleCell", {"activation_fn": jax.nn.relu}),
    "nnx GRU": (of_nnx, "GRUCell", {}),
    "nnx LSTM": (of_nnx, "LSTMCell", {}),
    "nnx optimized LSTM": (of_nnx, "OptimizedLSTMCell", {}),
    "nnx simple": (of_nnx, "SimpleCell", {}),
    "equinox GRU": (of_equinox, "GRUCell", {}),
    "equinox GRU without biases": (of_equinox, "GRUCell", {"use_bias": False}),
    "equinox LSTM": (of_equinox, "LSTMCell", {}),
    "equinox LSTM without biases": (of_equinox, "LSTMCell", {"use_bias": False}),
}


def case(name, dtype="float64"):
    make, kind, options = CASES[name]
    return make(kind, dtype, **options)


def zero_carry(name, dtype):
    h = jnp.zeros((B, N), dtype)
    return (h, h) if "LSTM" in name else h


def data(dtype, n_out=N_OUT):
    k_x, k_y = jax.random.split(jax.random.key(2))
    return jax.random.normal(k_x, (T, B, N_IN), dtype), jax.random.normal(k_y, (T, B, n_out), dtype)


def squared(ys, targets):
    return 0.5 * jnp.sum((ys - targets) ** 2) / B


FEW = ("linen GRU", "nnx GRU", "nnx optimized LSTM", "nnx simple", "equinox GRU")
TO_64, TO_32 = ("float64", 1e-12), ("float32", 1e-6)
EACH = [*((name, *TO_64) for name in CASES), *((name, *TO_32) for name in CASES)]
QUICK = [*((name, *TO_64) for name in FEW), ("equinox LSTM", *TO_32)]


@pytest.mark.parametrize("which", quick(EACH, *QUICK), ids=lambda x: f"{x[0]}-{x[1]}")
def test_outputs_and_gradients_are_theirs(which):
    """BPTT here, jax.grad there, through a linear read-out loaded from the same library."""
    name, dtype, tolerance = which
    there, (xs, targets) = case(name, dtype), data(dtype)
    cell, params = there.load(there.arrays)
    readout, of_readout, head = there.head()
    net = ej.Network(cell, readout)
    params = {"cell": params, "readout": of_readout}
    start = zero_carry(name, dtype)

    def loss_there(arrays):
        hs = there.run(arrays, start, xs)[1]
        return squared(head(hs), targets), (hs, head(hs))

    both = jax.jit(jax.value_and_grad(loss_there, has_aux=True))
    (loss, (hs, ys)), grads = both(there.arrays)
    f = ej.value_and_grad(ej.bptt(net, ej.losses.squared_error), has_aux=True)
    (found, aux), by_bptt = f(params, xs, targets)
    assert aux.activity.dtype == dtype
    assert distance((found, aux.outputs, aux.activity), (loss, ys, hs)) < tolerance
    assert distance(aux.activity, hs) < tolerance
    back = there.back(cell, by_bptt["cell"])
    assert distance(back, grads) < tolerance
    assert_same(back, grads, tolerance if dtype == "float64" else 1e-5)


@pytest.mark.parametrize("name", CASES)
def test_what_was_loaded_comes_back_bit_for_bit(name):
    there = case(name)
    cell, params = there.load(there.arrays)
    assert jax.tree.structure(params) == jax.tree.structure(cell.init(jax.random.key(0)))
    back = there.back(cell, params)
    assert jax.tree.structure(back) == jax.tree.structure(there.arrays)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(there.arrays)):
        assert a.dtype == b.dtype and bool((a == b).all())


@pytest.mark.parametrize("name", quick(CASES, "nnx GRU", "equinox LSTM"))
def test_trained_there_continued_here_and_given_back(name):
    """Three updates there, three here and two there again are eight there."""
    there, (xs, targets) = case(name), data("float64", N)
    start = zero_carry(name, "float64")

    @jax.jit
    def update(arrays):
        grads = jax.grad(lambda a: squared(there.run(a, start, xs)[1], targets))(arrays)
        return jax.tree.map(lambda w, g: w - 0.05 * g, arrays, grads)

    every = [there.arrays]
    for _ in range(8):
        every.append(update(every[-1]))
    cell, of_cell = there.load(every[3])
    net = ej.Network(cell, ej.readouts.linear(N, N, bias=False))
    params = {"cell": of_cell, "readout": {"w_out": jnp.eye(N)}}
    f = ej.value_and_grad(ej.bptt(net, ej.losses.squared_error))
    for _ in range(3):
        of_cell = f(params, xs, targets)[1]["cell"]
        params["cell"] = jax.tree.map(lambda w, g: w - 0.05 * g, params["cell"], of_cell)
    back = there.back(cell, params["cell"])
    assert_same(back, every[6], 1e-12)
    assert_same(update(update(back)), every[8], 1e-12)
    assert distance(every[8], every[0]) > 1e-2


@pytest.mark.parametrize("name", quick(CASES, "nnx GRU", "equinox LSTM", "linen simple"))
def test_a_carry_goes_on_here_and_back(name):
    there, (xs, _) = case(name), data("float64")
    half, _ = there.run(there.arrays, zero_carry(name, "float64"), xs[:4])
    wanted = there.run(there.arrays, half, xs[4:])
    cell, of_cell = there.load(there.arrays)
    net = ej.Network(cell, ej.readouts.linear(N, 1))
    params = {**net.init(jax.random.key(0)), "cell": of_cell}
    state = ej.State(there.here.to_state(cell, half), jnp.zeros((B, 1)))
    found = net.apply(params, xs[4:], state)
    carry = there.here.to_carry(cell, found.state.c)
    assert_same((carry, found.activity), wanted, 1e-12)


def test_a_saturated_simple_cell_and_an_empty_lstm_have_finite_states():
    h = jnp.array([1.0, -1.0, 0.5, 0.0], jnp.float32)
    cell = ej.cells.rnn(N_IN, N)
    c = flax_linen.to_state(cell, h)
    assert jnp.isfinite(c).all() and abs(jnp.tanh(c) - h).max() < 2e-7
    c = flax_nnx.to_state(ej.cells.lstm(N_IN, N), (jnp.zeros(N), jnp.zeros(N)))
    assert (c.s == 0).all() and (c.o == 0).all()
    c = flax_nnx.to_state(ej.cells.lstm(N_IN, N), (h - 0.25, 0.5 * h))  # (c, h)
    assert abs(c.o * jnp.tanh(c.s) - 0.5 * h).max() < 1e-7


def test_a_forget_bias_goes_into_the_bias():
    there, (xs, _) = case("linen LSTM"), data("float64")
    cell = ej.cells.lstm(N_IN, N, forget_bias=1.5)
    net = ej.Network(cell, ej.readouts.linear(N, 1))
    params = net.init(jax.random.key(0))
    arrays = there.back(cell, params["cell"])
    hs = there.run(arrays, zero_carry("LSTM", "float64"), xs)[1]
    assert distance(net.apply(params, xs).activity, hs) < 1e-12
    assert jnp.all(arrays["hf"]["bias"] == 1.5) and not arrays["hi"]["bias"].any()
    again = ej.Network(there.load(arrays)[0], net.readout)
    params["cell"] = there.load(arrays)[1]
    assert distance(again.apply(params, xs).activity, hs) < 1e-12


def test_gradients_go_through_loading():
    """Under jit and vmap: three modules' weights at once, and the derivative by theirs."""
    eqx = pytest.importorskip("equinox", reason=WHY)
    there, (xs, targets) = case("equinox GRU"), data("float64", 1)
    net = ej.Network(there.load(there.arrays)[0], ej.readouts.linear(N, 1))
    f = ej.value_and_grad(ej.eprop(net, ej.losses.squared_error))
    params = net.init(jax.random.key(0))

    def loss(module):
        return f({**params, "cell": equinox_nn.load(module)[1]}, xs, targets)[0]

    by_module = jax.jit(jax.grad(loss))(there.arrays)
    grads = f({**params, "cell": there.load(there.arrays)[1]}, xs, targets)[1]["cell"]
    assert_same(by_module, there.back(there.load(there.arrays)[0], grads), 1e-12)
    assert isinstance(by_module, eqx.nn.GRUCell)


def refused():
    """(their module and what is to be done with it, words of the refusal)"""
    nnx = pytest.importorskip("flax.nnx", reason=WHY)
    eqx = pytest.importorskip("equinox", reason=WHY)

    class Other(nnx.GRUCell):
        pass

    biased = nnx.GRUCell(N_IN, N, rngs=nnx.Rngs(0))
    biased.dense_h = nnx.Linear(N, 3 * N, rngs=nnx.Rngs(0))
    unbiased = nnx.GRUCell(N_IN, N, rngs=nnx.Rngs(0))
    unbiased.dense_i = nnx.Linear(N_IN, 3 * N, use_bias=False, rngs=nnx.Rngs(0))
    several = eqx.filter_vmap(lambda key: eqx.nn.GRUCell(N_IN, N, key=key))
    several = several(jax.random.split(jax.random.key(0), 2))
    plain = eqx.nn.LSTMCell(N_IN, N, use_bias=False, key=jax.random.key(0))
    gru = eqx.nn.GRUCell(N_IN, N, key=jax.random.key(0))
    load, back = flax_nnx.load, equinox_nn.give_back
    drawn = lambda cell: (cell, cell.init(jax.random.key(0)))
    yield lambda: load(Other(N_IN, N, rngs=nnx.Rngs(0))), ".Other, wanted one of flax.nnx: "
    yield lambda: load(nnx.RNN(biased)), "(try module.cell)"
    yield lambda: load(biased), "module.dense_h.bias: "
    yield lambda: load(unbiased), "module.dense_i.bias: missing"
    yield lambda: equinox_nn.load(several), "module.bias_n: got shape [2, 4], wanted [4]"
    yield lambda: back(*drawn(ej.cells.lstm(N_IN, N, biases=())), plain), "forget_bias=1.0"
    initial = ej.cells.gru(N_IN, N, trainable=("initial",))
    yield lambda: back(*drawn(initial), gru), "params['initial']['c']: "
    alone = ej.cells.gru(N_IN, N, self_connections=False)
    yield lambda: back(*drawn(alone), gru), "got masked synapses in w_rec"
    relu = ej.cells.rnn(N_IN, N, activation=jax.nn.relu)
    simple = nnx.SimpleCell(N_IN, N, rngs=nnx.Rngs(0))
    yield lambda: flax_nnx.give_back(*drawn(relu), simple), "of the same activation"
    still = ej.cells.stateless(N_IN, N, activation=jnp.tanh)
    yield lambda: flax_nnx.give_back(*drawn(still), simple), "params['w_rec']: missing"


def test_what_does_not_fit_is_refused_by_name():
    number = 0
    for call, words in refused():
        number += 1
        with pytest.raises((TypeError, ValueError)) as refusal:
            call()
        assert words in str(refusal.value) and "wanted" in str(refusal.value)
    assert number == 10
