"""A sweep of 16 seeds in one vmapped call against sixteen single runs of one compiled program.

Each run trains n = 32 units on delayed XOR from weights and batches of its own; time is without
compiling. The largest difference of a seed's parameters between the two ways is given beside it.

    python -m benchmarks.sweep
"""

import functools

import jax
import jax.numpy as jnp
import optax

import eprop_jax as ej
from benchmarks import harness

SEEDS, UPDATES = 16, 20
TASK = ej.tasks.delayed_xor(cue=10, gap=5, delay=20, recall=10)
LOSS = ej.losses.masked(ej.losses.softmax_cross_entropy)
CELLS = {"gru": ej.cells.gru, "alif": functools.partial(ej.cells.alif, tau_a=50.0)}
RULES = {"e-prop": ej.eprop, "BPTT": ej.bptt}


def case(cell, rule, batch):
    net = ej.Network(CELLS[cell](40, 32), ej.readouts.leaky(32, 2))
    made = RULES[rule](net, LOSS)

    def one(key):
        k_net, k_data = jax.random.split(key)
        sampler = functools.partial(TASK, batch=batch)
        state, log = ej.train(made, optax.adam(1e-3), net.init(k_net), sampler, UPDATES, key=k_data)
        return state.params, log["loss"]

    single = jax.jit(one)
    keys = jax.random.split(jax.random.key(0), SEEDS)

    def sixteen(keys):
        return jax.tree.map(lambda *x: jnp.stack(x), *[single(k) for k in keys])

    together = jax.jit(jax.vmap(one))
    args = (keys,)
    for f in (sixteen, together):
        jax.block_until_ready(f(*args))
    times = harness.interleaved({"sixteen": sixteen, "together": together}, args, 5)
    (p, loss), (q, _) = sixteen(keys), together(keys)
    ratios = sorted(b / a for a, b in zip(times["sixteen"], times["together"]))
    difference = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), p, q)
    return {
        "cell": cell,
        "rule": rule,
        "batch": batch,
        "one call / 16 runs": ratios[2],
        "low": ratios[0],
        "high": ratios[-1],
        "largest difference": max(jax.tree.leaves(difference)),
        "loss fell from": float(loss[:, 0].mean()),
        "to": float(loss[:, -1].mean()),
    }


def main():
    rows = [case(c, r, b) for c in CELLS for r in RULES for b in (1, 8, 32)]
    harness.write("sweep", rows, list(rows[0]), __doc__.split("\n\n")[1].replace("\n", " "))


if __name__ == "__main__":
    main()
