"""Every kind of gradient on one accelerator, and how much of the machine each of them uses.

    make bench-gpu                  # on the device that JAX finds first
    python -m benchmarks.gpu [--small] [--profile FOLDER]

Time is a share of `jax.value_and_grad` of the plain scan in the same run; of lists of synapses, of
the dense network with the same weights. Float32, products too. `GEMM` and `bandwidth` are shares of two
rates that are measured first: one large product, and one pass over an array too long for any cache.
What a row needs of both is `ej.cost`'s: the multiply-adds of its products, and its states and traces,
written and read once. A row with little of either waits for small kernels, one after the other: the
steps of its scans. Every gradient is held to float64 first, in the way of the benchmark it is from.
"""

import argparse
import importlib.util
import statistics
import time

import jax
import jax.numpy as jnp

import eprop_jax as ej
from benchmarks import harness, plain, rules, sparse, stacks
from eprop_jax.run.cost import auto_chunk

LOSS = ej.losses.squared_error


def seconds(f, *args, repeats=10):
    """The median time of a compiled call."""
    f, times = jax.jit(f), []
    jax.block_until_ready(f(*args))
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(f(*args))
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def rates(small):
    """(multiply-adds a second of [m, m] @ [m, m], bytes a second read and written)."""
    m, size = (512, 4 << 20) if small else (8192, 256 << 20)
    square, long = jnp.ones((m, m)), jnp.ones(size)
    return m**3 / seconds(jnp.matmul, square, square), 8 * size / seconds(lambda x: x + 1, long)


def needed(rule, params, T, B, chunk=None):
    """(multiply-adds, bytes) of a sequence."""
    K = auto_chunk(rule, params, (B,), T) if chunk == "auto" else chunk
    of = ej.cost(rule, params, (B,), K)
    held = of.chunk_bytes if K is None else (of.chunk_bytes + of.trace_bytes) / K
    return T * of.multiply_adds, 2 * T * held


def shown(rows, needs, peak):
    """The rows, with their shares of the two rates."""
    for row in rows:
        for name, of, most in zip(("GEMM", "bandwidth"), needs.get(row["what"], ()), peak):
            row[name] = 1e3 * of / row["ms"] / most
        print(harness.table([row], COLUMNS).split("\n")[-1], flush=True)
    return rows


def of_a_layer(cell, n, T, B, peak, repeats, chunks=("auto",), rtrl=False):
    """Rules on one layer: whole sequences, and in chunks."""
    net, params, xs, ys = rules.problem(cell, n, T, B)
    made = {"BPTT": (ej.bptt(net, LOSS), None), "e-prop, K = T": (ej.eprop(net, LOSS), None)}
    made |= {f"e-prop, K = {K}": (ej.eprop(net, LOSS), K) for K in chunks}
    for m in (2, 4, 8, 16):
        made[f"order {m}, K = T"] = ej.m_order_eprop(net, LOSS, order=m), None
    made |= {"RTRL, auto": (ej.rtrl(net, LOSS), "auto")} if rtrl else {}
    functions = {name: ej.value_and_grad(*each) for name, each in made.items()}
    errors = rules.check(cell, net, (params, xs, ys), {k: jax.jit(f) for k, f in functions.items()})
    needs = {name: needed(rule, params, T, B, K) for name, (rule, K) in made.items()}
    needs["plain"] = needs["BPTT"]
    functions = {"plain": jax.value_and_grad(plain.loss_of(cell)), **functions}
    rows = harness.measure(f"{cell} n={n} T={T} B={B}", functions, (params, xs, ys), repeats)
    return shown([{**row, "error": errors.get(row["what"], "")} for row in rows], needs, peak), {
        row["what"]: (functions[row["what"]], (params, xs, ys)) for row in rows
    }


def of_a_stack(kind, n, layers, T, B, languages, peak, repeats):
    net, params, xs, ys = stacks.problem(kind, n, layers, T, B, "leaky")
    of = {name: ej.by_paths(net, LOSS, paths=name) for name in languages}
    needs = {name: needed(rule, params, T, B) for name, rule in of.items()}
    needs["BPTT"] = needs["plain"] = needed(ej.bptt(net, LOSS), params, T, B)
    rows = shown(stacks.case(kind, n, layers, T, B, languages, repeats=repeats), needs, peak)
    functions = {name: ej.value_and_grad(rule) for name, rule in of.items()}
    return rows, {name: (f, (params, xs, ys)) for name, f in functions.items()}


def of_lists(n, k, T, B, peak, repeats):
    """Sparse synapses beside the dense network with the same weights, whole sequences."""
    net, dense, params, xs, ys, lists = sparse.problem(n, k, T, B)
    given = {"dense": (dense, sparse.as_dense(params, lists)), "lists": (net, params)}
    of = {name: (ej.eprop(net, LOSS), params) for name, (net, params) in given.items()}
    functions = {name: ej.value_and_grad(rule) for name, (rule, _) in of.items()}
    short = [(p, xs[: T // 4], ys[: T // 4]) for _, p in of.values()]
    (loss, full), (loss_of_lists, grads) = (
        sparse.in_float64([f], *args)[0] for f, args in zip(functions.values(), short)
    )
    full["cell"]["w_rec"] = full["cell"]["w_rec"][lists, jnp.arange(n, dtype=jnp.int32)]
    error = sparse.held((loss_of_lists, grads), (loss, full), "lists, against the dense network")
    calls = {name: (f, (of[name][1], xs, ys)) for name, f in functions.items()}
    built = {name: (harness.compiled(f, args)[0], args) for name, (f, args) in calls.items()}
    found = sparse.least(built, repeats)
    title = f"alif n={n}, {k} synapses a unit, T={T} B={B}"
    row = lambda what, s: {
        "case": title, "what": what, "ms": 1e3 * s, "ratio": s / found["dense"], "error": error
    }  # fmt: skip
    needs = {name: needed(rule, p, T, B) for name, (rule, p) in of.items()}
    return shown([row(*each) for each in found.items()], needs, peak), calls


def of_peers(n, T, B, repeats):
    """braintrace's own e-prop rules beside ours, where it is installed."""
    if importlib.util.find_spec("braintrace") is None:
        print("no rows of braintrace: it is not installed")
        return [], {}
    import braintrace

    from benchmarks import peers

    args = peers.problem(n, T, B)
    functions = peers.ours(ej.eprop, ej.cells.rnn(peers.N_IN, n), B, args[0])
    functions |= peers.both_ways("D_RTRL", braintrace.D_RTRL, args)
    rows = peers.case(f"rnn n={n} T={T} B={B}", "none", functions, args, repeats=repeats)
    return shown(rows, {}, ()), {}


def profiled(rows, calls, folder):
    """A trace of the three of ours that use the least of what they need most, for a viewer."""
    of = [row for row in rows if "GEMM" in row and (row["case"], row["what"]) in calls]
    of.sort(key=lambda row: max(row["GEMM"], row["bandwidth"]))
    for row in of[:3]:
        f, args = calls[row["case"], row["what"]]
        f = jax.jit(f)
        jax.block_until_ready(f(*args))
        name = "".join(x if x.isalnum() else "_" for x in f"{row['case']} {row['what']}")
        with jax.profiler.trace(f"{folder}/{name}"):
            jax.block_until_ready(f(*args))
        print(f"traced: {row['case']}, {row['what']}")


COLUMNS = ["case", "what", "ratio", "ms", "GEMM", "bandwidth", "temp_MB", "compile_s", "error"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--small", action="store_true", help="tiny sizes, which say nothing")
    parser.add_argument("--profile", metavar="FOLDER", help="trace the three worst into it")
    args = parser.parse_args()
    small, repeats = args.small, 3 if args.small else 7
    jax.config.update("jax_enable_x64", True)  # for the references; what is timed is float32
    jax.config.update("jax_default_matmul_precision", "float32")
    peak = rates(small)
    two = ["(i|f)*", "i*f*"]
    if small:
        parts = [
            lambda: of_a_layer("alif", 16, 32, 2, peak, repeats, (8, 1), True),
            lambda: of_a_stack("alif", 16, 2, 16, 2, two, peak, repeats),
            lambda: of_lists(64, 8, 16, 2, peak, repeats),
        ]
    else:
        parts = [
            lambda: of_a_layer("alif", 256, 1024, 16, peak, repeats),
            lambda: of_a_layer("alif", 1024, 512, 32, peak, repeats),
            lambda: of_a_layer("alif", 100, 512, 16, peak, repeats, ("auto", 1)),
            lambda: of_a_layer("alif", 64, 384, 1, peak, repeats, ("auto", 1), True),
            lambda: of_a_layer("lstm", 128, 512, 16, peak, repeats),
            lambda: of_a_stack("alif", 256, 2, 1024, 16, two, peak, repeats),
            lambda: of_lists(2000, 40, 200, 8, peak, repeats),
            lambda: of_peers(128, 100, 32, repeats),
        ]
    rows, calls = [], {}
    for part in parts:
        found, functions = part()
        rows += found
        calls |= {(found[0]["case"], name): call for name, call in functions.items()}
    if args.profile:
        profiled(rows, calls, args.profile)
    measured = f"{peak[0] / 1e12:.3g} T multiply-adds/s, {peak[1] / 1e9:.3g} GB/s"
    note = __doc__.split("\n\n")[2].replace("\n", " ")
    note += f" On {jax.devices()[0].device_kind}: {measured}."
    harness.write("gpu_small" if small else "gpu", rows, COLUMNS, note)


if __name__ == "__main__":
    main()
