"""How long a user waits for the first answer: import, and the first call in a fresh process.

    python -m benchmarks.first_call [--small]

Each figure is the least of several processes of its own, one after the other, without a compilation
cache. `plain` is the first call of `jax.value_and_grad` of the plain scan that a user would write; the
others are shares of it. Making the network, its parameters and its inputs is not counted, on either
side.
"""

import argparse
import subprocess
import sys
import time

from benchmarks import harness

BEGIN = """
import time, jax, jax.numpy as jnp
import eprop_jax as ej
from benchmarks import plain
LOSS = ej.losses.squared_error
net = ej.Network(ej.cells.{cell}(40, 100), ej.readouts.leaky(100, 2))
params = net.init(jax.random.key(0))
xs, ys = jnp.ones((128, 16, 40)), jnp.ones((128, 16, 2))
x_1, y_1 = xs[:1], ys[:1]
jax.block_until_ready((params, xs, ys, x_1, y_1))
start = time.perf_counter()
"""
CALLS = {
    "plain": "out = jax.jit(jax.value_and_grad(plain.loss_of('{cell}')))(params, xs, ys)",
    "e-prop, value_and_grad": "out = ej.value_and_grad(ej.eprop(net, LOSS))(params, xs, ys)",
    "BPTT, value_and_grad": "out = ej.value_and_grad(ej.bptt(net, LOSS))(params, xs, ys)",
    "e-prop, init and first step of one": """
rule = ej.eprop(net, LOSS)
carry = rule.init(params, (16,))
out = rule.step(params, carry, x_1, y_1)""",
}
END = """
jax.block_until_ready(out)
print(time.perf_counter() - start)
"""
IMPORTS = {
    "import jax": "import jax, jax.numpy",
    "import eprop_jax": "import jax, jax.numpy, eprop_jax",
}


def printed(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def imported(code):
    timed = f"import time; start = time.perf_counter(); {code}; print(time.perf_counter() - start)"
    return printed(timed)


def row(case, what, seconds, ratio, bar):
    return {"case": case, "what": what, "seconds": seconds, "ratio": ratio, "bar": bar}


def first_calls(cell, repeats):
    found = {}
    for _ in range(repeats):
        for name, call in CALLS.items():
            code = (BEGIN + call + END).format(cell=cell)
            found[name] = min(found.get(name, float("inf")), printed(code))
    return [row(f"{cell} n=100 T=128 B=16", name, s, s / found["plain"], 1.5)
            for name, s in found.items()]  # fmt: skip


def imports(repeats):
    found = {}
    for _ in range(repeats):
        for name, code in IMPORTS.items():
            found[name] = min(found.get(name, float("inf")), imported(code))
    over = found["import eprop_jax"] - found["import jax"]
    return [
        row("import", "jax", found["import jax"], "", ""),
        row("import", "eprop_jax, over jax", over, "", "0.4 s"),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--small", action="store_true", help="one process each, which says little")
    args = parser.parse_args()
    begin, repeats = time.perf_counter(), 1 if args.small else 3
    rows = imports(repeats)
    for cell in ("lif", "alif", "lstm")[: 1 if args.small else 3]:
        rows += first_calls(cell, repeats)
    note = __doc__.split("\n\n")[2].replace("\n", " ")
    columns = ["case", "what", "seconds", "ratio", "bar"]
    name = "first_call_small" if args.small else "first_call"
    harness.write(name, rows, columns, f"{note} ({time.perf_counter() - begin:.0f} s.)")


if __name__ == "__main__":
    main()
