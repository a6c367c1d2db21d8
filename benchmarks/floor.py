"""RTRL one step at a time, as a multiple of its arithmetic floor.

    python -m benchmarks.floor [--small]

The floor of a step call at K = 1: of each component that w_rec drives, the n × n Jacobian ∂c^t/∂h^{t-1}
meets the trace's n rows of lines · n numbers (Eq. 22), which is n² · lines · n multiplications and as
many additions; lines are those of every parameter of every gate (of one gate n_in + n + 1). Nothing
else is counted. Of ALIF's two components w_rec drives one; the column "a component" counts the same for
each component that the trace has, driven or not. The number is divided by the machine's own rate for
products of matrices in float32: the better one of a product of these very shapes and of one of
1024 × 1024 matrices, both by jitted `jnp.matmul`, in the same run. The step is `rule.step` of a batch
of 1 with 40 inputs and a leaky read-out of 2, its carry donated or not. The Jacobian of several gates
is summed before it meets the trace, so that the count is the same for every unit.

Before anything is timed, the gradient of 32 such steps is held in float64 to autodiff of the whole
sequence. Times are the least of interleaved runs. Of n = 256 the rows tell bytes: a process's own peak
above importing jax, and arguments, results and temporaries of the compiled programs.
"""

import argparse
import json
import subprocess
import sys
import time

import jax
import jax.numpy as jnp

import eprop_jax as ej
from benchmarks import harness
from benchmarks.sparse import held, in_float64, total_bytes

LOSS = ej.losses.squared_error
N_IN, N_OUT = 40, 2


def problem(unit, n, T, n_in=N_IN):
    """(rule, params, xs, ys)"""
    net = ej.Network(getattr(ej.cells, unit)(n_in, n), ej.readouts.leaky(n, N_OUT))
    params = net.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (T, 1, n_in))
    ys = jax.random.normal(jax.random.key(2), (T, 1, N_OUT))
    return ej.rtrl(net, LOSS), params, xs, ys


def checked(rule, params, xs, ys, what):
    """The relative error of steps one by one, held to autodiff of the network's own outputs."""
    net = rule.spec.network

    def loss(params, xs, ys):
        outputs = net.apply(params, xs).outputs
        each = jax.vmap(LOSS)(outputs[:, 0], ys[:, 0])
        return each.sum()

    both = ej.value_and_grad(rule, chunk=1), jax.value_and_grad(loss)
    found, wanted = in_float64(both, params, xs, ys)
    return held(found, wanted, what)


def least(calls, repeats):
    """{name: function of nothing} -> {name: seconds}, the least of interleaved runs."""
    return {name: min(t) for name, t in harness.interleaved(calls, (), repeats).items()}


def product(*shapes):
    """A product of two matrices of these shapes, compiled, and what it multiplies."""
    key = jax.random.key(3)
    args = [jax.random.normal(jax.random.fold_in(key, k), s) for k, s in enumerate(shapes)]
    f = jax.jit(jnp.matmul).lower(*args).compile()
    return lambda: f(*args)


def donating(program, params, carry, xs, ys):
    """Steps that go on from each other in the same buffers."""
    kept = [jax.tree.map(jnp.copy, carry)]

    def call():
        kept[0], out = program(params, kept[0], xs, ys)
        return kept[0], out

    return call


def case(unit, n, repeats):
    rule, params, xs, ys = problem(unit, n, 32)
    error = checked(rule, params, xs, ys, f"{unit} {n}")
    carry, one = rule.init(params, (1,)), (xs[:1], ys[:1])
    step = lambda params, carry, xs, ys: rule.step(params, carry, xs, ys)
    program = lambda **given: jax.jit(step, **given).lower(params, carry, *one).compile()
    plain = program()
    lines = sum(x.size for x in jax.tree.leaves(params["cell"])) // n
    shape, components = ((n, n), (n, lines * n)), len(jax.tree.leaves(carry.state.c))
    calls = {
        "step": lambda: plain(params, carry, *one),
        "donated": donating(program(donate_argnums=1), params, carry, *one),
        "product": product(*shape),
        "large": product((1024, 1024), (1024, 1024)),
    }
    seconds = least(calls, repeats)
    work = 2 * n * n * lines * n  # of one component that w_rec drives, as in all of these units
    rate = max(work / seconds["product"], 2 * 1024**3 / seconds["large"])
    floor = work / rate
    return [
        {
            "case": f"{unit} n={n}, {lines} lines",
            "what": what,
            "ms": 1e3 * seconds[of],
            "floor, ms": 1e3 * floor,
            "step / floor": seconds[of] / floor,
            "a component": seconds[of] / floor / components,
            "product / floor": seconds["product"] / floor,
            "Gflop/s": rate / 1e9,
            "error": error,
        }
        for what, of in (("carry kept", "step"), ("carry donated", "donated"))
    ]


def large(n, chunk, before):
    """In a process of its own: MB at its peak above `before`, of the compiled program, and seconds."""
    rule, params, xs, ys = problem("alif", n, 1 if chunk == 1 else 4 * n, n)
    if chunk == 1:
        args = params, rule.init(params, (1,)), xs, ys
        f = jax.jit(lambda *args: rule.step(*args)).lower(*args).compile()
    else:
        args = params, xs, ys
        f = harness.compiled(ej.value_and_grad(rule, chunk=chunk), args)[0]
    jax.block_until_ready(f(*args))
    start = time.perf_counter()
    jax.block_until_ready(f(*args))
    seconds = time.perf_counter() - start
    peak = (harness.peak_bytes() - before) / 1e6
    print(json.dumps([peak, total_bytes(f) / 1e6, 1e3 * seconds / len(xs)]))


def memory(n, chunk, what):
    code = (
        "from benchmarks import harness; before = harness.peak_bytes()\n"  # it imports jax alone
        f"from benchmarks import floor; floor.large({n}, {chunk!r}, before)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    peak, compiled, ms = json.loads(done.stdout)
    title = f"alif n={n}, {2 * n + 1} lines"
    return [{"case": title, "what": what, "ms": ms, "peak MB": peak, "compiled MB": compiled}]


COLUMNS = ["case", "what", "ms", "floor, ms", "step / floor", "a component"]
COLUMNS += ["product / floor", "Gflop/s", "peak MB", "compiled MB", "error"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--small", action="store_true", help="small sizes, which say nothing")
    small, rows = parser.parse_args().small, []
    sizes, big, repeats = ((8,), 16, 3) if small else ((64, 128), 256, 25)
    for unit in ("alif", "leaky_rnn", "gru"):
        for n in sizes:
            rows += case(unit, n, repeats)
            print(harness.table(rows[-2:], COLUMNS), flush=True)
    rows += memory(big, 1, "one step, the carry and its temporaries")
    rows += memory(big, "auto", 'the sequence, chunk="auto"; ms a step')
    note = "\n\n".join(__doc__.split("\n\n")[2:]).strip()
    harness.write("floor_small" if small else "floor", rows, COLUMNS, note)


if __name__ == "__main__":
    main()
