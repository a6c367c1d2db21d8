"""The rules and their traces against the paper's definitions, and appendix D as arithmetic."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from pace import quick

import eprop_jax as ej
from eprop_jax import equations as eq

T, N, N_IN, N_OUT = 6, 3, 2, 2
loss = ej.losses.squared_error
KAPPA = 0.8


def squashed(phi, y, a):
    return jnp.tanh(phi["decay"] * y + a)


def alif(**options):
    return ej.cells.alif(
        N_IN, N, tau_m=5.0, tau_a=10.0, v_th=0.3, gain_rec=1.5,
        surrogate=ej.surrogates.arctan(1.0, 0.5), **options,
    )  # fmt: skip


NETWORKS = {
    "rnn, linear": lambda: (
        ej.cells.rnn(N_IN, N, gain_rec=1.5),
        ej.readouts.linear(N, N_OUT),
    ),
    "gru, leaky": lambda: (
        ej.cells.gru(N_IN, N, gain_rec=1.5),
        ej.readouts.leaky(N, N_OUT, kappa=KAPPA),
    ),
    "alif with reset, trained; leaky, trained": lambda: (
        alif(reset_gradient=True, trainable=("tau_m", "tau_a", "beta", "v_th")),
        ej.readouts.leaky(N, N_OUT, tau=5.0, trainable=("tau",)),
    ),
    "alif, sparse, refractory, trained; linear": lambda: (
        alif(refractory=2, self_connections=False, trainable=("beta", "tau_a")),
        ej.readouts.linear(N, N_OUT),
    ),
    "leaky rnn, trained; squashed": lambda: (
        ej.cells.leaky_rnn(N_IN, N, tau=3.0, trainable=("tau",), gain_rec=1.5),
        ej.readouts.custom(N, N_OUT, squashed, y_0=0.3, theta={"decay": 0.7}),
    ),
    "lstm, leaky": lambda: (
        ej.cells.lstm(N_IN, N, gain_rec=1.5),
        ej.readouts.leaky(N, N_OUT, kappa=KAPPA, scale_input=True),
    ),
}
TRACED = ["gru, leaky", "alif with reset, trained; leaky, trained",
          "alif, sparse, refractory, trained; linear"]  # fmt: skip
TRACED_BY_CHUNKS = [*((name, 1) for name in TRACED), (TRACED[1], 3)]


@functools.cache
def example(name):
    net = ej.Network(*NETWORKS[name]())
    keys = jax.random.split(jax.random.key(3), 4)
    params = net.init(keys[0])
    flat, unravel = ravel_pytree(params)
    params = unravel(flat + 0.2 * jax.random.normal(keys[1], flat.shape))
    xs = 1.5 * jax.random.normal(keys[2], (T, N_IN))
    ys = jax.random.normal(keys[3], (T, N_OUT))
    return net, params, xs, ys, eq.local_derivatives(net, params, xs)


@functools.cache
def path_sum(name, order):
    net, params, xs, ys, _ = example(name)
    return flat(eq.path_sum_gradient(net, loss, params, xs, ys, order))


def flat(tree):
    return np.asarray(ravel_pytree(tree)[0])


def cell_gradient(rule, name):
    _, params, xs, ys, _ = example(name)
    return flat(ej.value_and_grad(rule)(params, xs, ys)[1]["cell"])


def error(got, wanted):
    return np.linalg.norm(got - wanted) / np.linalg.norm(wanted)


def close(got, wanted, rtol=1e-10):
    np.testing.assert_allclose(got, wanted, rtol=rtol, atol=rtol * (np.max(np.abs(wanted)) + 1e-6))


# -- the definitions by themselves -----------------------------------------------------------------


@pytest.mark.parametrize("t", range(6))
def test_eq_7_14_21_count_paths(t):
    """Where every local derivative is 1, each variable is a number of paths: a path of s jumps
    chooses when it enters and when it jumps, C(t, s+1) ways, and passes any of n^{s−1} chains."""
    n = 2
    d = eq.linear_units(T=6, n=n, decay=1.0, weight=1.0)
    assert eq.implicit_variable(d, 0, t)[0, 0] == t
    for chain in [(1, 0), (0, 0), (1, 1, 0), (0, 1, 1, 0)]:
        assert eq.explicit_variable(d, chain, t)[0, 0] == math.comb(t, len(chain))
    jumps = sum(n ** (s - 1) * math.comb(t, s + 1) for s in range(1, t + 1))
    assert eq.recurrence_variable(d, 1, 0, t)[0, 0] == jumps
    assert eq.recurrence_variable(d, 0, 0, t)[0, 0] == jumps + t
    assert eq.readout_implicit_variable(d, 0, 0, t)[0] == t * (t + 1) / 2


def test_local_derivatives_follow_the_network():
    net, params, xs, ys, d = example("alif, sparse, refractory, trained; linear")
    (_, aux), _ = ej.value_and_grad(ej.bptt(net, loss), has_aux=True)(params, xs, ys)
    close(d.y[1:], aux.outputs)
    assert np.sum(np.asarray(aux.activity)) > 2  # it spikes


@pytest.mark.parametrize("name", NETWORKS)
def test_a_units_state_depends_on_its_own_parameters(name):
    """∂c_j/∂p_i = 0 for i ≠ j: each entry of p belongs to one unit at most."""
    d = example(name)[-1]
    reached = np.any(d.dc_dp != 0, (0, 2)) | np.any(d.dh_dp != 0, 0)  # [unit, P]
    assert np.all(reached.sum(0) <= 1)
    assert np.all(reached.sum(1) > N_IN)


# -- appendix D ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_appendix_d1_eq_8_from_eq_7(name):
    d = example(name)[-1]
    for t, j in itertools.product(range(1, T + 1), range(N)):
        close(*eq.implicit_increment(d, j, t), rtol=1e-12)
    assert np.any(eq.implicit_variable(d, 0, T))


@pytest.mark.parametrize("name", NETWORKS)
def test_appendix_d1_eq_34_from_eq_33(name):
    d = example(name)[-1]
    for t, k, j in itertools.product(range(1, T + 1), range(N_OUT), range(N)):
        close(*eq.readout_increment(d, k, j, t), rtol=1e-12)
    assert np.any(eq.readout_implicit_variable(d, 0, 0, T))


@pytest.mark.parametrize("name", NETWORKS)
def test_appendix_d2_eq_15_from_eq_14(name):
    d = example(name)[-1]
    for t, chain in itertools.product(range(1, T + 1), [(1, 0), (0, 1), (2, 1, 0), (1, 1, 2, 0)]):
        close(*eq.explicit_increment(d, chain, t), rtol=1e-12)
    assert np.any(eq.explicit_variable(d, (2, 1, 0), T))


@pytest.mark.parametrize("name", TRACED)
def test_appendix_d3_eq_22_from_eq_21(name):
    d = example(name)[-1]
    for t, r, j in itertools.product((1, 2, 4), range(N), range(N)):
        close(*eq.recurrence_increment(d, r, j, t), rtol=1e-12)
    assert np.any(eq.recurrence_variable(d, 1, 0, 4))


def test_eq_38_is_eq_33_with_the_exponent_t_minus_t_prime():
    _, params, _, _, d = example("gru, leaky")
    w_out = np.asarray(params["readout"]["w_out"])
    for t, k, j in itertools.product(range(1, T + 1), range(N_OUT), range(N)):
        closed = eq.leaky_readout_implicit_variable(d, KAPPA, w_out[j, k], j, t)
        close(closed, eq.readout_implicit_variable(d, k, j, t), rtol=1e-12)
    as_printed = eq.leaky_readout_implicit_variable(d, 1 / KAPPA, w_out[j, k], j, T)
    assert error(as_printed, eq.readout_implicit_variable(d, k, j, T)) > 0.1


# -- every rule against the sums -------------------------------------------------------------------


@pytest.mark.parametrize("name", quick(NETWORKS, "rnn, linear", "leaky rnn, trained; squashed"))
def test_eq_19_20_eprop_and_m_order_are_the_path_sums(name):
    net = example(name)[0]
    close(cell_gradient(ej.eprop(net, loss), name), path_sum(name, 1))
    for order in range(2, 6) if name in (*TRACED[:2], "rnn, linear") else (2, 4):
        rule = ej.m_order_eprop(net, loss, order=order)
        close(cell_gradient(rule, name), path_sum(name, order))


def test_eq_19_20_order_one_is_eprop():
    name = "gru, leaky"
    rule = ej.m_order_eprop(example(name)[0], loss, order=1)
    close(cell_gradient(rule, name), path_sum(name, 1))


@pytest.mark.parametrize("name", quick(NETWORKS, "rnn, linear", "gru, leaky"))
def test_eq_24_all_paths_are_the_exact_gradient(name):
    """And each order comes nearer: what is cut at m = 1 is not small, and at last it is nothing."""
    exact = cell_gradient(ej.bptt(example(name)[0], loss), name)
    errors = [error(path_sum(name, order), exact) for order in (1, 3, 5, None)]
    assert errors[0] > 1e-3
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-10


@pytest.mark.parametrize("name", ["rnn, linear", "lstm, leaky"])
def test_section_4_order_T_is_exact_where_parameters_reach_h_through_c(name):
    net = example(name)[0]
    exact = cell_gradient(ej.bptt(net, loss), name)
    assert error(cell_gradient(ej.m_order_eprop(net, loss, order=T), name), exact) < 1e-10


def test_a_threshold_reaches_h_0_itself_and_needs_order_T_plus_one():
    """h^0 = output(c^0) depends on v_th though c^0 does not, and T jumps lead from it to h^T."""
    net, params, xs, ys, _ = example("alif with reset, trained; leaky, trained")
    xs, ys = xs[:2], ys[:2]
    _, exact = ej.value_and_grad(ej.bptt(net, loss))(params, xs, ys)
    for order, low, high in ((2, 1e-8, 1.0), (3, 0.0, 1e-10)):
        got = eq.path_sum_gradient(net, loss, params, xs, ys, order)
        assert low <= error(flat(got), flat(exact["cell"])) < high
        rule = ej.m_order_eprop(net, loss, order=order)
        close(flat(ej.value_and_grad(rule)(params, xs, ys)[1]["cell"]), flat(got))


# -- every trace against its definition ------------------------------------------------------------


def carries(rule, name, K):
    """(t, carry) after each chunk of K steps."""
    _, params, xs, ys, _ = example(name)
    carry = rule.init(params)
    for t in range(0, T, K):
        carry, _ = rule.step(params, carry, xs[t : t + K], ys[t : t + K])
        yield t + K, carry


def by_component(trace, params, state, lead=()):
    """A trace in a carry -> [d, *lead, P]. What the carry leaves out as `()` is zero for that
    parameter, and a last axis of 1 stands for all units."""
    leaves, treedef = jax.tree.flatten(params)
    structure = jax.tree.structure(state)
    components = [
        i for i, c in enumerate(jax.tree.leaves(state)) if jnp.issubdtype(c.dtype, jnp.floating)
    ]
    rows = []
    for leaf, trace_of_leaf in zip(leaves, treedef.flatten_up_to(trace)):
        flat = structure.flatten_up_to(trace_of_leaf)
        shape = (*lead, *leaf.shape)
        filled = [
            np.zeros(shape) if isinstance(flat[i], tuple) else np.broadcast_to(flat[i], shape)
            for i in components
        ]
        rows.append(np.stack([x.reshape(*lead, leaf.size) for x in filled]))
    return np.concatenate(rows, -1)


def of_existing_synapses(net, params):
    """Which entries of p are synapses that exist: the others' traces mean nothing."""
    ones = jax.tree.map(np.ones_like, params["cell"])
    if net.cell.connectivity is not None:
        ones["w_rec"] = ones["w_rec"] * net.cell.connectivity
    return flat(ones) > 0


@pytest.mark.parametrize(("name", "K"), TRACED_BY_CHUNKS)
def test_eq_7_and_33_are_what_eprop_carries(name, K):
    net, params, _, _, d = example(name)
    exists, w_out = of_existing_synapses(net, params), params["readout"]["w_out"]
    for t, carry in carries(ej.eprop(net, loss), name, K):
        wanted = sum(eq.implicit_variable(d, j, t) for j in range(N))
        got = by_component(carry.epsilon, params["cell"], carry.state.c)
        close(got[:, exists], wanted[:, exists])

        gamma = carry.gamma.cell
        assert bool(jax.tree.leaves(gamma)) == ("linear" not in name.split("; ")[-1])
        for k in range(N_OUT if jax.tree.leaves(gamma) else 0):  # without memory e itself, Eq. 29
            wanted = sum(eq.readout_implicit_variable(d, k, j, t) for j in range(N))
            if net.readout.shared:  # Eq. 39: γ^{t,k} = w_jk F_κ(e)
                w_k = w_out[:, k]
                of_k = jax.tree.map(lambda x: x[0] * w_k.reshape((1,) * (x.ndim - 2) + (N,)), gamma)
            else:
                of_k = jax.tree.map(lambda x: x[k], gamma)
            close(flat(of_k)[exists], wanted[exists])


@pytest.mark.parametrize(("name", "K"), TRACED_BY_CHUNKS)
def test_eq_14_summed_over_chains_is_what_m_order_carries(name, K):
    net, params, _, _, d = example(name)
    exists, order = of_existing_synapses(net, params), 3
    for t, carry in carries(ej.m_order_eprop(net, loss, order=order), name, K):
        for s in range(1, order):
            got = by_component(carry.beta[s - 1], params["cell"], carry.state.c, (N,))
            for r in range(N):
                chains = [c for j in range(N) for c in eq.chains(N, r, j, s)]
                wanted = sum(eq.explicit_variable(d, chain, t) for chain in chains)
                close(got[:, r][:, exists], wanted[:, exists])
    assert np.any(got)


@pytest.mark.parametrize(("name", "K"), TRACED_BY_CHUNKS)
def test_eq_21_is_what_rtrl_carries(name, K):
    net, params, _, _, d = example(name)
    exists = of_existing_synapses(net, params)
    for t, carry in carries(ej.rtrl(net, loss), name, K):
        if t > 4 and K == 1:  # the sum grows as (n + 1)^t
            break
        got = by_component(carry.alpha, params["cell"], carry.state.c, (N,))
        for r in range(N):
            wanted = sum(eq.recurrence_variable(d, r, j, t) for j in range(N))
            close(got[:, r][:, exists], wanted[:, exists])
    assert np.any(got)


# -- refusals --------------------------------------------------------------------------------------


def test_the_oracle_refuses_what_it_cannot_sum():
    net, params, xs, ys, _ = example("rnn, linear")
    with pytest.raises(TypeError, match="net"):
        eq.local_derivatives(net.cell, params, xs)
    with pytest.raises(ValueError, match="xs"):
        eq.local_derivatives(net, params, xs[:, None])
    with pytest.raises(ValueError, match="order"):
        eq.path_sum_gradient(net, loss, params, xs, ys, order=0)
