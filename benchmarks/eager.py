"""What a call costs beside its program: `rule.init` and `rule.step` from a Python loop, and an online
loop beside one written by hand.

    python -m benchmarks.eager

Ratios within one run, each the median of rounds that take turns. float32.
"""

from __future__ import annotations

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import eprop_jax as ej
from benchmarks.harness import machine

N_IN, N, N_OUT = 40, 64, 2


def microseconds(rounds: int, calls: int, **functions) -> dict[str, float]:
    """Median over rounds, in which the functions take turns, of the time a call."""
    times = {name: [] for name in functions}
    for f in functions.values():
        f()
        f()
    for _ in range(rounds):
        for name, f in functions.items():
            began = time.perf_counter()
            for _ in range(calls):
                f()
            times[name].append((time.perf_counter() - began) / calls * 1e6)
    return {name: statistics.median(x) for name, x in times.items()}


def step_and_init() -> list[tuple[str, float, float, float]]:
    net = ej.Network(ej.cells.alif(N_IN, N), ej.readouts.leaky(N, N_OUT))
    params = net.init(jax.random.key(0))
    rule = ej.eprop(net, ej.losses.squared_error)
    xs, ys = jnp.ones((1, 1, N_IN)), jnp.zeros((1, 1, N_OUT))
    carry, jitted = rule.init(params, (1,)), jax.jit(rule.step)
    t = microseconds(
        31, 200,
        init=lambda: jax.block_until_ready(rule.init(params, (1,))),
        eager=lambda: jax.block_until_ready(rule.step(params, carry, xs, ys)),
        jitted=lambda: jax.block_until_ready(jitted(params, carry, xs, ys)),
    )  # fmt: skip
    return [
        ("rule.init / a warm rule.step", t["init"], t["eager"], t["init"] / t["eager"]),
        ("rule.step / jax.jit(rule.step)", t["eager"], t["jitted"], t["eager"] / t["jitted"]),
    ]


def online_loop() -> tuple[str, float, float, float]:
    """A leaky RNN, batch 1, Adam, arguments donated: a jitted step called from a Python loop."""
    net = ej.Network(ej.cells.leaky_rnn(N_IN, N, decay=0.9), ej.readouts.leaky(N, N_OUT, kappa=0.8))
    rule, optimizer = ej.eprop(net, ej.losses.squared_error), optax.adam(1e-3)
    params = net.init(jax.random.key(0))
    data = np.random.default_rng(0)
    xs = jnp.asarray(data.normal(size=(300, 1, 1, N_IN)), jnp.float32)
    ys = jnp.asarray(data.normal(size=(300, 1, 1, N_OUT)), jnp.float32)

    def ours(state, x, y):
        params, opt_state, carry = state
        carry, out = rule.step(params, carry, x, y)
        changes, opt_state = optimizer.update(out.grads, opt_state, params)
        return (optax.apply_updates(params, changes), opt_state, carry), out.loss

    def by_hand(state, x, y):
        """Eq. 8, 9, 39, 40 for this very unit, an example at a time."""
        params, opt_state, (c, y_tm1, eps, gamma, gamma_out) = state
        p, q, x = params["cell"], params["readout"], x[0, 0]
        alpha, kappa = 0.9, 0.8
        h_tm1 = jnp.tanh(c)
        c = alpha * c + (1 - alpha) * (x @ p["w_in"] + h_tm1 @ p["w_rec"] + p["bias"])
        h = jnp.tanh(c)
        y_t = kappa * y_tm1 + h @ q["w_out"] + q["bias"]
        pre = {"bias": jnp.ones(()), "w_in": x, "w_rec": h_tm1}
        eps = jax.tree.map(lambda e, z: alpha * e + (1 - alpha) * z, eps, pre)
        psi, error = 1 - h**2, y_t - y[0, 0]
        gamma = jax.tree.map(lambda g, e: kappa * g + e[..., None] * psi, gamma, eps)
        signal = error @ q["w_out"].T
        gamma_out = {"bias": kappa * gamma_out["bias"] + 1, "w_out": kappa * gamma_out["w_out"] + h}
        grads = {
            "cell": jax.tree.map(lambda g: g * signal, gamma),
            "readout": {"bias": gamma_out["bias"] * error,
                        "w_out": gamma_out["w_out"][:, None] * error},
        }  # fmt: skip
        changes, opt_state = optimizer.update(grads, opt_state, params)
        carry = c, y_t, eps, gamma, gamma_out
        return (optax.apply_updates(params, changes), opt_state, carry), 0.5 * jnp.sum(error**2)

    zeros = {"bias": jnp.zeros(()), "w_in": jnp.zeros(N_IN), "w_rec": jnp.zeros(N)}
    wide = jax.tree.map(lambda e: jnp.zeros((*e.shape, N)), zeros)
    out = {"bias": jnp.zeros(()), "w_out": jnp.zeros(N)}
    carries = {"ours": lambda: rule.init(params, (1,)),
               "by_hand": lambda: (jnp.zeros(N), jnp.zeros(N_OUT), zeros, wide, out)}  # fmt: skip
    steps = {
        "ours": jax.jit(ours, donate_argnums=0), "by_hand": jax.jit(by_hand, donate_argnums=0)
    }  # fmt: skip
    found = {}

    def loop(name):
        start = jax.tree.map(jnp.copy, (params, optimizer.init(params), carries[name]()))
        state, step = start, steps[name]
        for t in range(len(xs)):
            state, _ = step(state, XS[t], YS[t])
        found[name] = jax.block_until_ready(state)[0]

    XS, YS = list(xs), list(ys)
    t = microseconds(15, 1, ours=lambda: loop("ours"), by_hand=lambda: loop("by_hand"))
    gap = max(
        float(jnp.abs(a - b).max())
        for a, b in zip(jax.tree.leaves(found["ours"]), jax.tree.leaves(found["by_hand"]))
    )
    assert gap < 1e-4, f"the two loops part: {gap}"
    ours_us, hand_us = t["ours"] / len(xs), t["by_hand"] / len(xs)
    return "online loop / by hand", ours_us, hand_us, ours_us / hand_us


def main() -> None:
    print(f"# eager\n\n{machine()}\n\n| | µs a call | µs of what it is compared with | ratio |")
    print("|---|---|---|---|")
    for name, a, b, ratio in [*step_and_init(), online_loop()]:
        print(f"| {name} | {a:.0f} | {b:.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
