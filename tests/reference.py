"""An independent reference: the network unrolled by a Python loop, differentiated by `jax.grad`.

Every cell and read-out is written again from its docstring, for one sequence without a batch; a
rule's cut is made with `stop_gradient`. Nothing here calls the library.

Order m keeps paths of at most m − 1 explicit jumps. The network is unrolled m times, all with the
same values: level u reads its explicit recurrence from level u − 1, and level 0 reads it through
`stop_gradient`. The loss reads level m − 1. Order 1 is e-prop; order None is the exact gradient.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

stop = jax.lax.stop_gradient


class Unit(NamedTuple):
    """A layer: c^0; (p, c^{t-1}, h^{t-1}, x^t) -> c^t; (p, c^t) -> h^t."""

    start: Any
    step: Any
    output: Any


def drive(p, x, h):
    return x @ p["w_in"] + h @ p["w_rec"] + p["bias"]


def gate(p, name, x, h):
    return x @ p["w_in"][name] + h @ p["w_rec"][name] + p["bias"][name]


def sigmoid(x):
    return 1 / (1 + jnp.exp(-x))


def decay(p, name, value):
    """A decay factor, or exp(−dt/τ) where log(τ/dt) is trained."""
    u = p.get("theta", {}).get(name)
    return value if u is None else jnp.exp(-1 / jnp.exp(u))


# -- cells ----------------------------------------------------------------------------------------


def rnn():
    return Unit(lambda n: jnp.zeros(n), lambda p, c, h, x: drive(p, x, h), lambda p, c: jnp.tanh(c))


def leaky_rnn(alpha):
    def step(p, c, h, x):
        a = decay(p, "tau", alpha)
        return a * c + (1 - a) * drive(p, x, h)

    return Unit(lambda n: jnp.zeros(n), step, lambda p, c: jnp.tanh(c))


def linear_recurrence(radius, frequency):
    def step(p, c, h, x):
        phase = p.get("theta", {}).get("frequency", frequency)
        size = decay(p, "decay", radius)
        rotation = jax.lax.complex(size * jnp.cos(phase), size * jnp.sin(phase))
        s = rotation * jax.lax.complex(*c)
        return jnp.real(s) + x @ p["w_in"] + p["bias"], jnp.imag(s)

    return Unit(lambda n: (jnp.zeros(n), jnp.zeros(n)), step, lambda p, c: c[0])


def lstm(forget_bias=1.0):
    def step(p, c, h, x):
        i, f, g, o = (gate(p, name, x, h) for name in "ifgo")
        return sigmoid(f + forget_bias) * c[0] + sigmoid(i) * jnp.tanh(g), sigmoid(o)

    return Unit(lambda n: (jnp.zeros(n),) * 2, step, lambda p, c: c[1] * jnp.tanh(c[0]))


def gru():
    def step(p, c, h, x):
        r, z = sigmoid(gate(p, "r", x, h)), sigmoid(gate(p, "z", x, h))
        a_n = x @ p["w_in"]["n"] + p["bias"]["n"]
        a_hn = h @ p["w_rec"]["hn"] + p["bias"]["hn"]
        return (1 - z) * jnp.tanh(a_n + r * a_hn) + z * c

    return Unit(lambda n: jnp.zeros(n), step, lambda p, c: c)


def arctan(x, height, width):
    return height / np.pi / (1 + (np.pi * x / width) ** 2)


def spike(x, psi):
    """Θ(x), with derivative ψ."""
    return stop(jnp.where(x >= 0, 1.0, 0.0)) + stop(psi(x)) * (x - stop(x))


def alif(
    alpha, rho=None, beta=0.0, v_th=1.0, n_ref=0, scale=False, reset_gradient=False, psi=arctan
):
    """LIF where `rho` is None. The state is (v, a, r)."""

    def threshold(p):
        u = p.get("theta", {}).get("v_th")
        return v_th if u is None else jnp.exp(u)

    def output(p, c):
        v, a, r = c
        barrier = threshold(p) + p.get("theta", {}).get("beta", beta) * a
        return jnp.where(r == 0, spike(v - barrier, psi), 0.0)

    def step(p, c, h, x):
        v, a, r = c
        z = output(p, c)
        reset = threshold(p) * z
        reset = reset if reset_gradient else stop(reset)
        al = decay(p, "tau_m", alpha)
        gain = 1 - al if scale else 1.0
        a = a if rho is None else decay(p, "tau_a", rho) * a + z
        return (
            al * v + gain * drive(p, x, h) - reset,
            a,
            jnp.maximum(jnp.where(z > 0.5, n_ref, r) - 1, 0),
        )

    return Unit(lambda n: (jnp.zeros(n), jnp.zeros(n), jnp.zeros(n, int)), step, output)


def currents(alpha, alpha_s=None, r=1.0, v_leak=0.0, v_th=None, v_reset=None, scale=False,
             reset_gradient=False, psi=arctan):  # fmt: skip
    """A synaptic current where there is `alpha_s`, a threshold where there is `v_th`: (v, i)."""

    def threshold(p):
        u = p.get("theta", {}).get("v_th")
        return v_th if u is None else jnp.exp(u)

    def output(p, c):
        return c[0] if v_th is None else spike(c[0] - threshold(p), psi)

    def step(p, c, h, x):
        v, i = c
        al, leak = decay(p, "tau_m", alpha), p.get("theta", {}).get("v_leak", v_leak)
        al_s = 0.0 if alpha_s is None else decay(p, "tau_syn", alpha_s)
        i = al_s * i + (1 - al_s if scale else 1.0) * drive(p, x, h)
        z = 0.0 if v_th is None else output(p, c)
        z = z if reset_gradient else stop(z)
        taken = 0.0 if v_th is None or v_reset is not None else threshold(p) * z
        taken = taken if reset_gradient else stop(taken)
        v = v if v_reset is None else (1 - z) * v + z * v_reset
        charge = (1 - al if scale else 1.0) * r * i
        return al * v + (1 - al) * leak + charge - taken, i

    return Unit(lambda n: (jnp.zeros(n),) * 2, step, output)


def adex(of, psi, *, dt, scale):
    """(v, w); `of` holds C, g, E, VT, D, tau, a, b, back, peak. Trained: log τ_w, a, b, V_T and
    log Δ_T."""

    def values(p):
        u = p.get("theta", {})
        own = {"tau": jnp.exp(u["tau_w"]), "D": jnp.exp(u["delta_t"])} if u else {}
        return of | own | {k: u[q] for k, q in (("a", "a"), ("b", "b"), ("VT", "v_t")) if u}

    output = lambda p, c: spike(c[0] - of["peak"], psi)

    def step(p, c, h, x):
        k, z = values(p), output(p, c)
        v, w = jnp.where(stop(z) > 0.5, k["back"], c[0]), c[1] + k["b"] * z
        ceiling = stop((k["peak"] - k["back"]) * k["C"] / (k["g"] * k["D"] * dt))
        e = jnp.exp((v - k["VT"]) / k["D"])
        dv = -k["g"] * (v - k["E"]) + k["g"] * k["D"] * jnp.where(e < ceiling, e, ceiling)
        dv = (dv - w + scale * drive(p, x, h)) / k["C"]
        return v + dt * dv, w + dt / k["tau"] * (k["a"] * (v - k["E"]) - w)

    return Unit(lambda n: (jnp.full(n, of["E"]), jnp.zeros(n)), step, output)


def izhikevich(of, psi, *, scale, reset_gradient, parts=2):
    """(v, u); `of` holds a, b, c, d. Trained: log a, b, c, d."""

    def values(p):
        u = p.get("theta", {})
        return {"a": jnp.exp(u["a"]), "b": u["b"], "c": u["c"], "d": u["d"]} if u else of

    output = lambda p, c: spike(c[0] - 30.0, psi)

    def step(p, s, h, x):
        k, z = values(p), output(p, s)
        v = s[0] + (z if reset_gradient else stop(z)) * (k["c"] - s[0])
        u = s[1] + k["d"] * z
        for _ in range(parts):
            on = v + (0.04 * v**2 + 5 * v + 140 - u + scale * drive(p, x, h)) / parts
            v = jnp.where(v >= 30.0, v, on)
        return v, u + k["a"] * (k["b"] * v - u)

    return Unit(lambda n: (jnp.full(n, -65.0), jnp.full(n, -65.0 * of["b"])), step, output)


def lru():
    """Complex, by JAX's own complex numbers; −ν, θ and log γ trained."""

    def step(p, c, h, x):
        u = p["theta"]
        rotation = jnp.exp(jax.lax.complex(-jnp.exp(-u["decay"]), u["frequency"]))
        a = jax.lax.complex(*(x @ p["w_in"][g] + p["bias"][g] for g in ("re", "im")))
        gamma = jax.lax.complex(jnp.exp(u["gamma"]), jnp.zeros_like(u["gamma"]))
        s = rotation * jax.lax.complex(*c) + gamma * a
        return jnp.real(s), jnp.imag(s)

    return Unit(lambda n: (jnp.zeros(n), jnp.zeros(n)), step, lambda p, c: c[0])


# -- read-outs: (p, y^{t-1}, a^t) -> y^t -----------------------------------------------------------


def linear(p, y, a):
    return a


def leaky(kappa, scale=False):
    def step(p, y, a):
        k = decay(p, "tau", kappa)
        return k * y + ((1 - k) * a if scale else a)

    return step


# -- the gradient ---------------------------------------------------------------------------------


def unroll(*args, **options):
    """One sequence xs [T, n_in] -> y [T, n_out], h [T, n]."""
    return trajectory(*args, **options)[:2]


def trajectory(cell, readout, params, xs, *, order=None, B=None, y_0=0.0):
    """y [T, n_out], h [T, n] and a list of the T states c. `B` replaces w_out on the way back."""
    p, p_out = params["cell"], params["readout"]
    n, n_out = p_out["w_out"].shape
    levels = [cell.start(n)] * (order or 1)
    y, ys, hs, cs = jnp.full(n_out, y_0), [], [], []
    for x in xs:
        h_tm1 = [cell.output(p, c) for c in levels]
        h_tm1 = h_tm1 if order is None else [stop(h_tm1[0]), *h_tm1[:-1]]
        levels = [cell.step(p, c, h, x) for c, h in zip(levels, h_tm1)]
        h = cell.output(p, levels[-1])
        a = h @ p_out["w_out"] if B is None else stop(h) @ p_out["w_out"] + (h - stop(h)) @ stop(B)
        y = readout(p_out, y, a + p_out["bias"] if "bias" in p_out else a)
        ys.append(y)
        hs.append(h)
        cs.append(levels[-1])
    return jnp.stack(ys), jnp.stack(hs), cs


def total_loss(cell, readout, params, xs, ys, loss, *, activity=None, state=None, **options):
    """Σ_t mean_batch loss, the activity loss of the whole sequence, and Σ_t of a function of c^t:
    xs [T, *batch, n_in]."""

    def of_sequence(x, target):
        y, h, c = trajectory(cell, readout, params, x, **options)
        total = sum(loss(y[t], jax.tree.map(lambda a: a[t], target)) for t in range(len(x)))
        total = total if state is None else total + sum(state(c_t) for c_t in c)
        return total if activity is None else total + activity(jnp.mean(h, 0))

    def flat(a):
        return jnp.moveaxis(a.reshape(a.shape[0], -1, *a.shape[xs.ndim - 1 :]), 1, 0)

    return jnp.mean(jax.vmap(of_sequence)(flat(xs), jax.tree.map(flat, ys)))


def gradient(cell, readout, params, xs, ys, loss, **options):
    """(loss, grads) of params["cell"] and params["readout"]."""
    return jax.jit(
        jax.value_and_grad(lambda p: total_loss(cell, readout, p, xs, ys, loss, **options))
    )(params)


def squared_error(y, target):
    return 0.5 * jnp.sum((y - target) ** 2)


# -- distances ------------------------------------------------------------------------------------


def norm(x):
    return sum(float(np.sum(np.asarray(a, float) ** 2)) for a in jax.tree.leaves(x)) ** 0.5


def distance(got, wanted):
    """|got − wanted| / |wanted| over the whole tree."""
    gap = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), got, wanted)
    return norm(gap) / norm(wanted)


def assert_same(got, wanted, tolerance=1e-10):
    """Relative error of the whole tree and of each leaf (above rounding of the whole)."""
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    floor = 1e-14 * norm(wanted)
    for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(wanted)):
        assert a.shape == b.shape and a.dtype == b.dtype, jax.tree_util.keystr(path)
        error = norm(np.asarray(a) - np.asarray(b))
        assert error <= tolerance * norm(b) + floor, (jax.tree_util.keystr(path), error, norm(b))
