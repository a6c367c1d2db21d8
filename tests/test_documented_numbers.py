"""Every default and every spread that a docstring states, as a number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eprop_jax as ej

N_IN, N = 90, 160
KEY = jax.random.key(4)
GAINS = dict(gain_in=1.7, gain_rec=0.6)
CELLS = {
    "rnn": ej.cells.rnn,
    "leaky_rnn": ej.cells.leaky_rnn,
    "lif": ej.cells.lif,
    "alif": ej.cells.alif,
    "lstm": ej.cells.lstm,
    "gru": ej.cells.gru,
}


def assert_spread(w, spread):
    """Normal with this standard deviation: of so many numbers known to 3 %."""
    w = np.asarray(w).ravel()
    assert w.size > 3000
    assert np.std(w) == pytest.approx(spread, rel=0.05)
    assert abs(np.mean(w)) < 5 * spread / w.size**0.5
    assert np.mean(np.abs(w) < spread) == pytest.approx(0.6827, abs=0.04)


@pytest.mark.parametrize("gains", [{}, GAINS], ids=["default", "given"])
@pytest.mark.parametrize("name", CELLS)
def test_cells_draw_weights_of_spread_gain_over_root_fan_in(name, gains):
    params = CELLS[name](N_IN, N, **gains).init(KEY)
    for w in jax.tree.leaves(params["w_in"]):
        assert_spread(w, gains.get("gain_in", 1.0) / N_IN**0.5)
    for w in jax.tree.leaves(params["w_rec"]):
        assert_spread(w, gains.get("gain_rec", 1.0) / N**0.5)
    assert all(np.all(b == 0) for b in jax.tree.leaves(params["bias"]))


def test_the_linear_recurrence_draws_its_input_weights_alike():
    for gain in ({}, {"gain_in": 1.7}):
        w_in = ej.cells.linear_recurrence(N_IN, N, **gain).init(KEY)["w_in"]
        assert_spread(w_in, gain.get("gain_in", 1.0) / N_IN**0.5)


def test_the_lru_draws_both_parts_of_its_input_weights_half_as_wide():
    for gain in ({}, {"gain_in": 1.7}):
        w_in = ej.cells.lru(N_IN, N, **gain).init(KEY)["w_in"]
        for w in w_in.values():
            assert_spread(w, gain.get("gain_in", 1.0) / (2 * N_IN) ** 0.5)


@pytest.mark.parametrize(
    "cell, wanted",
    [
        (ej.cells.adex(2, 1), dict(c_m=281.0, g_l=30.0, e_l=-70.6, v_t=-50.4, delta_t=2.0, tau_w=144.0,
                                   a=4.0, b=80.5, v_reset=-70.6, v_peak=20.0, current=1.0)),
        (ej.cells.izhikevich(2, 1), dict(a=0.02, b=0.2, c=-65.0, d=8.0, v_peak=30.0, current=1.0)),
    ],
    ids=["adex", "izhikevich"],
)  # fmt: skip
def test_published_units_begin_as_published(cell, wanted):
    assert {k: float(v[0]) for k, v in cell.constants.items()} == wanted
    c = cell.initial_state(cell.init(KEY), ())
    first = {"adex": (-70.6, 0.0), "izhikevich": (-65.0, -13.0)}[cell.name]
    assert np.allclose([float(x[0]) for x in c], first)
    params, v = cell.init(KEY), jnp.linspace(-140.0, 120.0, 7)[:, None]
    psi, _ = ej.jacobians.output_blocks(cell, params, c._replace(v=v, **{c._fields[1]: 0 * v}))
    width = wanted["v_peak"] - wanted.get("v_reset", wanted.get("c"))
    hat = 0.3 / width * np.maximum(0, 1 - np.abs(np.asarray(v) - wanted["v_peak"]) / width)
    assert np.allclose(psi[0], hat, atol=1e-9)


@pytest.mark.parametrize("gain", [None, 0.4])
def test_readouts_and_feedback_have_spread_gain_over_root_n(gain):
    options = {} if gain is None else {"gain": gain}
    wide = ej.readouts.linear(N, 40, **options)
    own = ej.readouts.custom(N, 40, lambda p, y, a: a, **options)
    for readout in (wide, ej.readouts.leaky(N, 40, **options), own):
        assert_spread(readout.init(KEY)["w_out"], (gain or 1.0) / N**0.5)
        assert np.all(readout.init(KEY)["bias"] == 0)
    B = ej.feedback.init(KEY, ej.Network(ej.cells.rnn(3, N), wide), **options)
    assert_spread(B, (gain or 1.0) / N**0.5)


# -- the true fan-in -------------------------------------------------------------------------------


def test_where_units_hear_few_others_the_spread_follows_how_many():
    n = 1000
    rng = np.random.default_rng(0)
    heard = np.where(np.arange(n) < 500, 10, 40)
    heard[-1] = 0
    mask = np.zeros((n, n), bool)
    for j, k in enumerate(heard):
        mask[rng.choice(n, k, replace=False), j] = True
    w = np.asarray(ej.cells.rnn(3, n, connectivity=mask).init(KEY)["w_rec"])
    assert np.all(w[~mask] == 0)
    assert_spread(w[:, :500][mask[:, :500]], 10**-0.5)
    assert_spread(w[:, 500:][mask[:, 500:]], 40**-0.5)


def test_units_that_do_not_hear_themselves_have_one_synapse_less():
    n = 3
    draw = lambda k, **o: np.asarray(ej.cells.rnn(2, n, **o).init(jax.random.key(k))["w_rec"])
    off = ~np.eye(n, dtype=bool)
    w = np.concatenate([draw(k, self_connections=False)[off] for k in range(600)])
    assert_spread(w, 2**-0.5)
    assert all(draw(k, self_connections=False)[~off].tolist() == [0, 0, 0] for k in range(3))


# -- time constants, decays, thresholds ------------------------------------------------------------


def test_default_time_constants_are_5_and_20_and_200_ms():
    fast, slow = np.exp(-1 / 20), np.exp(-1 / 200)
    assert np.allclose(ej.cells.alif(2, 3).constants["alpha"], fast, rtol=1e-14)
    assert np.allclose(ej.cells.alif(2, 3).constants["rho"], slow, rtol=1e-14)
    assert np.allclose(ej.cells.lif(2, 3).constants["alpha"], fast, rtol=1e-14)
    assert np.allclose(ej.cells.leaky_rnn(2, 3).constants["alpha"], fast, rtol=1e-14)
    assert np.allclose(ej.readouts.leaky(2, 3).constants["kappa"], fast, rtol=1e-14)
    assert np.allclose(ej.cells.li(2, 3).constants["alpha"], fast, rtol=1e-14)
    cuba = ej.cells.cuba_lif(2, 3).constants
    assert np.allclose(cuba["alpha"], fast, rtol=1e-14)
    assert np.allclose(cuba["alpha_syn"], np.exp(-1 / 5), rtol=1e-14)
    half = ej.cells.alif(2, 3, dt=0.5).constants
    assert np.allclose(half["alpha"], fast**0.5, rtol=1e-14)
    assert np.allclose(half["rho"], slow**0.5, rtol=1e-14)


def test_a_trained_time_constant_starts_at_its_default_too():
    theta = ej.cells.alif(2, 3, trainable=("tau_m", "tau_a", "v_th")).init(KEY)["theta"]
    assert np.allclose(theta["tau_m"], np.log(20), rtol=1e-12)
    assert np.allclose(theta["tau_a"], np.log(200), rtol=1e-12)
    assert np.allclose(theta["v_th"], 0.0, atol=1e-14)


def test_default_decays_of_the_linear_recurrence_are_spread_from_a_half_to_99_hundredths():
    cell = ej.cells.linear_recurrence(2, 8)
    assert np.allclose(cell.constants["radius"], np.linspace(0.5, 0.99, 8), rtol=1e-14)
    assert np.all(cell.constants["frequency"] == 0)


def test_default_threshold_and_adaptation():
    cell = ej.cells.alif(2, 3)
    assert np.all(cell.constants["v_th"] == 1.0)
    wanted = 1.7 * (1 - np.exp(-1 / 200)) / (1 - np.exp(-1 / 20))
    assert np.allclose(cell.constants["beta"], wanted, rtol=1e-13)
    each = np.array([0.2, 0.6, 1.5])
    own = ej.cells.alif(2, 3, v_th=each, tau_a=[50.0, 100.0, 400.0])
    wanted = 1.7 * (1 - np.exp(-1 / np.array([50, 100, 400]))) / (1 - np.exp(-1 / 20)) * each
    assert np.allclose(own.constants["beta"], wanted, rtol=1e-13)


# -- surrogates ------------------------------------------------------------------------------------


def pseudo_derivative(cell, params, v):
    """∂h/∂v of every unit at the voltages v [n], no adaptation."""
    c = cell.initial_state(params, ())._replace(v=jnp.asarray(v))
    return ej.jacobians.output_blocks(cell, params, c)[0][0]


@pytest.mark.parametrize("make", [ej.cells.lif, ej.cells.alif])
@pytest.mark.parametrize("trainable", [(), ("v_th",)])
def test_the_default_surrogate_is_of_each_units_own_threshold(make, trainable):
    """piecewise_linear(0.3/v_th, v_th): ψ = 0.3/v_th · max(0, 1 − |v − v_th|/v_th)."""
    v_th = np.array([0.1, 1.0, 4.0])
    cell = make(2, 3, v_th=v_th, trainable=trainable)
    params = cell.init(KEY)
    if trainable:  # as it is now, not as it was
        v_th = v_th * np.array([1.5, 0.5, 2.0])
        params["theta"]["v_th"] = jnp.log(v_th)
    for part in (0.0, 0.25, 0.9, 1.6, 2.5):
        wanted = 0.3 / v_th * max(0, 1 - abs(part - 1))
        assert np.allclose(pseudo_derivative(cell, params, part * v_th), wanted, rtol=1e-12)


def test_default_heights_and_widths():
    for name, at_0, at_1 in (
        ("piecewise_linear", 0.3, 0.0),
        ("fast_sigmoid", 0.3, 0.075),
        ("exponential", 0.3, 0.3 * np.exp(-1)),
        ("arctan", 0.3 / np.pi, 0.3 / np.pi / (1 + np.pi**2)),
    ):
        psi = getattr(ej.surrogates, name)()
        assert float(psi(jnp.array(0.0))) == pytest.approx(at_0, rel=1e-14)
        assert float(psi(jnp.array(1.0))) == pytest.approx(at_1, rel=1e-14, abs=1e-15)


def test_defaults_of_losses_and_gates():
    assert float(ej.losses.firing_rate(0.0)(jnp.array([2.0, 1.0]))) == 2.5
    assert float(ej.losses.voltage()(ej.cells.SpikingState(v=jnp.array(3.0)))) == 4.5
    cell = ej.cells.lstm(1, 1)
    zero = dict.fromkeys("ifgo", jnp.array(0.0))
    c = cell.dynamics({}, ej.cells.LSTMState(s=jnp.array(1.0), o=jnp.array(0.0)), zero)
    assert float(c.s) == pytest.approx(1 / (1 + np.exp(-1.0)), rel=1e-12)
