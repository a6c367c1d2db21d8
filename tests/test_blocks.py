"""A long sequence is swept in blocks of steps: the same gradient, and less of it held at once."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eprop_jax as ej
from eprop_jax.engine import blocks
from tests.pace import quick

SQ, S = ej.losses.squared_error, ej.synapses
T, B, N_IN, N, N_OUT = 12, 2, 3, 4, 2
RESETS = jnp.zeros((T, B), bool).at[5, 0].set(True).at[8, 1].set(True)
MASK = jnp.ones((T, B), bool).at[7, 0].set(False)
CELLS = {
    "alif": lambda: ej.cells.alif(
        N_IN, N, tau_m=3.0, tau_a=9.0, v_th=0.6, trainable=("v_th", "initial")
    ),
    "lstm": lambda: ej.cells.lstm(N_IN, N),
    "late": lambda: ej.cells.rnn(N_IN, N, w_rec=S.delayed(S.dense(), 2)),
    "alone": lambda: ej.cells.linear_recurrence(N_IN, N),
}
ORDER_3 = functools.partial(ej.m_order_eprop, order=3)
# A rule, and the same gradient by traces, step by step.
RULES = {"e-prop": (ej.eprop, ej.eprop), "BPTT": (ej.bptt, ej.rtrl), "order 3": (ORDER_3, ORDER_3)}
CASES = list(itertools.product(CELLS, RULES, (False, True)))


def same(got, wanted, tol=1e-11):
    for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=tol, atol=tol, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize(
    "case",
    quick(CASES, ("alif", "e-prop", True), ("lstm", "BPTT", False), ("late", "order 3", True),
          ("alone", "e-prop", False)),
)  # fmt: skip
def test_blocks_of_steps_give_what_traces_give(case, monkeypatch):
    """Gradients, to the inputs too, of four blocks of three steps."""
    cell, rules, resets = case
    rule, by_traces = RULES[rules]
    net = ej.Network(CELLS[cell](), ej.readouts.leaky(N, N_OUT))
    params = jax.tree.map(lambda x: x.astype(float), net.init(jax.random.key(0)))
    params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(3), x.shape), params)
    keys = jax.random.split(jax.random.key(1), 2)
    xs, ys = 2 * jax.random.normal(keys[0], (T, B, N_IN)), jax.random.normal(keys[1], (T, B, N_OUT))
    rates = lambda f: 0.5 * jnp.sum((f - 0.2) ** 2)
    steps = {"mask": MASK, "resets": RESETS} if resets else {}

    def gradients():
        f = ej.value_and_grad(rule(net, SQ, activity_loss=rates))
        loss = lambda params, xs: f(params, xs, ys, **steps)[0]
        return jax.jit(jax.value_and_grad(loss, (0, 1)))(params, xs)

    whole = gradients()
    monkeypatch.setattr(blocks, "NUMBERS", 3 * B * (3 * N if cell == "late" else N))
    found = gradients()
    same(found, whole)
    if cell != "late" or by_traces is ej.eprop:
        traced = by_traces(net, SQ, activity_loss=rates)
        _, out = traced.step(params, traced.init(params, (B,)), xs, ys, **steps)
        same((found[0], found[1][0]), (out.loss, out.grads))


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_a_block_is_a_part_of_the_sequence(size):
    for K in (1, 5, 97, 128, 1000, 2**17):
        k = blocks.length(K, size)
        assert K % k == 0
        assert k == K or blocks.NUMBERS <= k * size + size < 2 * blocks.NUMBERS + size


def test_a_long_sequence_holds_its_states_alone():
    """Of ALIF v and a, [T, B, n]: neither h nor ∂̃a."""
    net = ej.Network(ej.cells.alif(N_IN, 64), ej.readouts.leaky(64, N_OUT))
    params, (K, batch) = net.init(jax.random.key(0)), (2048, 16)
    xs, ys = jnp.zeros((K, batch, N_IN)), jnp.zeros((K, batch, N_OUT))
    f = jax.jit(lambda *at: ej.value_and_grad(ej.eprop(net, SQ))(*at))
    held = f.lower(params, xs, ys).compile().memory_analysis().temp_size_in_bytes
    states = 2 * K * batch * 64 * params["cell"]["w_in"].itemsize
    assert states < held < 1.5 * states
