"""A trained initial state: exact rules against autodiff, the others against the same network begun by a
pulse one step earlier, whose weight is a parameter like any other; every chunk, and resets."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import eprop_jax as ej
from eprop_jax.paper import graph
from tests.pace import quick

slow = pytest.mark.slow
SQ = ej.losses.squared_error
K, B, N_IN, N, N_OUT = 6, 2, 3, 4, 2
RESETS = jnp.zeros((K, B), bool).at[2, 0].set(True).at[4, 1].set(True)
CELLS = {
    "leaky": lambda n_in, **more: ej.cells.leaky_rnn(n_in, N, tau=3.0, **more),
    "alif": lambda n_in, **more: ej.cells.alif(n_in, N, tau_m=3.0, tau_a=9.0, v_th=0.6, **more),
    "gru": lambda n_in, **more: ej.cells.gru(n_in, N, **more),
    "lstm": lambda n_in, **more: ej.cells.lstm(n_in, N, **more),
}


def data():
    keys = jax.random.split(jax.random.key(1), 2)
    return 2 * jax.random.normal(keys[0], (K, B, N_IN)), jax.random.normal(keys[1], (K, B, N_OUT))


def drawn(net, seed=5):
    params = net.init(jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(seed), 99))
    return jax.tree.map(lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape), params)


def same(got, wanted, tol=1e-10):
    for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=tol, atol=tol, err_msg=jax.tree_util.keystr(path))


EXACT = {
    "bptt": ej.bptt,
    "rtrl": ej.rtrl,
    "all": lambda net, loss: ej.by_paths(net, loss, paths="(i|e|f)*"),
}
CASES = [
    (cell, rule, chunk, stacked)
    for cell in CELLS
    for rule in EXACT
    for chunk in (None, 1, 4)
    for stacked in (False, True)
    if rule != "bptt" or chunk is None
]


@pytest.mark.parametrize(
    "case",
    quick(CASES, ("alif", "bptt", None, False), ("alif", "rtrl", 4, False),
          ("leaky", "rtrl", 1, False), ("gru", "bptt", None, True), ("leaky", "all", 4, True)),
)  # fmt: skip
def test_exact_rules_are_autodiff(case):
    name, rule, chunk, stacked = case
    cell, readout = CELLS[name](N_IN, trainable=("initial",)), ej.readouts.leaky(N, N_OUT, tau=3.0)
    upper = ej.cells.leaky_rnn(N, N, tau=3.0, trainable=("initial",))
    net = ej.Network([cell, upper], readout) if stacked else ej.Network(cell, readout)
    params, (xs, ys) = drawn(net), data()

    def loss(params):
        y = net.apply(params, xs, resets=RESETS).outputs
        return jnp.mean(jax.vmap(jax.vmap(SQ))(y, ys).sum(0))

    _, grads = ej.value_and_grad(EXACT[rule](net, SQ), chunk=chunk)(params, xs, ys, resets=RESETS)
    wanted = jax.grad(loss)(params)
    same(grads, wanted)
    initial = wanted["cell"][0]["initial"] if stacked else wanted["cell"]["initial"]
    assert min(float(jnp.abs(g).max()) for g in jax.tree.leaves(initial)) > 1e-3


# -- cut rules -------------------------------------------------------------------------------------

CUT = {
    "eprop": (lambda net: ej.eprop(net, SQ), (None, 1, 4)),
    "rates": (lambda net: ej.eprop(net, SQ, activity_loss=rates), (None,)),
    "order 2": (lambda net: ej.m_order_eprop(net, SQ, order=2), (None, 1, 4)),
    "order 3": (lambda net: ej.m_order_eprop(net, SQ, order=3), (None, 1, 4)),
    "snap": (lambda net: ej.snap(net, SQ, order=1), (1, 4)),
    "(i|s)*": (lambda net: ej.by_paths(net, SQ, paths="(i|s)*"), (None, 1, 4)),
    "i*(ei*)?": (lambda net: ej.by_paths(net, SQ, paths="i*(ei*)?"), (None, 1, 4)),
}
rates = lambda f: jnp.sum((f - 0.2) ** 2)
CUTS = [(cell, rule, chunk) for cell in ("leaky", "alif") for rule in CUT for chunk in CUT[rule][1]]


@pytest.mark.parametrize(
    "case",
    quick(CUTS, ("alif", "eprop", None), ("leaky", "eprop", 4), ("alif", "order 2", 1),
          ("leaky", "order 3", 4), ("alif", "snap", 1), ("leaky", "(i|s)*", 4)),
)  # fmt: skip
def test_cut_rules_are_those_of_a_pulse_one_step_earlier(case):
    name, rule, chunk = case
    lines = {"drives": ("w_in", "w_rec")}
    cell = CELLS[name](N_IN, trainable=("initial.c" if name == "leaky" else "initial.v",), **lines)
    pulsed = CELLS[name](N_IN + 1, **lines)
    readout = ej.readouts.linear(N, N_OUT)
    net, longer = ej.Network(cell, readout), ej.Network(pulsed, readout)
    params, (xs, ys) = drawn(net), data()
    (c_0,) = params["cell"]["initial"].values()
    # What one unit of drive brings about: c^0 = share · u.
    share = 1 - np.exp(-1 / 3) if name == "leaky" else 1.0
    w_in = jnp.concatenate([params["cell"]["w_in"], c_0[None] / share])
    as_pulse = {**params, "cell": {"w_in": w_in, "w_rec": params["cell"]["w_rec"]}}
    before = jnp.zeros((1, B, N_IN + 1)).at[..., -1].set(1.0)
    x = jnp.concatenate([before, jnp.pad(xs, ((0, 0), (0, 0), (0, 1)))])
    y = jnp.concatenate([jnp.zeros((1, B, N_OUT)), ys])
    mask = jnp.ones((K + 1, B), bool).at[0].set(False)
    of = CUT[rule][0]
    loss, grads = ej.value_and_grad(of(net), chunk=chunk)(params, xs, ys)
    wanted, full = ej.value_and_grad(of(longer), chunk=chunk and K + 1)(as_pulse, x, y, mask=mask)
    same(loss, wanted)
    (initial,) = grads["cell"]["initial"].values()
    same(initial, full["cell"]["w_in"][-1] / share)
    same(grads["cell"]["w_rec"], full["cell"]["w_rec"])
    assert float(jnp.abs(initial).max()) > 1e-3


@pytest.mark.parametrize("rule, chunk", [("eprop", 1), ("order 2", 3), ("(i|s)*", 4)])
def test_examples_that_start_afresh_are_sequences_of_their_own(rule, chunk):
    net = ej.Network(CELLS["leaky"](N_IN, trainable=("initial",)), ej.readouts.leaky(N, N_OUT))
    params, (xs, ys), of = drawn(net), data(), CUT[rule][0]
    alone = lambda a, b, k: ej.value_and_grad(of(net))(
        params, xs[a:b, k : k + 1], ys[a:b, k : k + 1]
    )[1]
    pieces = [alone(0, 2, 0), alone(2, K, 0), alone(0, 4, 1), alone(4, K, 1)]
    wanted = jax.tree.map(lambda *g: sum(g) / B, *pieces)
    got = ej.value_and_grad(of(net), chunk=chunk)(params, xs, ys, resets=RESETS)[1]
    same(got, wanted)


def test_truncated_bptt_reaches_it_in_the_first_chunk_alone():
    net = ej.Network(CELLS["gru"](N_IN, trainable=("initial",)), ej.readouts.linear(N, N_OUT))
    params, (xs, ys) = drawn(net), data()
    rule = ej.bptt(net, SQ)
    carry = rule.init(params, (B,))
    carry, first = rule.step(params, carry, xs[:3], ys[:3])
    wanted = ej.value_and_grad(rule)(params, xs[:3], ys[:3])[1]
    same(first.grads["cell"]["initial"], wanted["cell"]["initial"])
    _, second = rule.step(params, carry, xs[3:], ys[3:])
    assert not np.asarray(second.grads["cell"]["initial"]["c"]).any()


def test_in_half_precision():
    net = ej.Network(CELLS["alif"](N_IN, trainable=("initial",)), ej.readouts.leaky(N, N_OUT))
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), drawn(net))
    xs, ys = (x.astype(jnp.float32) for x in data())
    grads = ej.value_and_grad(ej.eprop(net, SQ), chunk=3)(params, xs, ys)[1]
    assert grads["cell"]["initial"]["v"].dtype == jnp.bfloat16


def test_what_no_path_reaches_is_refused():
    net = ej.Network(CELLS["lstm"](N_IN, trainable=("initial",)), ej.readouts.linear(N, N_OUT))
    params, (xs, ys) = drawn(net), data()
    with pytest.raises(ValueError, match=r"\['initial'\]\['o'\]: got no path to the loss"):
        ej.value_and_grad(ej.eprop(net, SQ))(params, xs, ys)
    one = ej.Network(CELLS["lstm"](N_IN, trainable=("initial.s",)), ej.readouts.linear(N, N_OUT))
    ej.value_and_grad(ej.eprop(one, SQ))(drawn(one), xs, ys)
    with pytest.raises(
        ValueError, match=r"trainable: got 'initial.q', wanted names from .*initial"
    ):
        CELLS["lstm"](N_IN, trainable=("initial.q",))
    with pytest.raises(ValueError, match="trainable: got 'initial'"):
        ej.readouts.leaky(N, N_OUT, trainable=("initial",))
    rule = ej.uoro(net, SQ, key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"initial.* UORO"):
        rule.init(params, (B,))


def test_where_the_initial_state_is_data_a_trained_one_is_refused():
    net = ej.Network(CELLS["leaky"](N_IN, trainable=("initial",)), ej.readouts.linear(N, N_OUT))
    params, (xs, ys) = drawn(net), data()
    with pytest.raises(ValueError, match=r"\['initial'\]: got a trained initial state"):
        ej.equations.local_derivatives(net, params, xs[:, 0])
    with pytest.raises(ValueError, match=r"\['initial'\]: got a trained initial state"):
        ej.hybrids.implicit_eligibility_gradient(net, SQ)(params, xs, ys)
    assert graph.unroll(ej.eprop(net, SQ)).edges


def test_a_task_that_needs_it():
    """A wave without inputs and biases: from a state of zero nothing ever moves."""
    T = 20
    ys = jnp.cos(0.4 * jnp.arange(float(T)))[:, None, None]
    xs = jnp.zeros((T, 1, 1))

    def learnt(trainable, rule):
        cell = ej.cells.leaky_rnn(1, 12, tau=2.0, drives=("w_in", "w_rec"), gain_rec=2.0,
                                  trainable=trainable)  # fmt: skip
        net = ej.Network(cell, ej.readouts.linear(12, 1, bias=False))
        params, optimizer = net.init(jax.random.key(2)), optax.adam(0.03)
        grad = ej.value_and_grad(rule(net, SQ))

        def update(at, _):
            params, state = at
            loss, grads = grad(params, xs, ys)
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), loss

        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            start = params, optimizer.init(params)
            return jax.lax.scan(update, start, None, 300)[1]

    nothing = learnt((), ej.bptt)
    assert np.ptp(nothing) == 0
    for rule in (ej.bptt, ej.eprop):
        losses = learnt(("initial",), rule)
        assert losses[-1] < 0.1 * losses[0], rule
