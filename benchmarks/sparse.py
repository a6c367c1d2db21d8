"""Sparse synapses: e-prop over lists against the loop that a user would write over the same lists.

    python -m benchmarks.sparse [--small]

ALIF units, 40 inputs, a leaky read-out of 2, float32. The loop written by hand knows what it runs:
its derivatives are formulas, and ε of the voltage, the filtered spikes of the unit that is heard, it
holds once a unit. Before anything is timed, loss and gradient are held to it (or to the dense network
with the same weights) in float64. Times are the least of interleaved runs; of a carry's bytes the
sums of gradients are not counted, nor are the lists in a program's memory, whose constants they are.
"""

import argparse
import functools
import json
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

import eprop_jax as ej
from benchmarks import harness

LOSS = ej.losses.squared_error
N_IN, N_OUT = 40, 2
ALPHA, RHO, KAPPA = math.exp(-1 / 20), math.exp(-1 / 200), math.exp(-1 / 20)
BETA = 1.7 * (1 - RHO) / (1 - ALPHA)


def by_hand(lists):
    """(start, step) of e-prop at batch 1: (params, carry, x [n_in], target [n_out]) -> (carry, loss,
    gradients). `lists` [k, n]: the units that each unit hears."""
    lists = jnp.asarray(lists)
    take = lambda x, at: x.at[at].get(mode="promise_in_bounds")
    lines = ("w_in", "w_rec", "bias")
    by_line = lambda f: {**f, "w_in": f["w_in"][:, None], "w_rec": take(f["w_rec"], lists)}

    def start(params):
        n, p = params["cell"]["bias"].shape[0], params["cell"]
        zeros = lambda *shape: jnp.zeros(shape, p["bias"].dtype)
        traces = lambda: {line: jnp.zeros_like(p[line]) for line in lines}
        heard = {"w_in": zeros(N_IN), "w_rec": zeros(n), "bias": zeros()}
        # v, a, z, ψ, y; ε of the voltage and of the adaptation; F(e); F(z) and F(1), the read-out's
        c = *(zeros(n) for _ in "vazψ"), zeros(N_OUT)
        return *c, heard, traces(), traces(), zeros(n), zeros()

    def step(params, carry, x, target):
        v, a, z, psi, y, heard, eps, gamma, of_z, of_one = carry
        p, out = params["cell"], params["readout"]
        recurrent = lambda s, line: (s + take(z, line[0]) * line[1], None)
        drive, _ = jax.lax.scan(recurrent, x @ p["w_in"] + p["bias"], (lists, p["w_rec"]))
        seen = by_line(heard)
        eps = {line: psi * seen[line] + (RHO - psi * BETA) * eps[line] for line in lines}
        pre = {"w_in": x, "w_rec": z, "bias": 1.0}
        heard = {line: ALPHA * heard[line] + pre[line] for line in lines}
        seen = by_line(heard)
        v, a = ALPHA * v + drive - z, RHO * a + z
        over = v - 1 - BETA * a
        z, psi = (over >= 0).astype(v.dtype), 0.3 * jnp.maximum(0, 1 - jnp.abs(over))
        y = KAPPA * y + z @ out["w_out"] + out["bias"]
        dy = y - target
        signal = out["w_out"] @ dy
        e = {line: psi * (seen[line] - BETA * eps[line]) for line in lines}
        gamma = {line: KAPPA * gamma[line] + e[line] for line in lines}
        of_z, of_one = KAPPA * of_z + z, KAPPA * of_one + 1
        cell = {line: signal * gamma[line] for line in lines}
        grads = {"cell": cell, "readout": {"w_out": of_z[:, None] * dy, "bias": of_one * dy}}
        return (v, a, z, psi, y, heard, eps, gamma, of_z, of_one), 0.5 * jnp.sum(dy**2), grads

    return start, step


def value_and_grad_by_hand(lists):
    start, step = by_hand(lists)

    def run(params, xs, ys):
        def at(carry, of_t):
            carry, loss, grads = carry
            carry, of_step, more = step(params, carry, of_t[0][0], of_t[1][0])
            return (carry, loss + of_step, jax.tree.map(jnp.add, grads, more)), None

        zero = jnp.zeros((), xs.dtype), jax.tree.map(jnp.zeros_like, params)
        return jax.lax.scan(at, (start(params), *zero), (xs, ys))[0][1:]

    return run


def problem(n, k, T, batch, seed=0):
    """A network with lists, and the dense one of the same size with the same weights; what they are
    run on; and the lists."""
    rng = np.random.default_rng(seed)
    lists = rng.integers(0, n, (k, n), np.int32)  # twice the same is two synapses
    of = lambda kind: ej.Network(ej.cells.alif(N_IN, n, w_rec=kind), ej.readouts.leaky(n, N_OUT))
    net, dense = of(ej.synapses.sparse(lists)), of(None)
    params = net.init(jax.random.key(0))
    params["cell"]["w_in"] = params["cell"]["w_in"] * 3  # so that units fire
    xs = (jax.random.uniform(jax.random.key(1), (T, batch, N_IN)) < 0.1).astype(jnp.float32)
    ys = jax.random.normal(jax.random.key(2), (T, batch, N_OUT))
    return net, dense, params, xs, ys, lists


def in_float64(functions, *args):
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: x.astype("float64"), args)
        return [jax.jit(f)(*wide) for f in functions]


def held(found, wanted, what, bound=1e-9):
    with jax.enable_x64(True):
        error = max(harness.relative_error(*x) for x in zip(found, wanted))
    if not error < bound:
        raise AssertionError(f"{what}: loss and gradient are {error:.1e} off")
    return error


def number_of_bytes(tree):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def least(programs, repeats):
    """{name: (compiled, its arguments)} -> {name: seconds}, the least of interleaved runs."""
    calls = {name: functools.partial(f, *args) for name, (f, args) in programs.items()}
    return {name: min(t) for name, t in harness.interleaved(calls, (), repeats).items()}


def total_bytes(program):
    m = program.memory_analysis()
    return m.argument_size_in_bytes + m.output_size_in_bytes + m.temp_size_in_bytes


def row(what, found, bar, **more):
    met = "yes" if found <= bar else "NO"
    of = {"what": what, "found": float(f"{found:.3g}"), "bar": bar, "met": met, **more}
    print(harness.table([of], COLUMNS).split("\n")[-1], flush=True)
    return of


def online(n, k, T, T_check, repeats):
    """Step by step, against the loop by hand."""
    net, _, params, xs, ys, lists = problem(n, k, T, 1)
    rule = ej.eprop(net, LOSS)
    functions = {
        "library": ej.value_and_grad(rule, chunk=1),
        "by hand": value_and_grad_by_hand(lists),
    }
    one, two = in_float64(functions.values(), params, xs[:T_check], ys[:T_check])
    error = held(one, two, f"n = {n}, against the loop by hand")
    args = params, xs, ys
    seconds = least(
        {k: (harness.compiled(f, args)[0], args) for k, f in functions.items()}, repeats
    )
    us = {name: 1e6 * s / T for name, s in seconds.items()}
    of_rule = number_of_bytes(rule.init(params, (1,)))
    of_loop = number_of_bytes(jax.eval_shape(by_hand(lists)[0], params))
    what = f"K = 1, n = {n}, {k} synapses a unit, batch 1"
    times = "{library:.0f} μs a step, by hand {by hand:.0f}".format(**us)
    carries = f"{of_rule / 1e6:.2f} MB, by hand {of_loop / 1e6:.2f}"
    return [
        row(
            f"{what}: time / by hand", us["library"] / us["by hand"], 1.3, detail=times, error=error
        ),
        row(f"{what}: carry's bytes / by hand", of_rule / of_loop, 1.1, detail=carries),
    ]


def large(n, k, T, before):
    """In a process of its own: MB at its peak above `before`, and of its compiled program."""
    w_rec = ej.synapses.sparse(fan_in=k)
    net = ej.Network(ej.cells.alif(N_IN, n, w_rec=w_rec), ej.readouts.leaky(n, N_OUT))
    args = net.init(jax.random.key(0)), jnp.ones((T, 1, N_IN)), jnp.ones((T, 1, N_OUT))
    program, _, _ = harness.compiled(ej.value_and_grad(ej.eprop(net, LOSS), chunk=1), args)
    jax.block_until_ready(program(*args))
    print(json.dumps([(harness.peak_bytes() - before) / 1e6, total_bytes(program) / 1e6]))


def memory(n, k, T, T_check):
    """A network of many units, held to the loop by hand in here and run elsewhere."""
    net, _, params, xs, ys, lists = problem(n, k, T_check, 1)
    both = ej.value_and_grad(ej.eprop(net, LOSS), chunk=1), value_and_grad_by_hand(lists)
    error = held(*in_float64(both, params, xs, ys), f"n = {n}, against the loop by hand")
    code = (
        "from benchmarks import harness; before = harness.peak_bytes()\n"  # it imports jax alone
        f"from benchmarks import sparse; sparse.large({n}, {k}, {T}, before)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    peak, compiled = json.loads(done.stdout)
    what = f"K = 1, n = {n}, {k} synapses a unit: peak MB above importing jax"
    detail = f"arguments, results and temporaries of the compiled program {compiled:.0f} MB"
    return [row(what, peak, 400, detail=detail, error=error)]


def exponents(sizes, k, work, repeats):
    """Time and memory in n, `work` units times steps each. Beside them the loop by hand, and the dense
    network where it is small."""
    programs, mb = {}, {}
    for n in sizes:
        T = work // n
        net, dense, params, xs, ys, lists = problem(n, k, T, 1)
        of = lambda net: ej.value_and_grad(ej.eprop(net, LOSS), chunk=1)
        kinds = {
            "lists": (of(net), params, T),
            "by hand": (value_and_grad_by_hand(lists), params, T),
        }
        if n <= 2000:
            kinds["dense"] = of(dense), as_dense(params, lists), max(T // 10, 4)
        for kind, (run, p, steps) in kinds.items():
            args = p, xs[:steps], ys[:steps]
            program = harness.compiled(run, args)[0]
            programs[kind, n, steps] = program, args
            mb[kind, n] = total_bytes(program) / 1e6
    seconds = least(programs, repeats)
    us = {(kind, n): 1e6 * s / steps for (kind, n, steps), s in seconds.items()}
    curves = {name: {kind: [of[kind, n] for n in sizes if (kind, n) in of] for kind in kinds_of(of)}
              for name, of in (("us a step", us), ("MB", mb))}  # fmt: skip
    exponent = lambda y: float(np.polyfit(np.log(sizes[: len(y)]), np.log(y), 1)[0])
    found = []
    for name, what in (("us a step", "time"), ("MB", "memory")):
        of_kind = {kind: exponent(y) for kind, y in curves[name].items()}
        detail = ", ".join(f"{x:.3g}" for x in curves[name]["lists"]) + f" {name}; exponents "
        detail += ", ".join(f"{kind} {x:.2f}" for kind, x in of_kind.items() if kind != "lists")
        title = f"K = 1, {k} synapses a unit, n = {', '.join(map(str, sizes))}: exponent of {what}"
        found.append(row(title, of_kind["lists"], 1.1, detail=detail, points=curves[name]))
    return found


def kinds_of(of):
    return list(dict.fromkeys(kind for kind, _ in of))


def figure(sizes, curves, path):
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 2, figsize=(10, 3.8))
    labels = "time a step (μs)", "memory of the compiled program (MB)"
    for ax, label, of in zip(axes, labels, curves):
        for (kind, y), marker in zip(of.items(), "o^s"):
            x = sizes[: len(y)]
            slope, at_1 = np.polyfit(np.log(x), np.log(y), 1)
            (dots,) = ax.plot(x, y, marker, label=f"{kind}: n^{slope:.2f}")
            ax.plot(x, np.exp(at_1) * np.array(x) ** slope, color=dots.get_color(), lw=1)
        ax.set(xscale="log", yscale="log", xlabel="units n", ylabel=label)
        ax.set_xticks(sizes, [str(n) for n in sizes])
        ax.minorticks_off()
        ax.grid(alpha=0.3)
        ax.legend()
    fig.suptitle(
        "e-prop step by step, ALIF units: lists of one length, or all synapses", fontsize=10
    )
    fig.tight_layout()
    fig.savefig(path, dpi=120)


def as_dense(params, lists):
    """The dense network's parameters: two synapses between the same units are added."""
    w = params["cell"]["w_rec"]
    post = np.arange(w.shape[1], dtype=np.int32)
    full = jnp.zeros((len(post), len(post)), w.dtype).at[lists, post].add(w)
    return {**params, "cell": {**params["cell"], "w_rec": full}}


def whole(n, k, T, T_check, batch, repeats):
    """A whole sequence, against the dense network with the same weights."""
    net, dense, params, xs, ys, lists = problem(n, k, T, batch)
    runs = [ej.value_and_grad(ej.eprop(x, LOSS)) for x in (net, dense)]

    def of_lists(params, xs, ys):
        loss, grads = runs[1](as_dense(params, lists), xs, ys)
        w_rec = grads["cell"]["w_rec"][lists, np.arange(n, dtype=np.int32)]
        return loss, {**grads, "cell": {**grads["cell"], "w_rec": w_rec}}

    one, two = in_float64((runs[0], of_lists), params, xs[:T_check], ys[:T_check])
    error = held(one, two, f"batch {batch}, against the dense network")
    args = {"lists": (params, xs, ys), "dense": (as_dense(params, lists), xs, ys)}
    programs = {k: (harness.compiled(f, args[k])[0], args[k]) for k, f in zip(args, runs)}
    ms = {k: 1e3 * s for k, s in least(programs, repeats).items()}
    detail = f"{ms['lists']:.0f} ms, dense {ms['dense']:.0f}"
    what = f"K = T = {T}, n = {n}, {k} synapses a unit, batch {batch}: time / dense"
    return [row(what, ms["lists"] / ms["dense"], 1.0, detail=detail, error=error)]


COLUMNS = ["what", "found", "bar", "met", "detail", "error"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--small", action="store_true", help="small sizes, which say little")
    small, rows = parser.parse_args().small, []
    name = "sparse_small" if small else "sparse"
    sizes = (200, 400, 800) if small else (500, 1000, 2000, 4000, 8000)
    if small:
        rows += online(200, 20, 50, 20, 5)
        rows += memory(2000, 40, 10, 10)
        rows += exponents(sizes, 20, 40_000, 5)
        rows += whole(200, 20, 50, 20, 8, 5)
    else:
        rows += online(2000, 40, 500, 100, 15)
        rows += memory(20_000, 100, 20, 20)
        rows += exponents(sizes, 40, 800_000, 15)
        rows += whole(2000, 40, 200, 100, 1, 7) + whole(2000, 40, 200, 100, 8, 7)
    harness.write(name, rows, COLUMNS, __doc__.split("\n\n")[2].replace("\n", " "))
    try:
        figure(sizes, [r["points"] for r in rows if "points" in r], harness.OUT / f"{name}.png")
    except ImportError:
        print("no figure: matplotlib is not installed")


if __name__ == "__main__":
    main()
