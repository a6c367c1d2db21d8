"""A training run in a process of its own, for the tests that kill it. Prints each pause."""

import functools
import sys

import jax
import optax

import eprop_jax as ej

task = functools.partial(ej.tasks.delayed_xor(cue=5, gap=2, delay=10, recall=5), batch=8)
net = ej.Network(ej.cells.alif(40, 16, tau_a=50.0), ej.readouts.leaky(16, 2))
rule = ej.eprop(net, ej.losses.masked(ej.losses.softmax_cross_entropy), feedback="adaptive")
optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))


def start():
    trainer = ej.training.trainer(rule, optimizer, task)
    params = net.init(jax.random.key(0))
    params["feedback"] = ej.feedback.init(jax.random.key(1), net)
    return trainer, trainer.init(params, jax.random.key(2))


def main(folder, steps):
    trainer, state = start()
    if ej.checkpoints.steps(folder):
        state = ej.checkpoints.restore(folder, state)
    print("from", int(state.step), flush=True)
    ej.training.fit(
        trainer, state, steps, every=5, checkpoints=folder, progress=False,
        report=lambda row: print(row["step"], flush=True),
    )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
