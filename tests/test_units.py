"""The numbers of a unit: decays near 1, integrators, integers; and what a network keeps."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref

import eprop_jax as ej

LOSS = ej.losses.squared_error
KEY = jax.random.key(0)
N_IN, N, N_OUT, T = 2, 3, 2, 6
XS = jax.random.normal(jax.random.key(1), (T, 2, N_IN))
YS = jax.random.normal(jax.random.key(2), (T, 2, N_OUT))


def gradient(cell, readout, dtype="float64", chunk=None, rule=ej.eprop):
    net = ej.Network(cell, readout)
    params = jax.tree.map(lambda p: p.astype(dtype), net.init(KEY))
    f = ej.value_and_grad(rule(net, LOSS), chunk=chunk)
    return f(params, XS.astype(dtype), YS.astype(dtype))


# -- decays near 1 ---------------------------------------------------------------------------------

NEAR = 1 - 1e-7
SLOW = {
    "leaky_rnn": lambda: (ej.cells.leaky_rnn(N_IN, N, decay=NEAR), ej.readouts.linear(N, N_OUT)),
    "leaky_rnn, tau": lambda: (ej.cells.leaky_rnn(N_IN, N, tau=1e7), ej.readouts.linear(N, N_OUT)),
    "leaky_rnn, trained": lambda: (
        ej.cells.leaky_rnn(N_IN, N, decay=NEAR, trainable=("tau",)),
        ej.readouts.linear(N, N_OUT),
    ),
    "lif": lambda: (
        ej.cells.lif(
            N_IN, N, alpha=NEAR, scale_input=True, surrogate=ej.surrogates.exponential()
        ),
        ej.readouts.linear(N, N_OUT),
    ),
    "leaky": lambda: (
        ej.cells.rnn(N_IN, N), ej.readouts.leaky(N, N_OUT, kappa=NEAR, scale_input=True)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SLOW)
def test_one_minus_a_decay_near_1_keeps_its_digits_in_float32(name):
    wanted = gradient(*SLOW[name]())[1]
    got = gradient(*SLOW[name](), dtype="float32")[1]
    part = "readout" if name == "leaky" else "cell"
    assert ref.norm(wanted[part]) > 0
    assert ref.distance(got[part], wanted[part]) < 1e-4


TOO_NEAR = 1 - 1e-9
ROUNDS = {
    "leaky_rnn": (lambda: SLOW_CELL(decay=TOO_NEAR), "decay"),
    "tau": (lambda: SLOW_CELL(tau=1e9), "tau"),
    "trained": (lambda: SLOW_CELL(tau=1e9, trainable=("tau",)), "tau"),
    "of one unit": (lambda: SLOW_CELL(decay=[0.5, 0.5, TOO_NEAR]), "decay"),
    "alif": (lambda: (ej.cells.alif(N_IN, N, rho=TOO_NEAR), ej.readouts.linear(N, N_OUT)), "rho"),
    "linear_recurrence": (
        lambda: (
            ej.cells.linear_recurrence(N_IN, N, decay=TOO_NEAR), ej.readouts.linear(N, N_OUT)
        ),
        "decay",
    ),
    "leaky": (
        lambda: (ej.cells.rnn(N_IN, N), ej.readouts.leaky(N, N_OUT, kappa=TOO_NEAR)), "kappa",
    ),
}  # fmt: skip


def SLOW_CELL(**options):
    return ej.cells.leaky_rnn(N_IN, N, **options), ej.readouts.linear(N, N_OUT)


@pytest.mark.parametrize("name", ROUNDS)
def test_a_decay_that_rounds_to_1_in_the_parameters_dtype_is_refused(name):
    make, argument = ROUNDS[name]
    assert np.isfinite(gradient(*make())[0])  # float64 holds it
    for rule, chunk in ((ej.eprop, None), (ej.eprop, 2), (ej.bptt, None)):
        with pytest.raises(ValueError, match=f"^{argument}: .*rounds to 1 in float32") as refusal:
            gradient(*make(), dtype="float32", rule=rule, chunk=chunk)
        assert "wanted" in str(refusal.value)


# -- integrators -----------------------------------------------------------------------------------


INTEGRATORS = {
    "lif": (
        lambda: (
            ej.cells.lif(N_IN, N, tau_m=np.inf, v_th=0.4, surrogate=ej.surrogates.arctan(1.0, 0.5)),
            ej.readouts.leaky(N, N_OUT, tau=np.inf),
        ),
        ref.alif(1.0, v_th=0.4, psi=lambda x: ref.arctan(x, 1.0, 0.5)),
        ref.leaky(1.0),
    ),
    "alif": (
        lambda: (
            ej.cells.alif(
                N_IN, N, alpha=1.0, rho=1.0, beta=0.1, v_th=0.4, reset_gradient=True,
                surrogate=ej.surrogates.arctan(1.0, 0.5),
            ),
            ej.readouts.leaky(N, N_OUT, kappa=1.0),
        ),
        ref.alif(
            1.0, 1.0, 0.1, 0.4, reset_gradient=True, psi=lambda x: ref.arctan(x, 1.0, 0.5)
        ),
        ref.leaky(1.0),
    ),
    "linear_recurrence": (
        lambda: (
            ej.cells.linear_recurrence(N_IN, N, decay=1.0, frequency=0.3),
            ej.readouts.leaky(N, N_OUT, kappa=1.0),
        ),
        ref.linear_recurrence(1.0, 0.3),
        ref.leaky(1.0),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", INTEGRATORS)
def test_units_without_a_leak_are_integrators(name):
    make, cell, readout = INTEGRATORS[name]
    net = ej.Network(*make())
    params = net.init(KEY)
    wanted = ref.gradient(cell, readout, params, XS, YS, ref.squared_error, order=1)
    for chunk in (None, 2):
        loss, grads = ej.value_and_grad(ej.eprop(net, LOSS), chunk=chunk)(params, XS, YS)
        assert float(loss) == pytest.approx(float(wanted[0]), rel=1e-12)
        ref.assert_same(grads, wanted[1])
    assert ref.norm(wanted[1]["cell"]) > 1e-3


# -- integers beyond int32 -------------------------------------------------------------------------

WRAPS = """
import jax, jax.numpy as jnp, numpy as np, eprop_jax as ej
wide = 2**32 + 1
y = jnp.zeros(3)
net = ej.Network(ej.cells.rnn(2, 4), ej.readouts.linear(4, 3))
params, xs = net.init(jax.random.key(0)), jnp.ones((3, 2))
rule = ej.eprop(net, ej.losses.softmax_cross_entropy)
least_squares = ej.eprop(net, ej.losses.squared_error)
labels = np.array([0, 1, wide])
calls = {
    "classes": lambda: ej.value_and_grad(rule)(params, xs, labels),
    "classes by step": lambda: rule.step(params, rule.init(params), xs, labels),
    "targets": lambda: ej.value_and_grad(least_squares)(params, xs, np.full((3, 3), wide)),
    "inputs": lambda: ej.value_and_grad(rule)(params, np.full((3, 2), wide), np.zeros(3, int)),
    "cross-entropy": lambda: ej.losses.softmax_cross_entropy(y, np.int64(wide)),
    "squared error": lambda: ej.losses.squared_error(y, np.full(3, -wide)),
    "level_crossing": lambda: ej.encodings.level_crossing(np.full((2, 1), wide), 1.0),
    "from_crossings": lambda: ej.encodings.from_crossings(np.full((2, 2), wide), 1.0),
    "population": lambda: ej.encodings.population(np.array([wide]), 3),
    "row_by_row": lambda: ej.tasks.row_by_row(np.ones((1, 8, 8)), np.array([wide])),
    "utterances": lambda: ej.tasks.utterances(np.ones((1, 5, 2)), np.array([5]), np.array([wide])),
}
for name, call in calls.items():
    try:
        call()
    except ValueError as refusal:
        assert "int32" in str(refusal) and str(wide) in str(refusal), (name, refusal)
    else:
        raise SystemExit(f"{name}: wrapped")
loss, _ = ej.value_and_grad(rule)(params, xs, np.array([0, 1, 2]))
print(float(loss))
"""


def test_integers_beyond_int32_are_refused_where_they_would_wrap():
    """As a user runs it, without 64 bits."""
    done = subprocess.run(
        [sys.executable, "-c", WRAPS], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr


# -- what is kept ----------------------------------------------------------------------------------


def test_a_network_is_not_changed_by_a_later_change_of_what_it_was_made_of():
    mask, tau, kappa = np.ones((N, N), bool), np.full(N, 5.0), np.full(N_OUT, 0.5)
    keep, g, y_0, gain = np.full(N, 0.5), np.full(N, 0.7), np.array(0.1), np.array(2.0)
    rate, start, width = np.full(N, 0.1), np.array(0.2), np.array(0.5)
    drives = {"a": ["w_in", "w_rec"], "b": ["w_in"]}

    def run():
        return [gradient(*parts) for parts in parts_of]

    own = ej.cells.custom(
        N_IN, N, lambda th, c, a: th["keep"] * c + a["a"] + th["g"] * a["b"],
        lambda th, c: jnp.tanh(c), state=start, constants={"keep": keep}, theta={"g": g},
        drives=drives, connectivity=mask, gain_rec=gain,
    )  # fmt: skip
    psi = ej.surrogates.exponential(0.3, width)
    parts_of = [
        (own, ej.readouts.custom(N, N_OUT, lambda p, y, a: 0.5 * y + a, y_0=y_0, gain=gain)),
        (
            ej.cells.lif(N_IN, N, tau_m=tau, connectivity=mask, surrogate=psi, v_th=0.3),
            ej.readouts.leaky(N, N_OUT, kappa=kappa),
        ),
    ]
    regular, h = ej.losses.firing_rate(rate), jnp.full(N, 0.3)
    before, was = run(), regular(h)
    mask[0] = False
    for x in (tau, kappa, keep, g, y_0, gain, rate, start, width):
        x *= 0.5
    drives["a"].append("bias")
    drives["c"] = ["w_in"]
    assert jax.tree.all(jax.tree.map(jnp.array_equal, before, run()))
    assert regular(h) == was


# -- names -----------------------------------------------------------------------------------------


def test_layers_and_networks_are_keys_equal_to_themselves_alone():
    make = lambda: ej.Network(ej.cells.alif(40, 100), ej.readouts.leaky(100, 2))
    a, b = make(), make()
    for x, y in ((a, b), (a.cell, b.cell), (a.readout, b.readout)):
        assert x == x and not x != x and x != y and not x == y
        assert {x: 1, y: 2}[x] == 1 and len({x, y, x}) == 2
        assert x != tuple(x) if isinstance(x, tuple) else True
    traces = []

    def total(net, x):
        traces.append(net)
        return x.sum() + net.cell.n_units

    f = jax.jit(total, static_argnums=0)
    assert [float(f(net, jnp.ones(2))) for net in (a, a, b)] == [102, 102, 102]
    assert len(traces) == 2
    assert isinstance(a.cell, tuple) and a.cell._replace(n_in=3).n_in == 3


def test_networks_print_in_a_line():
    for name, line in {
        "rnn": "rnn", "leaky_rnn": "leaky_rnn", "lif": "lif", "alif": "alif", "lstm": "lstm",
        "gru": "gru", "linear_recurrence": "linear_recurrence",
    }.items():  # fmt: skip
        assert repr(getattr(ej.cells, name)(40, 100)) == f"{line} 40 -> 100"
    net = ej.Network(ej.cells.alif(40, 100), ej.readouts.leaky(100, 2))
    assert repr(net) == str(net) == "Network(alif 40 -> 100, leaky 100 -> 2)"
    own = ej.cells.custom(3, 4, lambda th, c, a: a, lambda th, c: c, 0.0)
    assert repr(own) == "custom 3 -> 4"
    assert repr(ej.readouts.custom(4, 2, lambda p, y, a: a)) == "custom 4 -> 2"
    assert repr(ej.readouts.linear(4, 2)) == "linear 4 -> 2"
