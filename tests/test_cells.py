"""The neurons by hand: surrogates, spiking dynamics, trained units, masks, and one of one's own."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
from cases import CELLS, READOUTS, CellCase, Problem, ReadoutCase, problem
from pace import quick

import eprop_jax as ej

LOSS = ej.losses.squared_error
RULES = {
    "bptt": lambda net: ej.bptt(net, LOSS),
    "rtrl": lambda net: ej.rtrl(net, LOSS),
    "e-prop": lambda net: ej.eprop(net, LOSS),
    "order 2": lambda net: ej.m_order_eprop(net, LOSS, order=2),
}
ORDER = {"bptt": None, "rtrl": None, "e-prop": 1, "order 2": 2}


def chunk_of(name):
    """RTRL by its recursion; the others in one sweep."""
    return 1 if name == "rtrl" else None


# -- surrogates -----------------------------------------------------------------------------------

X = np.array([-3.0, -1.0, -0.5, 0.0, 0.25, 2.0])


@pytest.mark.parametrize(
    "name, wanted",
    [
        ("piecewise_linear", [0, 0.2, 0.3, 0.4, 0.35, 0]),
        ("fast_sigmoid", 0.4 / (1 + np.abs(X) / 2) ** 2),
        ("exponential", 0.4 * np.exp(-np.abs(X) / 2)),
        ("arctan", 0.4 / np.pi / (1 + (np.pi * X / 2) ** 2)),
    ],
)
def test_surrogates_by_hand(name, wanted):
    psi = getattr(ej.surrogates, name)(0.4, 2.0)
    assert np.allclose(psi(jnp.asarray(X)), wanted, rtol=1e-14)
    z = ej.surrogates.spike(psi)
    assert np.array_equal(jax.vmap(z)(jnp.asarray(X)), X >= 0)
    assert np.allclose(jax.vmap(jax.grad(z))(jnp.asarray(X)), wanted, rtol=1e-14)


# -- spiking dynamics, step by step ----------------------------------------------------------------


def simulate(cell, drive):
    """One unit with w_in = 1 under the drive [T] -> its states, numbers by step, and spikes."""
    params = cell.init(jax.random.key(0))
    params = {**params, "w_in": jnp.ones((1, 1)), "w_rec": jnp.zeros((1, 1))}
    net = ej.Network(cell, ej.readouts.linear(1, 1))
    params = {"cell": params, "readout": net.readout.init(jax.random.key(0))}
    rule = ej.bptt(net, LOSS)
    carry, states, spikes = rule.init(params), [], []
    for x in drive:
        carry, out = rule.step(params, carry, jnp.full((1, 1), x), jnp.zeros((1, 1)))
        states.append(carry.state.c)
        spikes.append(float(out.activity[0, 0]))
    c = jax.tree.map(lambda *x: [float(v[0]) for v in x], *states)
    return c, spikes


def test_lif_leaks_spikes_and_resets_by_subtraction():
    cell = ej.cells.lif(1, 1, alpha=0.5, v_th=1.0)
    c, z = simulate(cell, [0.6, 0.8, 0.0, 3.0, 0.0])
    # v: .6; .3+.8 = 1.1 (spike); .55-1 = -.45; -.225+3 = 2.775 (spike); 1.3875-1
    assert np.allclose(c.v, [0.6, 1.1, -0.45, 2.775, 0.3875], rtol=1e-14)
    assert z == [0, 1, 0, 1, 0]


def test_lif_scales_its_input():
    c, _ = simulate(ej.cells.lif(1, 1, alpha=0.75, scale_input=True), [1.0, 1.0])
    assert np.allclose(c.v, [0.25, 0.4375], rtol=1e-14)


def test_a_refractory_unit_is_silent_for_n_ref_minus_one_steps_and_still_integrates():
    c, z = simulate(ej.cells.lif(1, 1, alpha=0.5, v_th=1.0, refractory=3), [2.0] * 6)
    assert z == [1, 0, 0, 1, 0, 0]
    assert c.r == [0, 2, 1, 0, 2, 1]
    assert np.allclose(c.v[:4], [2.0, 2.0, 3.0, 3.5], rtol=1e-14)


def test_a_refractory_unit_has_no_pseudo_derivative():
    cell = ej.cells.lif(1, 1, refractory=2, surrogate=ej.surrogates.fast_sigmoid())
    params = cell.init(jax.random.key(0))
    for r, zero in ((0, False), (1, True)):
        c = cell.initial_state(params, ())._replace(r=jnp.array([r], "int32"))
        psi, _ = ej.jacobians.output_blocks(cell, params, c)
        assert bool(psi[0][0] == 0) == zero


def test_alif_raises_its_threshold_after_a_spike():
    cell = ej.cells.alif(1, 1, alpha=0.5, rho=0.5, beta=1.0, v_th=1.0)
    c, z = simulate(cell, [1.0, 2.0, 2.0, 2.0])
    # v: 1 (A = 1: spike); .5+2-1 = 1.5 (A = 2); .75+2 = 2.75 (A = 1.5: spike); 1.375+2-1 (A = 2.25)
    assert np.allclose(c.v, [1.0, 1.5, 2.75, 2.375], rtol=1e-14)
    assert np.allclose(c.a, [0.0, 1.0, 0.5, 1.25], rtol=1e-14)
    assert z == [1, 0, 1, 1]


def test_default_adaptation_is_that_of_bellec():
    cell = ej.cells.alif(1, 2, tau_m=20.0, tau_a=200.0, v_th=0.6)
    wanted = 1.7 * (1 - np.exp(-1 / 200)) / (1 - np.exp(-1 / 20)) * 0.6
    assert np.allclose(cell.constants["beta"], wanted, rtol=1e-14)


@pytest.mark.parametrize("refractory", [0, 3])
def test_a_counter_costs_no_trace(refractory):
    net = ej.Network(ej.cells.alif(2, 3, refractory=refractory), ej.readouts.linear(3, 1))
    params = net.init(jax.random.key(0))
    for rule in (ej.eprop(net, LOSS), ej.rtrl(net, LOSS)):
        carry = rule.init(params, (2,))
        trace = carry[1]  # ε or α
        assert trace["w_rec"].r == ()
        assert len(jax.tree.leaves(trace["w_rec"])) == 2  # v and a


@pytest.mark.parametrize("cell", [ej.cells.lif, ej.cells.alif, ej.cells.rnn])
def test_shared_components_are_what_jacfwd_says(cell):
    cell = cell(2, 4)
    assert cell.shared
    params = jax.tree.map(lambda p: p + 0.3, cell.init(jax.random.key(0)))
    draw = lambda x: x + 0.1 * jnp.arange(4.0)
    c = jax.tree.map(draw, cell.initial_state(params, ()))
    J = ej.jacobians.blocks(cell, params, c, jnp.arange(4.0), c)
    for r in ej.jacobians.shared_positions(cell, c):
        for i, block in enumerate(J.D[r]):
            assert block is None or (i == r and np.ptp(block) == 0)
        assert all(np.ptp(b) == 0 for b in J.B[r].values())


# -- trained units ---------------------------------------------------------------------------------


def _alif(**values):
    return lambda trained: ej.Network(
        ej.cells.alif(2, 3, dt=0.5, refractory=2, gain_in=3.0, trainable=trained, **values),
        ej.readouts.linear(3, 2),
    )


def _reading(**values):
    return lambda trained: ej.Network(
        ej.cells.rnn(2, 3), ej.readouts.leaky(3, 2, dt=0.5, trainable=trained, **values)
    )


STORED = {  # what is trained, a network of given values, and how each is stored (docstrings)
    "leaky_rnn": (
        lambda **values: (
            lambda trained: ej.Network(
                ej.cells.leaky_rnn(2, 3, dt=0.5, trainable=trained, **values),
                ej.readouts.linear(3, 2),
            )
        ),
        {"tau": lambda x: np.log(x / 0.5)},
    ),
    "linear_recurrence": (
        lambda **values: (
            lambda trained: ej.Network(
                ej.cells.linear_recurrence(2, 3, trainable=trained, **values),
                ej.readouts.linear(3, 2),
            )
        ),
        {"decay": lambda x: np.log(-1 / np.log(x)), "frequency": lambda x: x},
    ),
    "alif": (
        _alif,
        {
            "tau_m": lambda x: np.log(x / 0.5),
            "tau_a": lambda x: np.log(x / 0.5),
            "v_th": np.log,
            "beta": lambda x: x,
        },
    ),
    "leaky": (_reading, {"tau": lambda x: np.log(x / 0.5)}),
}
VALUES = {
    "tau": [2.0, 5.0, 9.0],
    "tau_m": [2.0, 4.0, 8.0],
    "tau_a": [5.0, 10.0, 20.0],
    "v_th": [0.3, 0.5, 0.8],
    "beta": [0.0, 0.2, 0.4],
    "decay": [0.5, 0.7, 0.9],
    "frequency": [0.1, 0.3, 0.5],
}


@pytest.mark.parametrize("name", STORED)
def test_a_trained_value_is_the_constant_that_its_stored_form_says(name):
    """At the values given, and at others that an optimiser may reach."""
    make, stored = STORED[name]
    surrogate = dict(surrogate=ej.surrogates.fast_sigmoid(0.3, 1.0)) if name == "alif" else {}
    first = {k: np.array(VALUES[k][: 2 if name == "leaky" else 3]) for k in stored}
    then = {k: v[::-1] * 0.9 for k, v in first.items()}
    trained = make(**first, **surrogate)(tuple(stored))
    params = trained.init(jax.random.key(0))
    part = "readout" if name == "leaky" else "cell"
    theta = params[part].pop("theta")
    for k, form in stored.items():
        assert np.allclose(theta[k], form(first[k]), rtol=1e-12), k
    xs, ys = 2.0 * jax.random.normal(jax.random.key(1), (12, 4, 2)), jnp.zeros((12, 4, 2))
    seen = []
    for values in (first, then):
        constant = make(**values, **surrogate)(())
        wanted = ej.bptt(constant, LOSS).whole(params, xs, ys)
        theta = {k: jnp.asarray(form(values[k])) for k, form in stored.items()}
        given = {**params, part: {**params[part], "theta": theta}}
        found = ej.bptt(trained, LOSS).whole(given, xs, ys)
        chex.assert_trees_all_close(found.outputs, wanted.outputs, rtol=1e-10, atol=1e-12)
        assert all(np.any(g != 0) for g in jax.tree.leaves(found.grads[part]["theta"]))
        seen.append(wanted.outputs)
    assert ref.distance(*seen) > 1e-2  # the values matter


def test_constants_are_not_parameters():
    params = ej.cells.alif(2, 3, trainable=("tau_a",)).init(jax.random.key(0))
    assert set(params["theta"]) == {"tau_a"}
    assert "theta" not in ej.cells.alif(2, 3).init(jax.random.key(0))


# -- connectivity ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("cell", [ej.cells.gru, ej.cells.lif])
def test_absent_synapses_have_no_effect_and_no_gradient(cell, name):
    n = 4
    mask = np.random.default_rng(0).uniform(size=(n, n)) < 0.6
    options = {} if cell is ej.cells.gru else dict(tau_m=5.0, gain_in=3.0)
    net = ej.Network(
        cell(2, n, connectivity=mask, self_connections=False, **options), ej.readouts.leaky(n, 2)
    )
    absent = ~mask | np.eye(n, dtype=bool)
    params = net.init(jax.random.key(1))
    assert all(np.all(np.asarray(w)[absent] == 0) for w in jax.tree.leaves(params["cell"]["w_rec"]))
    filled = {**params, "cell": {**params["cell"]}}
    filled["cell"]["w_rec"] = jax.tree.map(
        lambda w: jnp.where(absent, 7.0, w), params["cell"]["w_rec"]
    )
    xs, ys = jax.random.normal(jax.random.key(2), (5, 2, 2)), jnp.ones((5, 2, 2))
    f = ej.value_and_grad(RULES[name](net), chunk=chunk_of(name))
    clean, dirty = f(params, xs, ys), f(filled, xs, ys)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, clean, dirty))
    for g in jax.tree.leaves(clean[1]["cell"]["w_rec"]):
        assert np.all(np.asarray(g)[absent] == 0) and np.any(np.asarray(g)[~absent] != 0)


# -- a neuron of one's own -------------------------------------------------------------------------


class Oscillator(NamedTuple):
    x: Any
    p: Any


def oscillator(n_in, n):
    def dynamics(theta, c, a):
        return Oscillator(
            x=c.x + 0.3 * c.p, p=theta["keep"] * c.p - 0.3 * theta["k"] * jnp.sin(c.x) + a["push"]
            - a["brake"] * c.p
        )  # fmt: skip

    return ej.cells.custom(
        n_in, n, dynamics, lambda theta, c: jnp.tanh(c.x + theta["k"] * c.p),
        Oscillator(x=0.1, p=0.0), theta={"k": 0.8}, constants={"keep": 0.9},
        drives={"push": ("w_in", "w_rec", "bias"), "brake": ("w_rec",)},
    )  # fmt: skip


def oscillator_reference(n):
    def step(p, c, h, x):
        push = x @ p["w_in"]["push"] + h @ p["w_rec"]["push"] + p["bias"]["push"]
        brake = h @ p["w_rec"]["brake"]
        k = p["theta"]["k"]
        return c[0] + 0.3 * c[1], 0.9 * c[1] - 0.3 * k * jnp.sin(c[0]) + push - brake * c[1]

    return ref.Unit(
        lambda n: (jnp.full(n, 0.1), jnp.zeros(n)),
        step,
        lambda p, c: jnp.tanh(c[0] + p["theta"]["k"] * c[1]),
    )


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("chunk", [None, 3])
def test_a_neuron_of_ones_own_gets_every_rule(name, chunk):
    case, readout = CellCase(oscillator, oscillator_reference), READOUTS["leaky"]
    net = ej.Network(oscillator(2, 3), readout.make(3, 2))
    params = net.init(jax.random.key(0))
    xs, ys = jax.random.normal(jax.random.key(1), (5, 2, 2)), jnp.ones((5, 2, 2))
    chunk = None if name == "bptt" else chunk
    grads = ej.value_and_grad(RULES[name](net), chunk=chunk)(params, xs, ys)[1]
    p = Problem(net, params, xs, ys, case, readout)
    ref.assert_same(grads, p.reference(order=ORDER[name])[1])


# -- learning signals and activity losses ----------------------------------------------------------


def test_random_feedback_replaces_w_out_on_the_way_back_alone():
    p = problem("lstm", "custom", T=5)
    params = {**p.params, "feedback": ej.feedback.init(jax.random.key(1), p.net)}
    random, adaptive = (
        ej.value_and_grad(ej.eprop(p.net, LOSS, feedback=kind))(params, p.xs, p.ys)[1]
        for kind in ("random", "adaptive")
    )
    symmetric = ej.value_and_grad(ej.eprop(p.net, LOSS))(p.params, p.xs, p.ys)[1]
    wanted = p.reference(order=1, B=params["feedback"])[1]
    ref.assert_same({k: random[k] for k in wanted}, wanted)
    ref.assert_same(random["readout"], symmetric["readout"])
    ref.assert_same(adaptive["cell"], random["cell"])
    assert np.all(random["feedback"] == 0)
    assert jnp.array_equal(adaptive["feedback"], adaptive["readout"]["w_out"])


def test_feedback_equal_to_w_out_is_symmetric_feedback():
    p = problem("alif", "leaky", T=5)
    params = {**p.params, "feedback": p.params["readout"]["w_out"]}
    random = ej.value_and_grad(ej.eprop(p.net, LOSS, feedback="random"))(params, p.xs, p.ys)[1]
    symmetric = ej.value_and_grad(ej.eprop(p.net, LOSS))(p.params, p.xs, p.ys)[1]
    ref.assert_same({k: random[k] for k in symmetric}, symmetric)


ACTIVITY = {
    "bptt": lambda net, a: ej.bptt(net, LOSS, activity_loss=a),
    "rtrl": lambda net, a: ej.rtrl(net, LOSS, activity_loss=a),
    "e-prop": lambda net, a: ej.eprop(net, LOSS, activity_loss=a),
    "order 2": lambda net, a: ej.m_order_eprop(net, LOSS, order=2, activity_loss=a),
}


@pytest.mark.parametrize("name", quick(ACTIVITY, "bptt", "e-prop", "order 2"))
def test_the_activity_loss_is_a_loss_on_the_windows_mean(name):
    p = problem("alif, all trained", "leaky", T=5)
    activity = ej.losses.firing_rate(0.1, strength=20.0)
    by_hand = lambda f: 10.0 * jnp.sum((f - 0.1) ** 2)
    loss, grads = ej.value_and_grad(ACTIVITY[name](p.net, activity))(p.params, p.xs, p.ys)
    wanted_loss, wanted = p.reference(order=ORDER[name], activity=by_hand)
    assert float(loss) == pytest.approx(float(wanted_loss), rel=1e-12)
    ref.assert_same(grads, wanted)
    without = p.reference(order=ORDER[name])[1]
    assert ref.distance(wanted["cell"], without["cell"]) > 0.1


@pytest.mark.parametrize("name", ["rtrl", "e-prop", "order 2"])
def test_the_window_of_the_activity_loss_is_the_chunk(name):
    p = problem("gru", "leaky", T=4)
    rule = ACTIVITY[name](p.net, ej.losses.firing_rate(0.1, strength=20.0))
    grads = ej.value_and_grad(rule, chunk=1)(p.params, p.xs, p.ys)[1]

    def total(params):
        options = dict(order=ORDER[name])
        y, h = zip(*(
            ref.unroll(p.cell.reference(3), p.readout.reference, params, x, **options)
            for x in jnp.moveaxis(p.xs, 1, 0)
        ))  # fmt: skip
        return (
            sum(
                ref.squared_error(a[t], target[t]) + 10.0 * jnp.sum((b[t] - 0.1) ** 2)
                for a, b, target in zip(y, h, jnp.moveaxis(p.ys, 1, 0))
                for t in range(4)
            )
            / 2
        )

    ref.assert_same(grads, jax.jit(jax.grad(total))(p.params))


STATE = {
    "bptt": lambda net, s: ej.bptt(net, LOSS, state_loss=s),
    "rtrl": lambda net, s: ej.rtrl(net, LOSS, state_loss=s),
    "e-prop": lambda net, s: ej.eprop(net, LOSS, state_loss=s),
    "order 2": lambda net, s: ej.m_order_eprop(net, LOSS, order=2, state_loss=s),
}


@pytest.mark.parametrize(
    "name, cell, chunks",
    [
        ("bptt", "alif, all trained", (None,)),
        pytest.param("rtrl", "alif, all trained", (1, 3), marks=pytest.mark.slow),
        ("order 2", "alif, all trained", (1, 3)),
        pytest.param("e-prop", "alif, all trained", (1, 3), marks=pytest.mark.slow),
        ("e-prop", "lif", (None, 1, 3)),
    ],
)
def test_a_loss_on_the_voltage_meets_the_state_itself(name, cell, chunks):
    p = problem(cell, "leaky", T=4)
    by_hand = lambda c: 1.5 * jnp.sum(c[0] ** 2)
    rule = STATE[name](p.net, ej.losses.voltage(3.0))
    wanted_loss, wanted = p.reference(order=ORDER[name], state=by_hand)
    assert ref.distance(wanted["cell"], p.reference(order=ORDER[name])[1]["cell"]) > 0.1
    for chunk in chunks:
        loss, grads = ej.value_and_grad(rule, chunk=chunk)(p.params, p.xs, p.ys)
        assert float(loss) == pytest.approx(float(wanted_loss), rel=1e-12)
        ref.assert_same(grads, wanted)


@pytest.mark.parametrize("chunk", [None, 2])
def test_a_state_loss_may_read_every_component(chunk):
    p = problem("lstm", "linear", T=4)
    rule = ej.m_order_eprop(p.net, LOSS, order=3, state_loss=lambda c: jnp.sin(c.s) * c.o)
    wanted = p.reference(order=3, state=lambda c: jnp.sum(jnp.sin(c[0]) * c[1]))
    loss, grads = ej.value_and_grad(rule, chunk=chunk)(p.params, p.xs, p.ys)
    assert float(loss) == pytest.approx(float(wanted[0]), rel=1e-12)
    ref.assert_same(grads, wanted[1])


# -- initial parameters ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", CELLS)
def test_initial_weights_have_the_stated_spread(name):
    cell = CELLS[name].make(50, 80)
    params = cell.init(jax.random.key(0))
    gains = {"w_in": 2.0 if "lif" in name or "fire" in name else 1.0}
    for line, gain in gains.items():
        for w in jax.tree.leaves(params[line]):
            assert float(jnp.std(w)) == pytest.approx(gain / 50**0.5, rel=0.1)
    assert all(np.all(b == 0) for b in jax.tree.leaves(params["bias"]))


def test_readouts_by_hand():
    def read(readout, drive):
        net = ej.Network(ej.cells.rnn(1, 1, activation=lambda c: c), readout)
        params = net.init(jax.random.key(0))
        params["cell"] = {**params["cell"], "w_in": jnp.ones((1, 1)), "w_rec": jnp.zeros((1, 1))}
        params["readout"] = {**params["readout"], "w_out": jnp.full((1, 1), 2.0)}
        out = ej.bptt(net, LOSS).whole(params, jnp.asarray(drive)[:, None], jnp.zeros((3, 1)))
        return np.asarray(out.outputs)[:, 0]

    assert np.allclose(read(ej.readouts.linear(1, 1), [1.0, 0.0, 2.0]), [2, 0, 4])
    assert np.allclose(read(ej.readouts.leaky(1, 1, kappa=0.5), [1.0, 0.0, 2.0]), [2, 1, 4.5])
    scaled = ej.readouts.leaky(1, 1, kappa=0.25, scale_input=True)
    assert np.allclose(read(scaled, [1.0, 0.0, 2.0]), [1.5, 0.375, 3.09375])
    own = ReadoutCase(lambda n, o: ej.readouts.custom(n, o, lambda p, y, a: y * a, y_0=1.0), None)
    assert np.allclose(read(own.make(1, 1), [1.0, 0.5, 2.0]), [2, 2, 8])


def test_a_current_decays_into_a_voltage_that_leaks_and_resets():
    options = dict(alpha_syn=0.5, alpha=0.8, v_leak=0.5, r=2.0, v_th=3.0)
    c, z = simulate(ej.cells.cuba_lif(1, 1, **options), [1.0, 0.0, 1.0, 0.0])
    # I: 1, .5, 1.25, .625; v: .1+2, 1.78+1, 2.324+2.5 (spike), 3.9592+1.25-3
    assert np.allclose(c.i, [1.0, 0.5, 1.25, 0.625], rtol=1e-14)
    assert np.allclose(c.v, [2.1, 2.78, 4.824, 2.2092], rtol=1e-14)
    assert z == [0, 0, 1, 0]
    c, _ = simulate(ej.cells.cuba_lif(1, 1, v_reset=-1.0, **options), [1.0, 0.0, 1.0, 0.0])
    assert np.allclose(c.v, [2.1, 2.78, 4.824, 0.1 - 0.8 + 1.25], rtol=1e-14)
    scaled = ej.cells.cuba_lif(1, 1, alpha_syn=0.5, alpha=0.8, r=2.0, scale_input=True)
    assert np.allclose(simulate(scaled, [1.0] * 90)[0].i[-1], 1.0, rtol=1e-12)


def test_integrators_keep_what_they_hear():
    c, z = simulate(ej.cells.integrate_fire(1, 1, r=0.5), [1.0, 1.5, 0.0, 0.0])
    assert np.allclose(c.v, [0.5, 1.25, 0.25, 0.25], rtol=1e-14) and z == [0, 1, 0, 0]
    c, _ = simulate(ej.cells.integrate_fire(1, 1, r=0.5, v_reset=-0.5), [1.0, 1.5, 0.0, 2.0])
    assert np.allclose(c.v, [0.5, 1.25, -0.5, 0.5], rtol=1e-14)
    c, h = simulate(ej.cells.li(1, 1, alpha=0.5, r=2.0, v_leak=1.0), [1.0, 0.0, -1.0])
    assert np.allclose(c.v, [2.5, 1.75, -0.625], rtol=1e-14) and h == c.v
