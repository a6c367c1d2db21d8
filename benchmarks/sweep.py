"""A sweep of 16 seeds in one vmapped call against sixteen single runs of one compiled program.

Each run trains n = 32 units on delayed XOR from weights and batches of its own; time is without
compiling. The largest difference of a seed's parameters between the two ways is given beside it.
"plain" is the same training by `jax.value_and_grad` of a loop in plain jax.numpy, vmapped likewise.

    python -m benchmarks.sweep
"""

import functools
import statistics

import jax
import jax.numpy as jnp
import optax

import eprop_jax as ej
from benchmarks import harness, plain

SEEDS, UPDATES = 16, 20
TASK = ej.tasks.delayed_xor(cue=10, gap=5, delay=20, recall=10)
LOSS = ej.losses.masked(ej.losses.softmax_cross_entropy)
CELLS = {"gru": ej.cells.gru, "alif": ej.cells.alif}
RULES = {"e-prop": ej.eprop, "BPTT": ej.bptt}
ADAM = optax.adam(1e-3)


def ours(net, rule, params, sampler, key):
    made = RULES[rule](net, LOSS)
    state, log = ej.train(made, ADAM, params, sampler, UPDATES, key=key)
    return state.params, log["loss"]


def plain_loss(cell, params, xs, ys):
    """Σ_t mean_batch of the loss, for BPTT by autodiff."""
    step, n_states = plain.CELLS[cell]
    p, out = params["cell"], params["readout"]
    zero = jnp.zeros((xs.shape[1], out["w_out"].shape[0]))

    def body(carry, at_t):
        (state, h, y), (x, target) = carry, at_t
        state, h = step(p, state, x, h, None)
        y = plain.KAPPA * y + h @ out["w_out"] + out["bias"]
        return (state, h, y), jnp.sum(jax.vmap(LOSS)(y, target))

    start = ((zero,) * n_states, zero, jnp.zeros((xs.shape[1], 2)))
    return jnp.sum(jax.lax.scan(body, start, (xs, ys))[1]) / xs.shape[1]


def by_autodiff(cell, params, sampler, key):
    def update(carry, u):
        params, opt_state = carry
        batch = sampler(jax.random.fold_in(key, u))
        loss, grads = jax.value_and_grad(functools.partial(plain_loss, cell))(params, *batch)
        changes, opt_state = ADAM.update(grads, opt_state, params)
        return (optax.apply_updates(params, changes), opt_state), loss

    (params, _), losses = jax.lax.scan(update, (params, ADAM.init(params)), jnp.arange(UPDATES))
    return params, losses


def same_gradient(net, cell):
    """The plain loop is the same network and loss."""
    params, (xs, ys) = net.init(jax.random.key(0)), TASK(jax.random.key(1), 4)
    got = jax.grad(functools.partial(plain_loss, cell))(params, xs, ys)
    error = harness.relative_error(got, ej.value_and_grad(ej.bptt(net, LOSS))(params, xs, ys)[1])
    assert error < 1e-4, (cell, error)


def case(cell, rule, batch):
    net = ej.Network(CELLS[cell](40, 32), ej.readouts.leaky(32, 2))
    sampler = lambda key: TASK(key, batch)
    if rule == "plain":
        same_gradient(net, cell)

    def one(key):
        k_net, k_data = jax.random.split(key)
        params = net.init(k_net)
        if rule == "plain":
            return by_autodiff(cell, params, sampler, k_data)
        return ours(net, rule, params, sampler, k_data)

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
    seconds = statistics.median(times["together"])
    ratios = sorted(b / a for a, b in zip(times["sixteen"], times["together"]))
    difference = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), p, q)
    return {
        "cell": cell,
        "rule": rule,
        "batch": batch,
        "one call / 16 runs": ratios[2],
        "low": ratios[0],
        "high": ratios[-1],
        "ms, one call": 1e3 * seconds,
        "largest difference": max(jax.tree.leaves(difference)),
        "loss fell from": float(loss[:, 0].mean()),
        "to": float(loss[:, -1].mean()),
    }


def main():
    rows = [case(c, r, b) for c in CELLS for r in (*RULES, "plain") for b in (1, 8, 32)]
    harness.write("sweep", rows, list(rows[0]), __doc__.split("\n\n")[1].replace("\n", " "))


if __name__ == "__main__":
    main()
