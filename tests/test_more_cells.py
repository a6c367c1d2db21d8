"""AdEx, Izhikevich's unit and the LRU against their equations in NumPy; noise and dropout in a unit:
every rule sees the same."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference as ref
from cases import problem
from pace import quick

import eprop_jax as ej

LOSS = ej.losses.squared_error
KEY = jax.random.key(7)


def driven(cell, current):
    """The cell's units, each under the same drive [T], without recurrence -> spikes [T, n], state."""
    net = ej.Network(cell, ej.readouts.linear(cell.n_units, 1))
    params = net.init(jax.random.key(0))
    params["cell"]["w_in"] = jnp.ones((1, cell.n_units))
    params["cell"]["w_rec"] = jnp.zeros((cell.n_units, cell.n_units))
    run = net.apply(params, jnp.asarray(current)[:, None])
    return np.asarray(run.activity), run.state.c


# -- the adaptive exponential unit -----------------------------------------------------------------

PAPER = dict(c_m=281.0, g_l=30.0, e_l=-70.6, v_t=-50.4, delta_t=2.0, tau_w=144.0, a=4.0, b=80.5)
# Naud, Marcille, Clopath and Gerstner (2008), table 1.
TONIC = dict(c_m=200.0, g_l=10.0, e_l=-70.0, v_t=-50.0, delta_t=2.0, tau_w=30.0, a=2.0, b=0.0,
             v_reset=-58.0, v_peak=0.0)  # fmt: skip
ADAPTING = TONIC | dict(g_l=12.0, tau_w=300.0, b=60.0)
BURSTING = TONIC | dict(e_l=-58.0, tau_w=120.0, b=100.0, v_reset=-46.0)


def adex_by_hand(current, dt, c_m, g_l, e_l, v_t, delta_t, tau_w, a, b, v_reset=None, v_peak=20.0):
    """Brette and Gerstner's equations as they stand, with no clip: spike steps, v and w."""
    v, w, spikes = e_l, 0.0, []
    for t, I in enumerate(current):
        exponential = g_l * delta_t * np.exp(np.longdouble((v - v_t) / delta_t))
        v, w = (
            v + dt * (-g_l * (v - e_l) + exponential - w + I) / c_m,
            w + dt * (a * (v - e_l) - w) / tau_w,
        )
        if v >= v_peak:
            spikes.append(t)
            v, w = e_l if v_reset is None else v_reset, w + b
    return np.array(spikes), float(v), float(w)


@pytest.mark.parametrize(
    "k, pA", [(PAPER, 900.0), (TONIC, 500.0), (ADAPTING, 500.0), (BURSTING, 210.0)]
)
def test_adex_spikes_when_the_equations_without_a_clip_do(k, pA):
    dt, T = 0.1, 4000
    current = np.where(np.arange(T) >= 100, pA, 0.0)
    z, c = driven(ej.cells.adex(1, 1, dt=dt, **k), current)
    wanted, v, w = adex_by_hand(current, dt, **k)
    assert len(wanted) > 4
    assert np.array_equal(np.flatnonzero(z[:, 0]), wanted)
    assert z[-1, 0] == 0  # so that v and w below are those after a step without a reset
    assert np.allclose([c.v[0], c.w[0]], [v, w], rtol=1e-9)


def intervals(cell, current):
    z, _ = driven(cell, current)
    return np.diff(np.flatnonzero(z[:, 0]))


def test_published_parameters_fire_as_published():
    """Tonic: equal intervals. Adapting: they grow. Bursting: short ones, then a long one."""
    make = lambda k: ej.cells.adex(1, 1, dt=0.1, **k)
    tonic = intervals(make(TONIC), np.full(3000, 500.0))
    assert len(tonic) > 20 and np.ptp(tonic[8:]) <= 1
    adapting = intervals(make(ADAPTING), np.full(6000, 500.0))
    assert np.all(np.diff(adapting[:5]) > 0) and adapting[-1] > 2 * adapting[0]
    bursting = intervals(make(BURSTING), np.full(10000, 210.0))
    assert np.max(bursting) > 5 * np.min(bursting) and np.sum(bursting > 5 * np.min(bursting)) >= 2


def test_currents_are_counted_in_the_given_unit_and_each_unit_has_its_own_constants():
    one, _ = driven(ej.cells.adex(1, 1), np.full(1000, 800.0))
    scaled = ej.cells.adex(1, 2, current=400.0, e_l=[-70.6, -60.0], b=[80.5, 0.0])
    two, _ = driven(scaled, np.full(1000, 2.0))
    assert np.array_equal(one[:, 0], two[:, 0]) and one.sum() > 2
    assert two[:, 1].sum() > one.sum()
    start = scaled.initial_state(scaled.init(KEY), (3,))
    assert np.allclose(start.v, [[-70.6, -60.0]] * 3)


def test_nothing_overflows_however_strong_the_drive():
    z, c = driven(ej.cells.adex(1, 1, dt=1.0), np.full(50, 1e5))
    assert z.sum() > 20 and np.isfinite(c.v).all() and np.isfinite(c.w).all()
    z, c = driven(ej.cells.izhikevich(1, 1, substeps=50), np.full(50, 1e3))
    assert z.sum() > 20 and np.isfinite(c.v).all() and np.isfinite(c.u).all()


# -- Izhikevich's ----------------------------------------------------------------------------------

KINDS = {"regular": {}, "fast": dict(a=0.1, d=2.0), "chattering": dict(c=-50.0, d=2.0)}


def izhikevich_by_hand(current, a=0.02, b=0.2, c=-65.0, d=8.0, parts=2):
    v, u, spikes = -65.0, -65.0 * b, []
    for t, I in enumerate(current):
        for _ in range(parts):
            if v < 30:
                v = v + (0.04 * v**2 + 5 * v + 140 - u + I) / parts
        u = u + a * (b * v - u)
        if v >= 30:
            spikes.append(t)
            v, u = c, u + d
    return np.array(spikes)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("parts", [2, 4])
def test_izhikevich_spikes_when_the_equations_do(name, parts):
    # No longer: at 1 ms a step fast spiking is chaotic, and tells one order of additions from another.
    current = np.where(np.arange(200) >= 20, 10.0, 0.0)
    z, _ = driven(ej.cells.izhikevich(1, 1, substeps=parts, **KINDS[name]), current)
    wanted = izhikevich_by_hand(current, parts=parts, **KINDS[name])
    assert len(wanted) > 3 and np.array_equal(np.flatnonzero(z[:, 0]), wanted)


def test_the_kinds_fire_as_their_names_say():
    """Regular spiking adapts, fast spiking does not and is faster, chattering bursts."""
    regular, fast, chattering = (
        intervals(ej.cells.izhikevich(1, 1, **k), np.full(600, 10.0)) for k in KINDS.values()
    )
    assert regular[-1] > 1.5 * regular[0]
    assert np.mean(fast) < 0.5 * np.mean(regular) and np.ptp(fast[3:]) <= 4
    assert np.min(chattering) <= 4 and np.max(chattering) > 30
    bursts = chattering > 30
    assert bursts.sum() >= 5 and not np.any(bursts[:-1] & bursts[1:])


# -- the LRU ---------------------------------------------------------------------------------------


def test_lru_is_the_complex_recurrence_and_begins_on_its_ring():
    n, T = 40, 30
    cell = ej.cells.lru(3, n, r_min=0.4, r_max=0.9, max_phase=1.0)
    net = ej.Network(cell, ej.readouts.linear(n, 2))
    params = net.init(jax.random.key(1))
    theta = params["cell"]["theta"]
    lam = np.exp(-np.exp(-np.asarray(theta["decay"])) + 1j * np.asarray(theta["frequency"]))
    assert 0.4 < np.abs(lam).min() < 0.45 and 0.88 < np.abs(lam).max() < 0.9
    assert np.mean(np.abs(lam) ** 2) == pytest.approx((0.4**2 + 0.9**2) / 2, rel=1e-6)
    phases = np.sort(np.asarray(theta["frequency"]))
    assert 0 <= phases[0] and phases[-1] < 1 and np.diff(phases).max() < 2.5 / n
    assert np.allclose(np.exp(theta["gamma"]), np.sqrt(1 - np.abs(lam) ** 2))
    xs = np.random.default_rng(0).normal(size=(T, 3))
    B = np.asarray(params["cell"]["w_in"]["re"]) + 1j * np.asarray(params["cell"]["w_in"]["im"])
    s, h = np.zeros(n, complex), []
    for x in xs:
        s = lam * s + np.exp(theta["gamma"]) * (x @ B)
        h.append(s.real)
    assert np.allclose(net.apply(params, jnp.asarray(xs)).activity, h, rtol=1e-10, atol=1e-12)


def test_eprop_is_exact_for_lru_and_its_report_says_so():
    p = problem("lru", "leaky", n=4, T=6)
    wanted = p.reference()[1]
    for rule in (ej.eprop(p.net, LOSS), ej.bptt(p.net, LOSS)):
        for chunk in (None, 1, 4) if rule.spec.name != "BPTT" else (None,):
            grads = ej.value_and_grad(rule, chunk=chunk)(p.params, p.xs, p.ys)[1]
            ref.assert_same(grads, wanted)
    report = ej.paths.report(ej.eprop(p.net, LOSS), p.params)
    (layer,) = report.layers
    assert layer.exact and layer.dropped == ()


def test_lru_keeps_the_scale_of_white_noise_whatever_its_decay():
    """γ: Var Re s = 1 for white drives of variance 1, re and im."""
    decay = np.array([0.5, 0.9, 0.99])
    cell = ej.cells.lru(6, 3, decay=decay, frequency=0.3, trainable=())
    eye = jnp.eye(6)
    params = cell.init(KEY) | {"w_in": {"re": eye[:, :3], "im": eye[:, 3:]}}
    net = ej.Network(cell, ej.readouts.linear(3, 1))
    xs = jax.random.normal(KEY, (3000, 16, 6))
    h = net.apply({**net.init(KEY), "cell": params}, xs).activity[500:]
    assert np.allclose(jnp.mean(h**2, (0, 1)), 1.0, atol=0.06)


# -- noise and dropout -----------------------------------------------------------------------------

K1, K2 = jax.random.key(11), jax.random.key(12)
STD, RATE = 0.4, 0.3


def bits(cell_key, B, n):
    """The two words of each example and unit, as the docstring says: from the key and both numbers."""
    of = lambda b: jax.random.bits(jax.random.fold_in(cell_key, b), (2, n), jnp.uint32)
    return np.stack([np.asarray(of(b)) for b in range(B)], 1).astype(np.uint64)


def pcg3d(x, y, z):
    x, y, z = ((w * 1664525 + 1013904223) % 2**32 for w in (x, y, z))
    for _ in range(2):
        x = (x + y * z) % 2**32
        y = (y + z * x) % 2**32
        z = (z + x * y) % 2**32
        x, y, z = (w ^ (w >> 16) for w in (x, y, z))
    return x, y, z


def draws(cell_key, T, B, n, drives=1):
    """Uniform numbers of `noise.py`, again in NumPy: [drives, T, B, n]; a hash is enough for three."""
    key, hashes = bits(cell_key, B, n), -(-drives // 3)
    at = lambda t, i: pcg3d(*key, np.full((B, n), t * hashes + i, np.uint64))
    words = [np.stack([w for i in range(hashes) for w in at(t, i)])[:drives] for t in range(T)]
    return ((np.stack(words, 1) >> 9) + 0.5) * 2.0**-23


def noise_of(cell_key, T, B, n, drives=1):
    return np.sqrt(2) * np.asarray(
        jax.scipy.special.erfinv(2 * draws(cell_key, T, B, n, drives) - 1)
    )


T, B, N = 6, 2, 3


@functools.cache
def noisy_problem(kind):
    """(network, parameters, data, the loss by a loop of this file)."""
    if kind == "spiking":
        plain = ej.cells.lif(
            2, N, v_th=0.3, tau_m=5.0, gain_in=2.0, gain_rec=2.0,
            surrogate=ej.surrogates.arctan(1.0, 0.5),
        )  # fmt: skip
        unit, gates = ref.alif(np.exp(-1 / 5), None, 0.0, 0.3, psi=spread), ("",)
    else:
        plain, unit, gates = ej.cells.gru(2, N, gain_rec=2.0), ref.gru(), ("hn", "n", "r", "z")
    cell = ej.cells.dropout(ej.cells.noisy(plain, STD, key=K1), RATE, key=K2)
    net = ej.Network(cell, ej.readouts.leaky(N, 2, kappa=0.7))
    rng = np.random.default_rng(3)
    params = net.init(jax.random.key(2))
    params = jax.tree.map(lambda p: p + 0.1 * jnp.asarray(rng.normal(size=p.shape)), params)
    xs, ys = jnp.asarray(rng.normal(size=(T, B, 2))), jnp.asarray(rng.normal(size=(T, B, 2)))
    xi = STD * noise_of(K1, T, B, N, len(gates))
    m = (draws(K2, T, B, N)[0] >= RATE) / (1 - RATE)

    def of_example(p, x, target, xi, m, order):
        """Order 1: e-prop's cut; None: none."""
        p_out, c = p["readout"], unit.start(N)
        y, h, total = jnp.zeros(2), unit.output(p["cell"], c), 0.0
        for t in range(T):
            bias, noise = p["cell"]["bias"], dict(zip(gates, xi[:, t]))
            noisy = bias + noise[""] if "" in noise else {g: bias[g] + noise[g] for g in gates}
            heard = ref.stop(h) if order == 1 else h
            c = unit.step({**p["cell"], "bias": noisy}, c, heard, x[t])
            h = unit.output(p["cell"], c) * m[t]
            y = 0.7 * y + h @ p_out["w_out"] + p_out["bias"]
            total += ref.squared_error(y, target[t])
        return total

    def loss(p, order=None):
        each = jax.vmap(lambda *given: of_example(p, *given, order), (1, 1, 2, 1))
        return jnp.mean(each(xs, ys, jnp.asarray(xi), jnp.asarray(m)))

    return net, params, xs, ys, jax.jit(jax.value_and_grad(loss), static_argnames="order")


def spread(x):
    return ref.arctan(x, 1.0, 0.5)


RULES = {"bptt": (ej.bptt, None), "e-prop": (ej.eprop, 1), "rtrl": (ej.rtrl, None)}


@pytest.mark.parametrize("kind", ["spiking", "gated"])
@pytest.mark.parametrize("name", quick(RULES, "bptt", "e-prop"))
def test_every_rule_and_chunk_sees_the_noise_that_the_gradient_is_of(name, kind):
    net, params, xs, ys, by_hand = noisy_problem(kind)
    make, order = RULES[name]
    wanted_loss, wanted = by_hand(params, order=order)
    for chunk in (None,) if name == "bptt" else (None, 1, 3):
        loss, grads = ej.value_and_grad(make(net, LOSS), chunk=chunk)(params, xs, ys)
        assert float(loss) == pytest.approx(float(wanted_loss), rel=1e-11)
        ref.assert_same(grads, wanted)
    if kind == "gated" and name == "bptt":  # the noise matters
        quiet = ej.Network(ej.cells.gru(2, N), net.readout)
        assert ref.distance(ej.value_and_grad(make(quiet, LOSS))(params, xs, ys)[1], wanted) > 0.1


def integrators(wrap, n=40):
    """Units whose state is the sum of their drives."""
    cell = ej.cells.custom(
        1, n, lambda theta, c, a: c + a, lambda theta, c: c + 0.0, 0.0, drives=("w_in",)
    )
    net = ej.Network(wrap(cell), ej.readouts.linear(n, 1))
    params = net.init(KEY)
    params["cell"]["w_in"] = jnp.zeros((1, n))
    return net, params


def test_noise_is_normal_and_white_over_steps_units_and_examples():
    net, params = integrators(lambda cell: ej.cells.noisy(cell, 0.5, key=K1))
    h = np.asarray(net.apply(params, jnp.zeros((400, 50, 1))).activity)
    xi = np.diff(h, axis=0, prepend=0.0) / 0.5
    count = xi.size
    assert abs(xi.mean()) < 4 / count**0.5
    assert xi.var() == pytest.approx(1.0, abs=4 * (2 / count) ** 0.5)
    assert np.mean(xi**4) == pytest.approx(3.0, abs=4 * (96 / count) ** 0.5)
    assert np.mean(np.abs(xi) > 3) == pytest.approx(0.0027, rel=0.15)
    for axis in range(3):
        for lag in (1, 2, 7):
            a, b = (
                np.take(xi, range(*r), axis)
                for r in ((lag, xi.shape[axis]), (0, xi.shape[axis] - lag))
            )
            assert abs(np.mean(a * b)) < 4.5 / a.size**0.5, (axis, lag)
    assert len(np.unique(xi)) > 0.95 * count


def test_noise_of_an_example_is_its_own_whatever_the_batch_and_the_key_says_which():
    wrap = lambda key: lambda cell: ej.cells.noisy(cell, 1.0, key=key)
    net, params = integrators(wrap(K1), n=4)
    run = lambda net, *batch: np.asarray(net.apply(params, jnp.zeros((5, *batch, 1))).activity)
    six = run(net, 6)
    assert np.array_equal(six[:, :3], run(net, 3))
    assert np.array_equal(six, run(net, 2, 3).reshape(5, 6, 4))
    assert np.array_equal(six[:, 0], run(net))
    assert not np.any(six[0, 0] == six[0, 1]) and len(set(six[0, 0])) == 4
    assert not np.any(six == run(integrators(wrap(K2), n=4)[0], 6))
    by_key = jax.vmap(
        lambda key: integrators(wrap(key), n=4)[0].apply(params, jnp.zeros((5, 6, 1))).activity
    )
    assert np.array_equal(
        by_key(jax.random.split(K1, 2))[1],
        run(integrators(wrap(jax.random.split(K1, 2)[1]), n=4)[0], 6),
    )


def test_dropout_keeps_the_mean_and_drops_the_rate_of_each_step_or_of_each_sequence():
    one = lambda cell: cell._replace(output=lambda theta, c: 1.0 + 0.0 * c)
    rate = np.linspace(0.1, 0.8, 40)
    net, params = integrators(lambda cell: ej.cells.dropout(one(cell), rate, key=K2))
    h = np.asarray(net.apply(params, jnp.zeros((100, 60, 1))).activity)
    assert np.allclose(h.mean((0, 1)), 1.0, atol=0.12)
    assert np.allclose((h == 0).mean((0, 1)), rate, atol=0.03)
    assert np.allclose(h.max((0, 1)), 1 / (1 - rate))
    assert 0.2 < np.mean(h[1:] == h[:-1]) < 0.9

    net, params = integrators(lambda cell: ej.cells.dropout(one(cell), 0.5, key=K2, once=True))
    resets = jnp.zeros((30, 60), bool).at[10].set(True).at[20, :30].set(True)
    h = np.asarray(net.apply(params, jnp.zeros((30, 60, 1)), resets=resets).activity)
    first, second, third = h[:10], h[10:20], h[20:]
    for part in (first, second, third):
        assert np.all(part == part[0])
    for a, b in ((first, second), (second[:, :30], third[:, :30])):
        assert 0.4 < np.mean(a[0] == b[0]) < 0.6
    assert np.array_equal(second[0, 30:], third[0, 30:])


def test_noise_goes_on_through_a_reset_and_a_saved_carry_bit_for_bit():
    net, params, xs, ys, _ = noisy_problem("spiking")
    rule = ej.eprop(net, LOSS)
    carry = rule.init(params, (B,))
    middle, first = rule.step(params, carry, xs[:4], ys[:4])
    saved = jax.tree.map(lambda x: np.array(x), middle)
    _, second = rule.step(params, jax.tree.map(jnp.asarray, saved), xs[4:], ys[4:])
    whole = net.apply(params, xs).activity
    assert np.array_equal(jnp.concatenate([first.activity, second.activity]), whole)

    net, params = integrators(lambda cell: ej.cells.noisy(cell, 1.0, key=K1), n=5)
    zeros, resets = jnp.zeros((8, 3, 1)), jnp.zeros((8, 3), bool).at[4, 1].set(True)
    kept = np.asarray(net.apply(params, zeros).activity)
    cut = np.asarray(net.apply(params, zeros, resets=resets).activity)
    assert np.array_equal(kept[:, [0, 2]], cut[:, [0, 2]]) and np.array_equal(kept[:4], cut[:4])
    assert np.allclose(cut[4:, 1], kept[4:, 1] - kept[3, 1], atol=1e-12)


def test_a_reset_sets_back_what_a_unit_inside_counts():
    """Whatever its components are called: only the words of the noise last."""
    cell = ej.cells.custom(
        1, 2, lambda theta, c, a: {k: x + 1 for k, x in c.items()}, lambda theta, c: c["v"],
        {"v": 0.0, "count": 0, "key0": 0, "kept": 0}, drives=("w_in",),
    )  # fmt: skip
    xs, resets = jnp.zeros((5, 1, 1)), jnp.zeros((5, 1), bool).at[3, 0].set(True)
    for make in (ej.cells.noisy, ej.cells.dropout):
        net = ej.Network(make(cell, 0.0, key=K1), ej.readouts.linear(2, 1))
        run = net.apply(net.init(KEY), xs, resets=resets)
        assert all((x == 2).all() for x in jax.tree.leaves(run.state.c.unit))


@pytest.mark.parametrize("name", quick(RULES, "e-prop"))
def test_resets_under_noise_give_one_gradient_at_every_chunk(name):
    """The noise goes on; state, traces and h⁰ start afresh."""
    net, params, xs, ys, _ = noisy_problem("spiking")
    resets = jnp.zeros((T, B), bool).at[3, 0].set(True).at[4, 1].set(True)
    make, _ = RULES[name]
    whole = ej.value_and_grad(make(net, LOSS))(params, xs, ys, resets=resets)
    if name == "bptt":
        total = lambda p: (
            jnp.sum(jax.vmap(jax.vmap(LOSS))(net.apply(p, xs, resets=resets).outputs, ys)) / B
        )
        ref.assert_same(whole[1], jax.grad(total)(params))
        return
    for chunk in (1, 3):
        ref.assert_same(
            ej.value_and_grad(make(net, LOSS), chunk=chunk)(params, xs, ys, resets=resets)[1],
            whole[1],
        )


def test_a_rule_of_a_key_trains_under_new_noise_in_each_update():
    readout = ej.readouts.linear(N, 1)
    plain = ej.cells.rnn(2, N)

    def rule_of(key):
        return ej.eprop(ej.Network(ej.cells.noisy(plain, 1.0, key=key), readout), LOSS)

    params = ej.Network(plain, readout).init(KEY)
    data = jnp.ones((1, T, 4, 2)), jnp.ones((1, T, 4, 1))
    still = optax.sgd(0.0)
    new, log = ej.train(rule_of, still, params, data, 4)
    assert len(set(np.asarray(log["loss"]).tolist())) == 4
    again = ej.train(rule_of, still, params, data, 4)[1]
    assert np.array_equal(log["loss"], again["loss"])
    same = ej.train(rule_of(K1), still, params, data, 4)[1]
    assert len(set(np.asarray(same["loss"]).tolist())) == 1
    assert jax.tree.all(jax.tree.map(np.array_equal, new.params, params))


def test_components_keep_their_names_under_noise():
    cell = ej.cells.noisy(
        ej.cells.lif(2, N, trainable=("initial.v",), v_th=0.3), {"": 0.1}, key=K1
    )  # fmt: skip
    net = ej.Network(cell, ej.readouts.leaky(N, 2))
    params = net.init(KEY)
    assert set(params["cell"]["initial"]) == {"v"} and cell.shared == ("v",)
    xs, ys = jnp.ones((T, B, 2)), jnp.ones((T, B, 2))
    rule = ej.bptt(net, LOSS, state_loss=ej.losses.voltage(2.0))
    loss, grads = ej.value_and_grad(rule)(params, xs, ys)

    def total(p):
        run, state, loss = None, None, 0.0
        for t in range(T):
            run = net.apply(p, xs[t : t + 1], state=state)
            state = run.state
            loss += jnp.sum(jax.vmap(LOSS)(run.outputs[0], ys[t])) + jnp.sum(state.c.v**2)
        return loss / B

    assert float(loss) == pytest.approx(float(total(params)), rel=1e-12)
    ref.assert_same(grads, jax.grad(total)(params))


def test_a_stack_with_noise_runs_in_chunks_is_exported_and_reported():
    k1, k2 = jax.random.split(KEY)
    cells = [
        ej.cells.noisy(ej.cells.lif(2, N, v_th=0.3), 0.3, key=k1),
        ej.cells.dropout(ej.cells.leaky_rnn(N, N, tau=3.0), 0.3, key=k2),
    ]
    net = ej.Network(cells, ej.readouts.linear(N, 2))
    assert str(net).startswith("Network([noisy lif 2 -> 3, dropout leaky_rnn 3 -> 3]")
    params = net.init(KEY)
    rule = ej.by_paths(net, LOSS, paths="i*f*")
    xs, ys = jax.random.normal(k1, (T, B, 2)), jnp.ones((T, B, 2))
    resets = jnp.zeros((T, B), bool).at[3, 0].set(True)
    by_chunk = [
        ej.value_and_grad(rule, chunk=chunk)(params, xs, ys, resets=resets) for chunk in (None, 2)
    ]
    ref.assert_same(by_chunk[1][1], by_chunk[0][1])
    carry = rule.init(params, (B,))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (params, carry))
    exported = jax.export.export(jax.jit(rule.step))(*shapes, xs, ys)
    there = importlib.util.find_spec("flatbuffers")
    again = jax.export.deserialize(exported.serialize()) if there else exported
    after, out = again.call(params, carry, xs, ys)
    assert jax.tree.structure(after) == jax.tree.structure(carry)
    assert np.array_equal(out.outputs, net.apply(params, xs).outputs)
    assert not ej.paths.report(rule, params).layers[1].unconnected
