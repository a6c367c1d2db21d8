"""NEST's e-prop models through the public API: recorded simulations, and what those leave off.

`tests/data/nest_reference.npz` holds two networks that NEST simulated; its `conventions` key states
the equations. `nest` below is those equations for one update interval, in NumPy; weights are
[post, pre].
"""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eprop_jax as ej

DATA = pathlib.Path(__file__).parent / "data" / "nest_reference.npz"


def library(q, kind="symmetric"):
    """NEST's parameters q -> a rule: all but the weights, through the public API."""
    n = q["n_rec"]
    window = q["learning_window"]
    averaged = window if q["average_gradient"] else 1
    options = dict(
        alpha=np.exp(-q["dt"] / q["tau_m"]),
        v_th=q["v_th"],
        refractory=int(q["t_ref"] / q["dt"]),
        scale_input=not q["rec_regular_spike_arrival"],
        surrogate=ej.surrogates.piecewise_linear(q["height"], q["width"]),
        self_connections=False,
    )
    if any(q["beta"]):
        rho = np.exp(-q["dt"] / q["adapt_tau"])
        cell = ej.cells.alif(q["n_in"], n, rho=rho, beta=np.array(q["beta"]), **options)
    else:
        cell = ej.cells.lif(q["n_in"], n, **options)
    kappa = np.exp(-q["dt"] / q["tau_out"])
    net = ej.Network(
        cell, ej.readouts.leaky(n, q["n_out"], kappa=kappa, scale_input=True, bias=False)
    )
    loss = {
        "mean_squared_error": ej.losses.squared_error,
        "cross_entropy": ej.losses.softmax_cross_entropy,
    }[q["loss"]]
    rate = ej.losses.firing_rate(q["f_target_hz"] * q["dt"] / 1000, q["c_reg"] / averaged)
    return net, ej.eprop(
        net,
        ej.losses.masked(loss),
        feedback=kind,
        activity_loss=rate if q["c_reg"] else None,
    )


def gradient(q, W, x, target, kind="symmetric", B=None, chunk=None):
    """One interval through the library -> aux, (g_in, g_rec, g_out) as NEST writes them."""
    net, rule = library(q, kind)
    params = net.init(jax.random.key(0))
    params["cell"]["w_in"], params["cell"]["w_rec"] = jnp.asarray(W[0].T), jnp.asarray(W[1].T)
    params["readout"]["w_out"] = jnp.asarray(W[2].T)
    if B is not None:
        params["feedback"] = jnp.asarray(B)
    mask = np.zeros(q["T"])
    mask[-q["learning_window"] :] = 1 / q["learning_window"] if q["average_gradient"] else 1
    f = ej.value_and_grad(rule, chunk=chunk, has_aux=True)
    (_, aux), g = f(params, jnp.asarray(x), (jnp.asarray(target), jnp.asarray(mask)))
    return aux, (g["cell"]["w_in"].T, g["cell"]["w_rec"].T, g["readout"]["w_out"].T)


def assert_equal(got, wanted):
    for a, b in zip(got, wanted):
        error = np.linalg.norm(np.asarray(a) - b) / np.linalg.norm(b)
        assert error < 1e-10


# -- the recorded simulations ---------------------------------------------------------------------


@functools.cache
def recorded():
    with np.load(DATA, allow_pickle=False) as data:
        return dict(data)


@pytest.mark.parametrize("case", ["lif_symmetric", "alif_symmetric"])
def test_recorded_spikes_and_gradients_are_reproduced(case):
    data = {k.split("/")[1]: v for k, v in recorded().items() if k.startswith(case)}
    q = json.loads(str(data["params"]))
    assert np.sum(data["z"]) > 100
    for m in range(q["M"]):  # B never moves: it is w_out in the first interval alone
        W = [data[k][m] for k in ("W_in", "W_rec", "W_out")]
        kind, B = ("random", data["B"]) if m else ("symmetric", None)
        aux, g = gradient(q, W, data["x"][m], data["target"][m], kind, B)
        assert np.array_equal(aux.activity, data["z"][m])
        assert np.allclose(aux.outputs, data["y"][m], rtol=0, atol=1e-12)
        assert_equal(g, [data[k][m] for k in ("g_in", "g_rec", "g_out")])
        assert np.all(np.diag(g[1]) == 0)


# -- and what they leave off ----------------------------------------------------------------------


def nest(q, W, x, target, B):
    """One update interval: the equations of `conventions` -> z, y, (g_in, g_rec, g_out)."""
    W_in, W_rec, W_out = W
    n, T = q["n_rec"], q["T"]
    alpha, kappa, rho = (np.exp(-q["dt"] / q[k]) for k in ("tau_m", "tau_out", "adapt_tau"))
    c_rec = 1 if q["rec_regular_spike_arrival"] else 1 - alpha
    n_ref = int(q["t_ref"] / q["dt"])
    beta = np.array(q["beta"])
    v, a, z, r = np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n, int)
    y, zout = np.zeros(q["n_out"]), np.zeros(n)
    zbar = np.zeros(q["n_in"] + n)
    eps, ebar, e_sum, g = np.zeros((4, n, q["n_in"] + n))
    g_out, spikes, outputs = np.zeros_like(W_out), [], []
    for k in range(T):
        r = np.maximum(r - 1, 0)
        zbar = alpha * zbar + c_rec * np.concatenate([x[k], z])
        v = alpha * v + c_rec * (W_in @ x[k] + W_rec @ z) - q["v_th"] * z
        a = rho * a + z
        A = q["v_th"] + beta * a
        psi = np.where(r > 0, 0, q["height"] * np.maximum(0, 1 - np.abs(v - A) / q["width"]))
        z = ((v >= A) & (r == 0)).astype(float)
        r = np.where(z > 0, n_ref, r)
        y = kappa * y + (1 - kappa) * W_out @ z
        zout = kappa * zout + (1 - kappa) * z
        pred = y if q["loss"] == "mean_squared_error" else np.exp(y) / np.sum(np.exp(y))
        err = (pred - target[k]) * (k >= T - q["learning_window"])
        e = psi[:, None] * (zbar - beta[:, None] * eps)
        eps = rho * eps + e
        ebar = kappa * ebar + (1 - kappa) * e
        g = g + (B @ err)[:, None] * ebar
        e_sum = e_sum + e
        g_out = g_out + np.outer(err, zout)
        spikes.append(z)
        outputs.append(y)
    f = np.mean(spikes, 0)
    g = g + (q["c_reg"] * (f - q["f_target_hz"] * q["dt"] / 1000) / T)[:, None] * e_sum
    averaged = q["learning_window"] if q["average_gradient"] else 1
    g, g_out = g / averaged, g_out / averaged
    g_in, g_rec = g[:, : q["n_in"]], g[:, q["n_in"] :] * (1 - np.eye(n))
    return np.array(spikes), np.array(outputs), (g_in, g_rec, g_out)


BASE = dict(
    T=60, n_in=3, n_rec=6, n_out=2, learning_window=60, dt=1.0, tau_m=20.0, tau_out=15.0,
    adapt_tau=100.0, v_th=0.6, t_ref=0, height=0.5, width=0.6, c_reg=0.0, f_target_hz=10.0,
    rec_regular_spike_arrival=True, loss="mean_squared_error", average_gradient=False,
    beta=[0.0] * 6,
)  # fmt: skip
OPTIONS = {
    "plain": {},
    "refractory": dict(t_ref=3.0),
    "refractory, dt 0.5": dict(t_ref=2.0, dt=0.5),
    "scaled input": dict(rec_regular_spike_arrival=False),
    "random feedback": dict(feedback="random"),
    "mixed population": dict(beta=[0.0, 0.3, 0.0, 0.1, 0.3, 0.0], t_ref=2.0),
    "cross entropy on a window": dict(loss="cross_entropy", learning_window=20),
    "firing rate": dict(c_reg=300.0),
    "averaged": dict(learning_window=30, average_gradient=True),
    "all together": dict(
        t_ref=2.0, rec_regular_spike_arrival=False, feedback="random", loss="cross_entropy",
        beta=[0.0, 0.3, 0.0, 0.1, 0.3, 0.0], learning_window=20, c_reg=300.0, average_gradient=True,
    ),
}  # fmt: skip


def make(options):
    q = {**BASE, **options}
    rng = np.random.default_rng(3)
    drive = 1.0 if q["rec_regular_spike_arrival"] else 8.0
    W = [rng.normal(size=(6, 3)) * drive, rng.normal(size=(6, 6)) * 0.4 * drive]
    W = [W[0] + 0.3 * drive, W[1] * (1 - np.eye(6)), rng.normal(size=(2, 6))]
    x = (rng.uniform(size=(60, 3)) < 0.3).astype(float)
    target = rng.uniform(size=(60, 2))
    if q["loss"] == "cross_entropy":
        target = np.eye(2)[(target[:, 0] > 0.5).astype(int)]
    B = rng.normal(size=(6, 2)) if q.get("feedback") == "random" else W[2].T
    return q, W, x, target, B


def test_the_equations_here_are_those_that_nest_recorded():
    for case in ("lif_symmetric", "alif_symmetric"):
        data = {k.split("/")[1]: v for k, v in recorded().items() if k.startswith(case)}
        q = json.loads(str(data["params"]))
        W = [data[k][0] for k in ("W_in", "W_rec", "W_out")]
        z, _, g = nest(q, W, data["x"][0], data["target"][0], data["B"])
        assert np.array_equal(z, data["z"][0])
        assert_equal(g, [data[k][0] for k in ("g_in", "g_rec", "g_out")])


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_of_nest_has_its_counterpart(name):
    q, W, x, target, B = make(OPTIONS[name])
    kind = q.get("feedback", "symmetric")
    spikes, outputs, wanted = nest(q, W, x, target, B)
    assert 0.03 < np.mean(spikes) < 0.5
    # Regularisation is per sequence, so its window is the whole sequence.
    for chunk in (None,) if q["c_reg"] else (None, 7):
        aux, got = gradient(q, W, x, target, kind, B if kind == "random" else None, chunk)
        assert np.array_equal(aux.activity, spikes)
        assert np.allclose(aux.outputs, outputs, rtol=0, atol=1e-12)
        assert_equal(got, wanted)


@pytest.mark.parametrize("name", ["refractory", "scaled input", "random feedback", "firing rate"])
def test_each_option_matters(name):
    plain, option = make({}), make(OPTIONS[name])
    if name != "scaled input":
        option = (option[0], *plain[1:4], option[4])
    a, b = nest(*plain)[2], nest(*option)[2]
    assert np.linalg.norm(a[1] - b[1]) > 1e-2 * np.linalg.norm(a[1])
