"""What each order buys: cosine and relative error to BPTT against the order m.

    python -m benchmarks.fidelity [--quick]

Over recurrent strength (the gain of W_rec) and sequence length, for a leaky rate network and an ALIF
network of 64 units with random inputs and targets; beside it, what each order costs (`ej.cost`,
whole sequence, relative to order 1). Writes a figure where matplotlib is there.
"""

import argparse

import jax
import jax.numpy as jnp

import eprop_jax as ej
from benchmarks import harness

LOSS = ej.losses.squared_error
CELLS = {
    "leaky rate": lambda gain: ej.cells.leaky_rnn(20, 64, tau=5.0, gain_rec=gain),
    "ALIF": lambda gain: ej.cells.alif(20, 64, v_th=0.6, tau_m=10.0, gain_in=2.0, gain_rec=gain),
}


def fidelity(cell, gain, T, orders):
    net = ej.Network(CELLS[cell](gain), ej.readouts.leaky(64, 2, tau=5.0))
    params = net.init(jax.random.key(0))
    xs = (jax.random.uniform(jax.random.key(1), (T, 16, 20)) < 0.2).astype(jnp.float32)
    ys = jax.random.normal(jax.random.key(2), (T, 16, 2))
    rules = {m: ej.m_order_eprop(net, LOSS, order=m) for m in orders}
    report = ej.compare(rules, params, xs, ys)
    work = {m: ej.cost(rule, params, (16,), None).multiply_adds for m, rule in rules.items()}
    return [
        {
            "cell": cell,
            "gain": gain,
            "T": T,
            "m": m,
            "cosine": float(report.overall[m].cosine),
            "relative error": float(report.overall[m].relative_error),
            "cost": work[m] / work[orders[0]],
        }
        for m in orders
    ]


def figure(rows, path):
    import matplotlib.pyplot as plt

    settings = sorted({(r["gain"], r["T"]) for r in rows})
    cells = list(dict.fromkeys(r["cell"] for r in rows))
    fig, axes = plt.subplots(1, len(cells), figsize=(10, 3.6), sharey=True)
    for ax, cell in zip(axes, cells):
        for (gain, T), marker in zip(settings, "osD^v<>"):
            line = [r for r in rows if (r["cell"], r["gain"], r["T"]) == (cell, gain, T)]
            ax.semilogy(
                [r["m"] for r in line],
                [r["relative error"] for r in line],
                marker=marker,
                label=f"gain {gain:g}, T = {T}",
            )
        ax.set(title=cell, xlabel="order m", xscale="log")
        ax.set_xticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("relative error to BPTT")
    axes[0].legend(fontsize=8)
    fig.tight_layout()
    fig.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one setting a cell")
    quick = parser.parse_args().quick
    settings = [(1.0, 64)] if quick else [(0.5, 64), (1.0, 64), (2.0, 64), (1.0, 16), (1.0, 256)]
    rows = [
        row
        for cell in CELLS
        for gain, T in settings
        for row in fidelity(cell, gain, T, (1, 2, 4, 8, 16))
    ]
    columns = ["cell", "gain", "T", "m", "cosine", "relative error", "cost"]
    harness.write("fidelity", rows, columns, __doc__.split("\n\n")[2].replace("\n", " "))
    try:
        figure(rows, harness.OUT / "fidelity.png")
    except ImportError:
        print("no figure: matplotlib is not installed")


if __name__ == "__main__":
    main()
