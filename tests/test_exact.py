"""Exact rules against `jax.grad` of an unrolled loss, and each cut against its definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
from cases import CELLS, READOUTS, VARIANTS, problem, without_recurrence
from hypothesis import example, given
from hypothesis import strategies as st
from pace import quick

import eprop_jax as ej

LOSS = ej.losses.squared_error
EXACT = ("bptt", "rtrl", "m >= T", "e-prop, no W_rec")
# With chunk None there is no trace; chunk 1 is the plain recursion; 2 the sweep with traces.
CHUNK = {"bptt": None, "rtrl": 1, "m >= T": None, "e-prop, no W_rec": 1}
RECURRENT = [c for c in CELLS | VARIANTS if not c.startswith(("linear_recurrence", "lru"))]


def make(rule, p):
    if rule == "bptt":
        return ej.bptt(p.net, LOSS)
    if rule == "rtrl":
        return ej.rtrl(p.net, LOSS)
    if rule == "m >= T":
        return ej.m_order_eprop(p.net, LOSS, order=p.exact_order)
    return ej.eprop(p.net, LOSS)


def check_exact(p, rule, chunk):
    params = without_recurrence(p.params) if rule.startswith("e-prop") else p.params
    loss, grads = ej.value_and_grad(make(rule, p), chunk=chunk)(params, p.xs, p.ys)
    wanted_loss, wanted = p.reference(params=params)
    assert float(loss) == pytest.approx(float(wanted_loss), rel=1e-12)
    ref.assert_same(grads, wanted)


@pytest.mark.parametrize("rule", EXACT)
@pytest.mark.parametrize("readout", quick(["linear", "leaky", "custom"], "linear", "custom"))
@pytest.mark.parametrize("cell", CELLS)
def test_exact_rules_equal_autodiff(cell, readout, rule):
    check_exact(problem(cell, readout), rule, CHUNK[rule])


@pytest.mark.parametrize("rule", EXACT)
@pytest.mark.parametrize("cell", VARIANTS)
def test_exact_rules_equal_autodiff_with_trained_units_and_both_resets(cell, rule):
    check_exact(problem(cell, "leaky, tau trained", T=5), rule, CHUNK[rule])


@pytest.mark.slow
@given(
    cell=st.sampled_from([*CELLS, *VARIANTS]),
    readout=st.sampled_from([*READOUTS]),
    rule=st.sampled_from(EXACT),
    n=st.integers(1, 4),
    n_in=st.integers(1, 3),
    n_out=st.integers(1, 3),
    T=st.integers(1, 6),
    batch=st.sampled_from([(), (2,), (2, 3)]),
    chunk=st.sampled_from([None, 1, 2]),
    seed=st.integers(0, 1000),
)
@example("gru", "leaky", "rtrl", 1, 1, 1, 1, (), 1, 0)
@example("alif, reset gradient", "custom", "rtrl", 2, 1, 2, 3, (2, 3), 2, 1)
@example("alif", "leaky", "m >= T", 3, 2, 1, 3, (), 2, 2)
@example("alif, all trained", "leaky, tau trained", "m >= T", 1, 2, 3, 4, (2, 3), None, 3)
@example("lstm", "linear", "bptt", 3, 2, 2, 1, (2, 3), None, 4)
@example("lif, reset gradient", "linear", "e-prop, no W_rec", 3, 1, 1, 5, (2, 3), 2, 5)
def test_exact_for_any_size(cell, readout, rule, n, n_in, n_out, T, batch, chunk, seed):
    p = problem(cell, readout, n=n, n_in=n_in, n_out=n_out, T=T, batch=batch, seed=seed)
    check_exact(p, rule, None if rule == "bptt" else chunk)


# -- the cuts -------------------------------------------------------------------------------------


@functools.cache
def recurrent_problem(cell):
    return problem(cell, "leaky", n=5, n_in=3, T=6)


@pytest.mark.parametrize("cell", RECURRENT)
def test_eprop_is_autodiff_with_the_explicit_recurrence_stopped(cell):
    p = recurrent_problem(cell)
    grads = ej.value_and_grad(ej.eprop(p.net, LOSS))(p.params, p.xs, p.ys)[1]
    ref.assert_same(grads, p.reference(order=1)[1])
    exact = ej.value_and_grad(ej.bptt(p.net, LOSS))(p.params, p.xs, p.ys)[1]
    assert ref.distance(grads["cell"], exact["cell"]) > 1e-3
    ref.assert_same(grads["readout"], exact["readout"])


@pytest.mark.parametrize(
    "cell", ["lif", "alif", "lif, refractory", "alif, all trained", "adex", "izhikevich"]
)
def test_the_spiking_networks_spike(cell):
    p = recurrent_problem(cell)
    (_, aux), _ = ej.value_and_grad(ej.eprop(p.net, LOSS), has_aux=True)(p.params, p.xs, p.ys)
    assert 0.1 < float(jnp.mean(aux.activity)) < 0.8
    assert int(jnp.sum(jnp.any(aux.activity > 0, (0, 1)))) >= 4


@pytest.mark.parametrize("cell", quick(["gru", "alif, reset gradient"], "alif, reset gradient"))
def test_each_order_keeps_its_paths_and_the_last_keeps_all(cell):
    p = problem(cell, "custom", n=4, T=4)
    exact = p.reference()[1]
    errors = []
    for m in range(1, 5):
        rule = ej.m_order_eprop(p.net, LOSS, order=m)
        grads = ej.value_and_grad(rule)(p.params, p.xs, p.ys)[1]
        ref.assert_same(grads, p.reference(order=m)[1])
        errors.append(ref.distance(grads["cell"], exact["cell"]))
    assert errors[0] > 1e-2
    assert errors[2] < errors[0]
    assert errors[3] < 1e-10 < errors[2]


# -- section 4: how far an order reaches -----------------------------------------------------------


def chain(cell, n=4):
    """Units 0 → 1 → 2 → 3, of which only the last is read out."""
    connectivity = np.eye(n, k=1, dtype=bool)
    options = {} if cell is ej.cells.rnn else dict(tau_m=5.0, surrogate=ej.surrogates.arctan(1, 1))
    net = ej.Network(
        cell(2, n, connectivity=connectivity, **options), ej.readouts.leaky(n, 1, tau=3.0)
    )
    params = jax.tree.map(lambda w: jnp.ones_like(w) * 0.5, net.init(jax.random.key(0)))
    params["readout"]["w_out"] = jnp.zeros((n, 1)).at[-1].set(1.0)
    xs = jnp.asarray(np.random.default_rng(0).uniform(0.2, 1.0, size=(6, 2, 2)))
    return net, params, xs, jnp.ones((6, 2, 1))


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("cell", [ej.cells.rnn, ej.cells.alif])
def test_a_synapse_k_hops_from_the_readout_needs_an_order_above_k(cell, chunk):
    net, params, xs, ys = chain(cell)
    n = net.cell.n_units
    orders = (2,) if chunk else range(1, 6)
    rules = {m: ej.m_order_eprop(net, LOSS, order=m) for m in orders}
    for order, rule in rules.items():
        grads = ej.value_and_grad(rule, chunk=chunk)(params, xs, ys)[1]["cell"]
        for k in range(n):
            post = n - 1 - k
            reached = grads["w_in"][:, post]
            if post > 0:
                reached = jnp.append(reached, grads["w_rec"][post - 1, post])
            assert np.all(reached != 0) if order > k else np.all(reached == 0), (order, k)
        absent = ~np.eye(n, k=1, dtype=bool)
        assert np.all(np.asarray(grads["w_rec"])[absent] == 0)


def test_eprop_reaches_no_hop_and_rtrl_every_hop():
    net, params, xs, ys = chain(ej.cells.rnn)
    eprop = ej.value_and_grad(ej.eprop(net, LOSS))(params, xs, ys)[1]["cell"]["w_in"]
    rtrl = ej.value_and_grad(ej.rtrl(net, LOSS), chunk=1)(params, xs, ys)[1]["cell"]["w_in"]
    assert np.all(eprop[:, :-1] == 0) and np.all(eprop[:, -1] != 0) and np.all(rtrl != 0)
