"""A stream with no end: does the online learner follow a change, in constant memory, with true traces?

    python -m benchmarks.stream [--quick]

At each step a value comes in, drawn from [−1, 1], and now and then cue A or cue B fires (each with
probability 0.05 a step). Up to the change, halfway, the target is the value seen when A last fired;
from then on the value seen when B last fired. So the cell has to hold a value for some 20 steps, and
all that it learnt to hold is wrong after the change. A GRU of 32 units, batch 1, `ej.online` with
optax.adam and an update every 100 steps; nothing is ever reset.

"error" is the mean squared error of the 1e4 steps up to "step", in units of the target's variance: a
constant answer gets 1, and knowing the wrong value 2. "frozen" is what the same network gets with
the weights that it had at the change. "resident MB" is the process's memory, "carry kB" the state
and traces.

"trace error" is what float32 costs. Beside the learner runs the same rule in float64, from the same
zero state on the same inputs, at the learner's own weights as they move: before each update its
float32 weights are taken as float64 numbers. The state and the traces of the float64 run are its
own throughout; nothing is copied over. Every 1e4 steps each array of traces is compared,
|float32 − float64| / |float64|; the column is the largest of all arrays and of ten comparisons.
"state error" is that of the hidden state. A GRU is smooth. With spiking units there would be nothing
to compare: one spike that falls on the other side of the threshold, and the two runs part for good.
"""

import argparse
import functools
import pathlib
import resource
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import eprop_jax as ej
from benchmarks import harness

RULES = {"e-prop": ej.eprop, "RTRL": ej.rtrl}
BLOCK = 10_000
VARIANCE = 1 / 3  # of a value drawn from [−1, 1]


class Stream(NamedTuple):
    """What the stream does, and what it remembers: nothing of it is stored."""

    key: Any
    change: int
    cues: float
    """probability that a cue fires at a step"""

    def part(self, held, start, steps):
        """(xs [steps, 3], ys [steps, 1], held [2]) from step `start` on; `held` [2] are the values
        that the last A and the last B left. Step t depends on the key and on t alone."""
        t = start + jnp.arange(steps, dtype=jnp.int32)
        u = jax.vmap(lambda t: jax.random.uniform(jax.random.fold_in(self.key, t), 3, jnp.float32))
        value, *fires = u(t).T
        value, fires = 2 * value - 1, [(f < self.cues) for f in fires]
        last = [jax.lax.cummax(jnp.where(f, jnp.arange(steps), -1)) for f in fires]
        held = [jnp.where(i >= 0, value[jnp.maximum(i, 0)], h) for i, h in zip(last, held)]
        xs = jnp.stack([value, *(f.astype(jnp.float32) for f in fires)], 1)
        ys = jnp.where(t < self.change, *held)[:, None]
        return xs, ys, jnp.stack([h[-1] for h in held])


def follow(rule, stream, steps, *, units=32, every=100, rate=1e-2, block=BLOCK, report=None):
    """Learn from the stream; one row a block of steps. Needs 64-bit floats enabled."""
    net = ej.Network(ej.cells.gru(3, units), ej.readouts.linear(units, 1))
    rule, forward = rule(net, ej.losses.squared_error), ej.bptt(net, ej.losses.squared_error)
    learner = ej.online(rule, optax.adam(rate), every=every)
    error = lambda out: 2 * jnp.mean(out.losses) / VARIANCE

    def program(update, total):
        """`update` over a block, (carry, held) threaded through. Compiled here and now: a program
        compiled in mid-stream would be counted as memory that the stream takes."""

        def one(total, start):
            carry, held = total
            xs, ys, held = stream.part(held, start, every)
            carry, out = update(carry, xs, ys)
            return (carry, held), error(out)

        def whole(total, start):
            starts = start + every * jnp.arange(block // every, dtype=jnp.int32)
            total, errors = jax.lax.scan(one, total, starts)
            return total, jnp.mean(errors)

        return jax.jit(whole).lower(total, jnp.int32(0)).compile()

    def learn(carry, xs, ys):
        state, reference = carry
        reference, _ = rule.step(wide(state.params), reference, *wide((xs, ys)))
        state, out = learner.step(state, xs, ys)
        return (state, reference), out

    def stay(carry, xs, ys):
        params, carry = carry
        carry, out = forward.step(params, carry, xs, ys)
        return (params, carry), out

    def freeze(total):
        (state, _), held = total
        return (state.params, ej.Carry(state.carry.state)), held

    params = narrow(net.init(jax.random.key(0)))
    total = (learner.init(params), rule.init(wide(params))), jnp.zeros(2, jnp.float32)
    learning, staying = program(learn, total), program(stay, freeze(total))
    comparing = jax.jit(compare).lower(total).compile()
    frozen, rows = None, []
    for start in range(0, steps, block):
        if start == stream.change:
            frozen = freeze(total)
        total, now = learning(total, jnp.int32(start))
        row = {"step": start + block, "error": float(now)}
        if frozen is not None:
            frozen, now = staying(frozen, jnp.int32(start))
            row["frozen"] = float(now)
        carry = jax.tree.leaves(total[0][0].carry)
        row |= {
            "resident MB": resident() / 1e6,
            "carry kB": sum(x.nbytes for x in carry) / 1e3,
            **{name: float(x) for name, x in comparing(total).items()},
        }
        rows.append(row)
        if report is not None:
            report(row)
    return rows


wide = functools.partial(jax.tree.map, lambda x: x.astype(jnp.float64))
narrow = functools.partial(jax.tree.map, lambda x: x.astype(jnp.float32))


def traces(carry):
    return carry._replace(state=())


def compare(total):
    (state, reference), _ = total
    return {
        "trace error": worst(traces(state.carry), traces(reference)),
        "state error": worst(state.carry.state.c, reference.state.c),
    }


def worst(got, wanted):
    """The largest relative error of an array, the other being in float64."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True)
    square = lambda x: jnp.sum(x**2)
    return jnp.max(jnp.array([jnp.sqrt(square(wide(a) - b) / square(b)) for a, b in pairs]))


def resident():
    """Bytes of memory that the process holds; where the system does not say, the most it ever held."""
    statm = pathlib.Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def tenths(name, blocks):
    """A row for every ten blocks: the last one's numbers, and the worst of the errors of float32."""
    rows = []
    for i in range(0, len(blocks), 10):
        ten = blocks[i : i + 10]
        most = {k: max(b[k] for b in ten) for k in ("trace error", "state error")}
        rows.append({"rule": name, **ten[-1], **most, "curve": [b["error"] for b in ten]})
    return rows


def summary(name, blocks, change):
    """The bars, in numbers."""
    before = [b["error"] for b in blocks if b["step"] <= change]
    after = [b["error"] for b in blocks if b["step"] > change]
    settled = [b["resident MB"] for b in blocks[len(blocks) // 10 :]]
    spread = 100 * (max(settled) - min(settled)) / min(settled)
    carry = {b["carry kB"] for b in blocks}
    return (
        f"{name}: error {before[-1]:.4f} before the change, {after[0]:.2f} in the 1e4 steps after it, "
        f"{after[-1]:.4f} at the end, where frozen weights get {blocks[-1]['frozen']:.2f}. Resident "
        f"memory, after the first tenth of the stream: {spread:.2f} % from the least to the most. The "
        f"carry: {', '.join(f'{x:g}' for x in carry)} kB throughout. Largest trace error "
        f"{max(b['trace error'] for b in blocks):.1e}."
    )


def figure(runs, change, path):
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(3, 1, figsize=(8, 7), sharex=True, layout="constrained")
    for i, (name, blocks) in enumerate(runs.items()):
        step = [b["step"] for b in blocks]
        looks = {"color": f"C{i}", "label": name}
        axes[0].semilogy(step, [b["error"] for b in blocks], **looks)
        still = [b for b in blocks if "frozen" in b]
        axes[0].semilogy(
            [b["step"] for b in still], [b["frozen"] for b in still], ["--", ":"][i], color=f"C{i}",
            label=f"{name}, weights frozen at the change",
        )  # fmt: skip
        first = blocks[len(blocks) // 10]["resident MB"]
        axes[1].plot(step, [b["resident MB"] / first for b in blocks], **looks)
        axes[2].semilogy(step, [b["trace error"] for b in blocks], **looks)
    axes[1].set(ylim=(0.97, 1.03))
    axes[1].axhspan(0.99, 1.01, color="0.92", linewidth=0, zorder=0)
    axes[2].axhline(1e-3, color="0.6", linestyle=":")
    labels = [
        "squared error /\nvariance of the target",
        "resident memory /\nafter a tenth",
        "trace error,\nfloat32 to float64",
    ]
    for ax, label in zip(axes, labels):
        ax.axvline(change, color="0.6", linewidth=0.8)
        ax.set_ylabel(label)
        ax.grid(alpha=0.3)
    axes[0].legend(fontsize="small", loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2)
    axes[2].set_xlabel("step of the stream")
    fig.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a fifth of the stream")
    steps = 200_000 if parser.parse_args().quick else 1_000_000
    jax.config.update("jax_enable_x64", True)
    stream = Stream(jax.random.key(1), steps // 2, 0.05)
    runs, began = {}, time.perf_counter()
    for name, rule in RULES.items():
        say = lambda row, name=name: row["step"] % (steps // 10) or print(name, row, flush=True)
        runs[name] = follow(rule, stream, steps, report=say)
    minutes = (time.perf_counter() - began) / 60
    bars = "\n\n".join(summary(name, blocks, stream.change) for name, blocks in runs.items())
    columns = ["rule", "step", "error", "frozen", "resident MB", "carry kB", "trace error",
               "state error"]  # fmt: skip
    rows = [row for name, blocks in runs.items() for row in tenths(name, blocks)]
    about = __doc__.split("\n\n", 2)[2].strip()
    harness.write("stream", rows, columns, f"{about}\n\n{bars}\n\nAll in {minutes:.1f} minutes.")
    try:
        figure(runs, stream.change, harness.OUT / "stream.png")
    except ImportError:
        print("no figure: matplotlib is not installed")


if __name__ == "__main__":
    main()
