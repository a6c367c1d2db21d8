"""The paper's Table 1, measured: how time and memory grow with n and with T.

    python -m benchmarks.scaling [--quick]

Exponents are least-squares slopes of log(time a step) and log(bytes) against log n or log T, over
the larger sizes, beside what the paper's table says and what `ej.cost` predicts from the sizes.
Memory is the compiled program's temporary memory (`compile().memory_analysis()`). ALIF units, batch 1.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

import eprop_jax as ej
from benchmarks import harness

LOSS = ej.losses.squared_error


def point(make_rule, n, T, chunk):
    """(seconds a step, temporary bytes, predicted multiply-adds a step)."""
    net = ej.Network(ej.cells.alif(n, n), ej.readouts.leaky(n, 2))
    params = net.init(jax.random.key(0))
    xs = (jax.random.uniform(jax.random.key(1), (T, 1, n)) < 0.1).astype(jnp.float32)
    ys = jax.random.normal(jax.random.key(2), (T, 1, 2))
    rule = make_rule(net, LOSS)
    f, _, temp = harness.compiled(ej.value_and_grad(rule, chunk=chunk), (params, xs, ys))
    times = harness.interleaved({"": f}, (params, xs, ys), 5)[""]
    return sorted(times)[2] / T, temp, ej.cost(rule, params, (1,), chunk).multiply_adds


def slope(x, y):
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


# what, rule, sizes n, T of n, chunk of n, the paper's exponents in n (p = n²): time a step, memory
IN_N = [
    ("BPTT", ej.bptt, (128, 256, 512), lambda n: 256, None, 2, 1),
    ("e-prop, K = 1", ej.eprop, (128, 256, 512), lambda n: 64, lambda n: 1, 2, 2),
    ("e-prop, K = 128", ej.eprop, (128, 256, 512), lambda n: 512, lambda n: 128, 2, 2),
    ("RTRL, K = 1", ej.rtrl, (32, 64, 128), lambda n: 16, lambda n: 1, 4, 3),
    ("RTRL, K = 2n", ej.rtrl, (32, 64, 128, 256), lambda n: 8 * n, lambda n: 2 * n, 4, 3),
]
# the same in T, at n = 64 (RTRL: 32): time of the whole sequence, memory
IN_T = [
    ("BPTT", ej.bptt, 64, None, 1, 1),
    ("e-prop, K = 1", ej.eprop, 64, 1, 1, 0),
    ("e-prop, K = 128", ej.eprop, 64, 128, 1, 0),
    ("RTRL, K = 64", ej.rtrl, 32, 64, 1, 0),
]


def figure(rows, path):
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 2, figsize=(10, 3.8))
    for row, marker in zip(rows, "osD^v"):
        for ax, what in zip(axes, ("us a step", "temp_MB")):
            ax.loglog(row["sizes"], row[what], marker=marker, label=row["rule"], base=2)
    for ax, label in zip(axes, ("time a step (μs)", "temporary memory (MB)")):
        ax.set(xlabel="units n", ylabel=label)
        ax.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    fig.tight_layout()
    fig.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the two smallest sizes only")
    quick = parser.parse_args().quick
    rows = []
    for what, rule, sizes, T, chunk, time_paper, memory_paper in IN_N:
        sizes = sizes[:2] if quick else sizes
        points = [point(rule, n, T(n), chunk and chunk(n)) for n in sizes]
        seconds, temp, predicted = zip(*points)
        rows.append(
            {
                "rule": what,
                "against": f"n = {', '.join(map(str, sizes))}",
                "time": slope(sizes, seconds),
                "paper": time_paper,
                "ej.cost": slope(sizes, predicted),
                "memory": slope(sizes, temp),
                "paper's memory": memory_paper,
                "us a step": [round(1e6 * s, 1) for s in seconds],
                "temp_MB": [round(t / 1e6, 2) for t in temp],
                "sizes": sizes,
            }
        )
        print(what, rows[-1]["us a step"], flush=True)
    for what, rule, n, chunk, time_paper, memory_paper in IN_T:
        sizes = (512, 1024) if quick else (512, 1024, 2048, 4096)
        points = [point(rule, n, T, chunk) for T in sizes]
        seconds, temp, _ = zip(*points)
        rows.append(
            {
                "rule": what,
                "against": f"T = {', '.join(map(str, sizes))}",
                "time": slope(sizes, [s * T for s, T in zip(seconds, sizes)]),
                "paper": time_paper,
                "ej.cost": 1.0,
                "memory": slope(sizes, temp),
                "paper's memory": memory_paper,
                "us a step": [round(1e6 * s, 1) for s in seconds],
                "temp_MB": [round(t / 1e6, 2) for t in temp],
            }
        )
        print(what, rows[-1]["us a step"], flush=True)
    columns = ["rule", "against", "time", "paper", "ej.cost", "memory", "paper's memory"]
    columns += ["us a step", "temp_MB"]
    harness.write("scaling", rows, columns, __doc__.split("\n\n")[2].replace("\n", " "))
    try:
        figure([row for row in rows if "sizes" in row], harness.OUT / "scaling.png")
    except ImportError:
        print("no figure: matplotlib is not installed")


if __name__ == "__main__":
    main()
