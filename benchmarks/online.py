"""e-prop online, one step at a time: the library at K = 1 against the loop that a user would write.

    python -m benchmarks.online [--small]

Each unit has its own loop by hand (trace, signal and gradient in one body), which knows what it runs:
its derivatives are formulas, its three lines are one array, pre = (x, h, 1), and of a component whose
decay all units share it holds one trace a unit that is heard. 40 inputs, a leaky read-out of 2,
float32. A loop over a batch adds the examples' gradients in two ways, all at once or one after the
other; the faster one counts. Before anything is timed, loss and gradient are held to it in float64.
Times are shares of the loop by hand, the least of interleaved runs.
"""

import argparse
import math

import jax
import jax.numpy as jnp

import eprop_jax as ej
from benchmarks import harness
from benchmarks.sparse import held, in_float64, least

LOSS = ej.losses.squared_error
N_IN, N_OUT = 40, 2
ALPHA, RHO, KAPPA = math.exp(-1 / 20), math.exp(-1 / 200), math.exp(-1 / 20)
BETA = 1.7 * (1 - RHO) / (1 - ALPHA)

# A unit by hand: its weights as the loop has them; its gradients as the library has them; its state,
# ε and γ at the start; one step of all examples; and of one example's traces, (ε, what it has heard
# and its derivatives) -> (ε, e), e [m, n] a gate.


def ones(x):
    return jnp.ones((*x.shape[:-1], 1), x.dtype)


def one_matrix(p):
    return jnp.concatenate([p["w_in"], p["w_rec"], p["bias"][None]])


def three_lines(g):
    return {"w_in": g[:N_IN], "w_rec": g[N_IN:-1], "bias": g[-1]}


def leaky_rnn():
    def forward(w, c, h, x):
        pre = jnp.concatenate([x, h, ones(x)], -1)
        c = ALPHA * c + (1 - ALPHA) * (pre @ w)
        h = jnp.tanh(c)
        return c, h, (pre, 1 - h * h)

    def trace(eps, seen):
        pre, psi = seen
        eps = ALPHA * eps + (1 - ALPHA) * pre
        return eps, eps[:, None] * psi

    start = lambda n, m: (jnp.zeros(n), jnp.zeros(m), jnp.zeros((m, n)))
    return one_matrix, three_lines, start, forward, trace


def lif():
    def forward(w, v, z, x):
        pre = jnp.concatenate([x, z, ones(x)], -1)
        v = ALPHA * v + pre @ w - z
        return v, (v >= 1).astype(v.dtype), (pre, 0.3 * jnp.maximum(0, 1 - jnp.abs(v - 1)))

    def trace(eps, seen):
        pre, psi = seen
        eps = ALPHA * eps + pre
        return eps, eps[:, None] * psi

    start = lambda n, m: (jnp.zeros(n), jnp.zeros(m), jnp.zeros((m, n)))
    return one_matrix, three_lines, start, forward, trace


def alif():
    def forward(w, state, z, x):
        v, a, psi_tm1 = state
        pre = jnp.concatenate([x, z, ones(x)], -1)
        v, a = ALPHA * v + pre @ w - z, RHO * a + z
        over = v - 1 - BETA * a
        psi = 0.3 * jnp.maximum(0, 1 - jnp.abs(over))
        return (v, a, psi), (over >= 0).astype(v.dtype), (pre, psi_tm1, psi)

    def trace(eps, seen):
        (eps_v, eps_a), (pre, psi_tm1, psi) = eps, seen
        eps_a = psi_tm1 * eps_v[:, None] + (RHO - BETA * psi_tm1) * eps_a
        eps_v = ALPHA * eps_v + pre
        return (eps_v, eps_a), psi * (eps_v[:, None] - BETA * eps_a)

    def start(n, m):
        eps = jnp.zeros(m), jnp.zeros((m, n))
        return tuple(jnp.zeros(n) for _ in "vaψ"), eps, jnp.zeros((m, n))

    return one_matrix, three_lines, start, forward, trace


def gru():
    """Of its gates, n hears (x, 1) and hn (h, 1); r and z hear (x, h, 1)."""

    def weights(p):
        both = [
            jnp.concatenate([p["w_in"][g], p["w_rec"][g], p["bias"][g][None]]) for g in ("r", "z")
        ]
        n = jnp.concatenate([p["w_in"]["n"], p["bias"]["n"][None]])
        hn = jnp.concatenate([p["w_rec"]["hn"], p["bias"]["hn"][None]])
        return jnp.concatenate(both, 1), n, hn

    def lines(g):
        r, z, n, hn = g
        return {
            "w_in": {"r": r[:N_IN], "z": z[:N_IN], "n": n[:-1]},
            "w_rec": {"r": r[N_IN:-1], "z": z[N_IN:-1], "hn": hn[:-1]},
            "bias": {"r": r[-1], "z": z[-1], "n": n[-1], "hn": hn[-1]},
        }

    def forward(w, _, h, x):
        w_rz, w_n, w_hn = w
        of_x, of_h = jnp.concatenate([x, ones(x)], -1), jnp.concatenate([h, ones(h)], -1)
        pre = jnp.concatenate([x, of_h], -1)
        r, z = jnp.split(jax.nn.sigmoid(pre @ w_rz), 2, -1)
        a_hn = of_h @ w_hn
        n = jnp.tanh(of_x @ w_n + r * a_hn)
        dn = (1 - z) * (1 - n * n)
        seen = pre, of_x, of_h, z, dn * a_hn * r * (1 - r), (h - n) * z * (1 - z), dn, dn * r
        return (), (1 - z) * n + z * h, seen

    def trace(eps, seen):
        pre, of_x, of_h, z, *d = seen
        heard = pre, pre, of_x, of_h
        eps = tuple(z * e + k[:, None] * b for e, k, b in zip(eps, heard, d))
        return eps, eps

    def start(n, m):
        of_gates = tuple(jnp.zeros((k, n)) for k in (m, m, N_IN + 1, n + 1))
        return (), of_gates, of_gates

    return weights, lines, start, forward, trace


UNITS = {"leaky_rnn": leaky_rnn(), "lif": lif(), "alif": alif(), "gru": gru()}


def by_hand(unit, summed=None):
    """(params, xs, ys) -> (loss, gradients); `summed`: how a batch's gradients are added."""
    weights, lines, start, forward, trace = UNITS[unit]

    def at_example(trace_b, seen, signal):
        eps, gamma = trace_b
        eps, e = trace(eps, seen)
        gamma = jax.tree.map(lambda g, x: KAPPA * g + x, gamma, e)
        return (eps, gamma), jax.tree.map(lambda g: signal * g, gamma)

    def all_at_once(traces, seen, signal, g):
        traces, each = jax.vmap(at_example)(traces, seen, signal)
        return traces, jax.tree.map(lambda s, x: s + x.sum(0), g, each)

    def one_by_one(traces, seen, signal, g):
        def add(g, of):
            trace_b, more = at_example(*of)
            return jax.tree.map(jnp.add, g, more), trace_b

        g, traces = jax.lax.scan(add, g, (traces, seen, signal))
        return traces, g

    def alone(traces, seen, signal, g):
        traces, more = at_example(traces, seen, signal)
        return traces, jax.tree.map(jnp.add, g, more)

    add = {None: alone, "at once": all_at_once, "one by one": one_by_one}[summed]

    def run(params, xs, ys):
        p, out = params["cell"], params["readout"]
        w, (n, _), dtype = weights(p), out["w_out"].shape, xs.dtype
        if summed is None:
            xs, ys = xs[:, 0], ys[:, 0]
        batch = xs.shape[1:-1]
        zeros = lambda x: jnp.zeros((*batch, *x.shape), dtype)
        state, eps, gamma = jax.tree.map(zeros, start(n, N_IN + n + 1))
        g = jax.tree.map(lambda x: x.astype(dtype), start(n, N_IN + n + 1)[2])
        h, y = jnp.zeros((*batch, n), dtype), jnp.zeros(ys.shape[1:], dtype)
        of_out = jnp.zeros((*batch, n + 1), dtype)

        def step(carry, at):
            (state, h, y, traces, of_out, g, g_out, loss), (x, target) = carry, at
            state, h, seen = forward(w, state, h, x)
            heard = jnp.concatenate([h, ones(h)], -1)
            y = KAPPA * y + h @ out["w_out"] + out["bias"]
            dy = (y - target) / math.prod(batch)
            traces, g = add(traces, seen, dy @ out["w_out"].T, g)
            of_out = KAPPA * of_out + heard
            g_out = g_out + (of_out.T @ dy if batch else of_out[:, None] * dy)
            loss = loss + 0.5 * jnp.sum((y - target) * dy)
            return (state, h, y, traces, of_out, g, g_out, loss), None

        g_out = jnp.zeros((n + 1, ys.shape[-1]), dtype)
        carry = state, h, y, (eps, gamma), of_out, g, g_out, jnp.zeros((), dtype)
        *_, g, g_out, loss = jax.lax.scan(step, carry, (xs, ys))[0]
        return loss, {"cell": lines(g), "readout": {"w_out": g_out[:-1], "bias": g_out[-1]}}

    return run


def case(unit, n, B, T=256, repeats=15, bar=1.15):
    net = ej.Network(getattr(ej.cells, unit)(N_IN, n), ej.readouts.leaky(n, N_OUT))
    params = net.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (T, B, N_IN))
    if unit in ("lif", "alif"):
        params["cell"]["w_in"] *= 3
        xs = (jax.random.uniform(jax.random.key(1), (T, B, N_IN)) < 0.1).astype(jnp.float32)
    ys = jax.random.normal(jax.random.key(2), (T, B, N_OUT))
    hand = {"by hand": by_hand(unit)}
    if B > 1:
        hand = {f"by hand, {x}": by_hand(unit, x) for x in ("at once", "one by one")}
    ours = ej.value_and_grad(ej.eprop(net, LOSS), chunk=1)
    wanted, *found = in_float64([ours, *hand.values()], params, xs, ys)
    error = max(held(x, wanted, f"{unit} {n}") for x in found)
    functions = {**hand, "K = 1": ours}
    built = {k: (harness.compiled(f, (params, xs, ys))[0], (params, xs, ys))
             for k, f in functions.items()}  # fmt: skip
    seconds = least(built, repeats)
    best = min(seconds[k] for k in hand)
    rows = []
    for what, s in seconds.items():
        of = {"case": f"{unit} n={n} B={B}", "what": what, "μs a step": 1e6 * s / T}
        of |= {"ratio": s / best, "bar": bar, "error": error} if what == "K = 1" else {}
        rows.append(of)
        print(harness.table([of], COLUMNS).split("\n")[-1], flush=True)
    return rows


COLUMNS = ["case", "what", "μs a step", "ratio", "bar", "error"]
CASES = [
    ("leaky_rnn", 64, 1), ("leaky_rnn", 256, 1), ("leaky_rnn", 128, 32),
    ("lif", 100, 1), ("lif", 256, 1), ("lif", 100, 16),
    ("alif", 100, 1), ("alif", 256, 1), ("alif", 100, 16),
    ("gru", 64, 1),
]  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--small", action="store_true", help="small sizes, which say little")
    args = parser.parse_args()
    small = [(unit, 8, B, 32, 3) for unit in UNITS for B in (1, 2)]
    rows = [row for c in (small if args.small else CASES) for row in case(*c)]
    note = __doc__.split("\n\n")[2].replace("\n", " ")
    harness.write("online_small" if args.small else "online", rows, COLUMNS, note)


if __name__ == "__main__":
    main()
