"""Every rule against the loop that a user would write: `jax.value_and_grad` of a plain scan.

    python -m benchmarks.rules [--quick] [--grid]

The first column of ratios is the time against that baseline in the same run (quartiles beside it).
Before a function is timed, its gradient is held against float64 autodiff of the plain scan, for
spiking cells with the float32 spike trains imposed on the reference (a spike that falls on the
other side of a threshold is another network, not an error of the gradient).
"""

import argparse

import jax
import jax.numpy as jnp

import eprop_jax as ej
from benchmarks import harness, plain

LOSS = ej.losses.squared_error
N_IN, N_OUT = 40, 2


def problem(cell, n, T, B, dtype=jnp.float32):
    """(net, params, xs, ys): Poisson-like inputs at which spiking units fire, random targets."""
    net = ej.Network(getattr(ej.cells, cell)(N_IN, n), ej.readouts.leaky(n, N_OUT))
    params = net.init(jax.random.key(0))
    if cell in ("lif", "alif"):
        params["cell"]["w_in"] *= 3
    params = jax.tree.map(lambda p: p.astype(dtype), params)
    xs = (jax.random.uniform(jax.random.key(1), (T, B, N_IN)) < 0.1).astype(dtype)
    ys = jax.random.normal(jax.random.key(2), (T, B, N_OUT), dtype)
    return net, params, xs, ys


def check(cell, net, problem, functions, bound=1e-5):
    """{name: relative error to float64 autodiff}; e-prop against autodiff with the cut."""
    params, xs, ys = problem
    run = jax.jit(ej.value_and_grad(ej.bptt(net, LOSS), has_aux=True))
    spikes = run(params, xs, ys)[0][1].activity if cell in ("lif", "alif") else None
    wide = jax.tree.map(lambda x: x.astype(jnp.float64), (params, xs, ys, spikes))
    reference = {cut: jax.jit(jax.grad(plain.loss_of(cell, cut)))(*wide) for cut in (False, True)}
    errors = {}
    for name, f in functions.items():
        if name.startswith("order"):  # as many copies of the network: a shorter sequence, then
            order, (short, few) = int(name.split()[1].rstrip(",")), (128, 4)
            small = xs[:short, :few], ys[:short, :few]
            wide = jax.tree.map(lambda x: x.astype(jnp.float64), (params, *small))
            fired = run(params, *small)[0][1].activity.astype(jnp.float64)
            exact = jax.jit(jax.grad(plain.loss_of_order(cell, order)))(*wide, fired)
            errors[name] = harness.relative_error(f(params, *small)[1], exact)
            if errors[name] > bound:
                raise AssertionError(f"{cell} {name}: relative error {errors[name]:.1e} > {bound}")
            continue
        cut = "e-prop" in name or "cut" in name
        errors[name] = harness.relative_error(f(params, xs, ys)[1], reference[cut])
        imposed = name.startswith(("plain", "textbook"))  # these spike by themselves
        if not imposed and errors[name] > bound:
            raise AssertionError(f"{cell} {name}: relative error {errors[name]:.1e} > {bound}")
    return errors


def whole_step(rule, params, B):
    """The whole sequence in one step call, traces and all."""
    carry = rule.init(params, (B,))

    def f(params, xs, ys):
        carry_T, out = rule.step(params, carry, xs, ys)
        return out.loss, out.grads, carry_T

    return f


def case(cell, n, T, B, which, repeats=7):
    net, params, xs, ys = problem(cell, n, T, B)
    e, functions = ej.eprop(net, LOSS), {"plain": jax.value_and_grad(plain.loss_of(cell))}
    make = {
        "plain, cut": lambda: jax.value_and_grad(plain.loss_of(cell, True)),
        "BPTT": lambda: ej.value_and_grad(ej.bptt(net, LOSS)),
        "e-prop, K = T": lambda: ej.value_and_grad(e),
        "e-prop, one step call": lambda: whole_step(e, params, B),
        "e-prop, auto": lambda: ej.value_and_grad(e, chunk="auto"),
        "e-prop, K = 1": lambda: ej.value_and_grad(e, chunk=1),
        "textbook e-prop": lambda: plain.textbook_eprop,
        "RTRL, auto": lambda: ej.value_and_grad(ej.rtrl(net, LOSS), chunk="auto"),
        "RTRL, K = 1": lambda: ej.value_and_grad(ej.rtrl(net, LOSS), chunk=1),
    }
    for K in ("auto", 1):
        make[f"order 2, K = {K}"] = lambda K=K: ej.value_and_grad(
            ej.m_order_eprop(net, LOSS, order=2), chunk=K
        )
    for m in (1, 2, 4, 8, 16):
        make[f"order {m}, K = T"] = lambda m=m: ej.value_and_grad(
            ej.m_order_eprop(net, LOSS, order=m)
        )
    functions |= {name: make[name]() for name in which}
    errors = check(cell, net, (params, xs, ys), {k: jax.jit(f) for k, f in functions.items()})
    rows = harness.measure(f"{cell} n={n} T={T} B={B}", functions, (params, xs, ys), repeats)
    for row in rows:
        row["error"] = errors.get(row["what"], "")
        print(harness.table([row], ["case", "what", "ms", "ratio"]).split("\n")[-1], flush=True)
    return rows


E_PROP = ["plain, cut", "e-prop, K = T", "e-prop, auto"]
CASES = [
    ("alif", 256, 1024, 16, [*E_PROP, "e-prop, one step call", "BPTT"]),
    ("alif", 256, 1024, 16, [f"order {m}, K = T" for m in (2, 4, 8, 16)]),
    ("alif", 256, 1024, 1, E_PROP),
    ("alif", 256, 8192, 4, E_PROP, 5),
    ("alif", 512, 1024, 16, E_PROP, 5),
    ("alif", 512, 512, 32, ["BPTT"], 5),
    ("lif", 256, 1024, 16, [*E_PROP, "BPTT"]),
    ("rnn", 256, 1024, 16, [*E_PROP, "BPTT"]),
    ("lstm", 128, 512, 16, [*E_PROP, "BPTT"]),
    ("alif", 100, 512, 16, ["e-prop, auto", "e-prop, K = 1", "textbook e-prop"], 3),
    ("alif", 32, 192, 1, ["RTRL, auto", "RTRL, K = 1"]),
    ("alif", 64, 384, 1, ["RTRL, auto", "RTRL, K = 1"], 3),
    ("alif", 128, 768, 1, ["RTRL, auto", "RTRL, K = 1"], 1),
]

# Every rule at K = 1, auto and T, for each cell, small enough for RTRL at K = 1.
ALL = ["plain, cut", "BPTT", "e-prop, K = T", "e-prop, auto", "e-prop, K = 1"]
ALL += ["order 2, K = T", "order 2, K = auto", "order 2, K = 1", "RTRL, auto", "RTRL, K = 1"]
GRID = [
    (cell, n, T, B, ALL, 3)
    for cell in ("lif", "alif", "rnn", "lstm")
    for n, T, B in ((16, 256, 1), (32, 128, 4))
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the small cases only")
    parser.add_argument("--grid", action="store_true", help="every rule and cell, small, alone")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)  # for the reference; what is timed is float32
    rows = []
    for c in () if args.grid else CASES:
        if not args.quick or c[1] * c[2] * c[3] < 1e6:
            rows += case(*c)
    grid = [row for c in GRID for row in case(*c)]
    columns = ["case", "what", "ratio", "low", "high", "ms", "temp_MB", "compile_s", "error"]
    note = __doc__.split("\n\n")[2].replace("\n", " ")
    if rows:
        harness.write("rules", rows, columns, note)
    harness.write("grid", grid, columns, note)


if __name__ == "__main__":
    main()
