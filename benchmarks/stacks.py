"""Stacks of layers against the loop that a user would write: `jax.value_and_grad` of a plain scan.

    python -m benchmarks.stacks [--small]

Times are shares of that baseline in the same run (quartiles beside them). First the loss and BPTT's
gradient are held against autodiff of the plain loop, in float64, and every other rule's loss with
them, and gradients by traces (`auto`) to those of the whole sequence; the other gradients are held to
the oracle in tests/test_layers.py, at small sizes.
"""

import argparse

import jax
import jax.numpy as jnp

import eprop_jax as ej
from benchmarks import harness

LOSS = ej.losses.squared_error
N_IN, N_OUT = 40, 2


def plain(net, params):
    """(params, xs, ys) -> loss: one scan over time, all layers within the step. The units themselves
    are the library's, so that both sides run the same dynamics; `layers` are its parameters."""
    dtype = params["readout"]["w_out"].dtype
    theta = [
        {k: jnp.broadcast_to(jnp.asarray(v, dtype), (cell.n_units,))
         for k, v in cell.constants.items()}
        for cell in net.cells
    ]  # fmt: skip

    def units(f, th, *trees):
        return jax.vmap(jax.vmap(f), (None, *(0 for _ in trees)))(th, *trees)

    def drive(p, x, h):
        if not isinstance(p["w_in"], dict):
            return x @ p["w_in"] + h @ p["w_rec"] + p["bias"]
        gates = sorted({*p["w_in"], *p["w_rec"], *p["bias"]})
        into = lambda line, g, v: v @ p[line][g] if g in p[line] else 0.0
        return {g: into("w_in", g, x) + into("w_rec", g, h) + p["bias"].get(g, 0.0) for g in gates}

    readout, kappa = net.readout, {k: jnp.asarray(v) for k, v in net.readout.constants.items()}

    def loss(params, xs, ys):
        batch, out = (xs.shape[1],), params["readout"]
        c = [cell.initial_state(p, batch) for cell, p in zip(net.cells, params["cell"])]
        h = [units(cell.output, th, c_l) for cell, th, c_l in zip(net.cells, theta, c)]
        phi = {k: jnp.broadcast_to(v.astype(xs.dtype), (N_OUT,)) for k, v in kappa.items()}

        def step(carry, at):
            (c, h, y), (x, target) = carry, at
            heard, new_c, new_h = x, [], []
            for cell, th, p, c_l, h_l in zip(net.cells, theta, params["cell"], c, h):
                c_l = units(cell.dynamics, th, c_l, drive(p, heard, h_l))
                heard = units(cell.output, th, c_l)
                new_c.append(c_l)
                new_h.append(heard)
            y = units(readout.dynamics, phi, y, heard @ out["w_out"] + out["bias"])
            return (new_c, new_h, y), jnp.sum(jax.vmap(LOSS)(y, target))

        carry = c, h, readout.initial_state(out, batch)
        return jnp.sum(jax.lax.scan(step, carry, (xs, ys))[1]) / batch[0]

    return loss


def problem(kind, n, layers, T, B, readout):
    make = getattr(ej.cells, kind)
    cells = [make(N_IN if l == 0 else n, n) for l in range(layers)]
    net = ej.Network(cells, getattr(ej.readouts, readout)(n, N_OUT))
    params = net.init(jax.random.key(0))
    if kind == "alif":  # so that units fire
        for p in params["cell"]:
            p["w_in"] = p["w_in"] * 3
    xs = (jax.random.uniform(jax.random.key(1), (T, B, N_IN)) < 0.1).astype(jnp.float32)
    return net, params, xs, jax.random.normal(jax.random.key(2), (T, B, N_OUT))


def case(kind, n, layers, T, B, languages, readout="leaky", auto=(), repeats=7, bound=1e-9):
    """`auto`: languages that are run with traces too, chunk by chunk."""
    net, params, xs, ys = problem(kind, n, layers, T, B, readout)
    functions = {"plain": jax.value_and_grad(plain(net, params))}
    functions["BPTT"] = ej.value_and_grad(ej.bptt(net, LOSS))
    for language in languages:
        functions[language] = ej.value_and_grad(ej.by_paths(net, LOSS, paths=language))
    for language in auto:
        rule = ej.by_paths(net, LOSS, paths=language)
        functions[f"{language}, auto"] = ej.value_and_grad(rule, chunk="auto")
    with jax.enable_x64(True):  # in float32 one spike may fall on the other side of its threshold
        wide = jax.tree.map(lambda x: x.astype("float64"), (params, xs, ys))
        exact = {**functions, "plain": jax.value_and_grad(plain(net, wide[0]))}
        found = {name: jax.jit(f)(*wide) for name, f in exact.items()}
        value, grads = found["plain"]
        error = harness.relative_error(found["BPTT"][1], grads)
        gaps = {name: abs(float(v - value)) / abs(float(value)) for name, (v, _) in found.items()}
        by_chunk = [harness.relative_error(found[f"{x}, auto"][1], found[x][1]) for x in auto]
    if max(error, *by_chunk, *gaps.values()) > bound:
        raise AssertionError(f"{kind}: gradients are {error:.1e}, {by_chunk} off, losses {gaps}")
    title = f"{layers} × {n} {kind}, {readout}, T={T} B={B}"
    rows = harness.measure(title, functions, (params, xs, ys), repeats)
    for row in rows:
        row["error"] = error if row["what"] == "BPTT" else ""
        row["loss error"] = gaps[row["what"]]
        print(harness.table([row], ["case", "what", "ms", "ratio"]).split("\n")[-1], flush=True)
    return rows


TWO = ["(i|f)*", "i*f*", "(i|e)*f*", ej.paths.order(2), ej.paths.order(4)]
CASES = [
    ("alif", 256, 2, 1024, 16, TWO),
    ("gru", 256, 2, 256, 16, TWO),
    ("alif", 128, 4, 512, 16, ["i*f*"], "linear", ["i*f*"]),
    ("alif", 128, 4, 2048, 16, ["i*f*"], "linear", ["i*f*"]),
    ("alif", 128, 4, 512, 16, ["i*f*"], "leaky", ["i*f*"]),
]
SMALL = [
    ("alif", 64, 2, 128, 8, TWO, "leaky", ["i*f*"], 5),
    ("gru", 64, 2, 64, 8, TWO, "linear", ["i*f*"], 5),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--small", action="store_true", help="small sizes, which say little")
    args = parser.parse_args()
    rows = [row for c in (SMALL if args.small else CASES) for row in case(*c)]
    columns = [
        "case",
        "what",
        "ratio",
        "low",
        "high",
        "ms",
        "temp_MB",
        "compile_s",
        "error",
        "loss error",
    ]
    note = __doc__.split("\n\n")[2].replace("\n", " ")
    harness.write("stacks_small" if args.small else "stacks", rows, columns, note)


if __name__ == "__main__":
    main()
