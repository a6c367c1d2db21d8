"""Rules that no language of paths tells: how near SnAp comes to the exact gradient, hop by hop, and
what UORO's mean and spread are.

    python -m benchmarks.beyond_paths

SnAp-n keeps RTRL's entries within n − 1 hops: on a ring of 6 units, each with two neighbours, three
hops reach all, and the rest is rounding (float64). The deviation is ‖g − g_BPTT‖ / ‖g_BPTT‖ of the
recurrent weights, over 10 sequences of 50 steps; braintrace's documentation gives .23, 5e-3, 6e-4,
2e-4, 8e-8 for a ring of its own. UORO is unbiased: the mean of its draws is held to RTRL, in standard
errors.
"""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

import eprop_jax as ej
from benchmarks import harness

LOSS = ej.losses.squared_error
RING, DRAWS = 6, 20_000


def ring(n):
    """Each unit hears its two neighbours."""
    return ej.synapses.sparse(edges=[((j + d) % n, j) for j in range(n) for d in (-1, 1)])


def problem(cell, readout, T, batch):
    net = ej.Network(cell, readout)
    params = jax.tree.map(lambda x: x.astype(float), net.init(jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), 2)
    xs = 2 * jax.random.normal(keys[0], (T, batch, cell.n_in))
    return net, params, xs, jax.random.normal(keys[1], (T, batch, readout.n_out))


def gradient(rule, params, xs, ys):
    return ej.value_and_grad(rule)(params, xs, ys)[1]["cell"]


def of_snap():
    """(n, places a unit reaches, deviation) for n = 1 … 5."""
    cell = ej.cells.leaky_rnn(2, RING, decay=0.6, gain_rec=1.0, w_rec=ring(RING))
    net, params, xs, ys = problem(cell, ej.readouts.leaky(RING, 2), 50, 10)
    exact = gradient(ej.bptt(net, LOSS), params, xs, ys)["w_rec"]
    for n in range(1, 6):
        rule = ej.snap(net, LOSS, order=n)
        alpha = rule.init(params, (10,)).alpha["bias"]
        got = gradient(rule, params, xs, ys)["w_rec"]
        deviation = float(jnp.linalg.norm(got - exact) / jnp.linalg.norm(exact))
        yield n, jax.tree.leaves(alpha)[0].shape[1], deviation


def of_uoro():
    """(largest |mean − RTRL| in standard errors, parameters, spread of one draw / ‖RTRL‖)."""
    net, params, xs, ys = problem(ej.cells.gru(2, 3), ej.readouts.leaky(3, 2), 6, 2)
    wanted = jax.flatten_util.ravel_pytree(gradient(ej.rtrl(net, LOSS), params, xs, ys))[0]

    @jax.jit
    def drawn(keys):
        of = lambda key: gradient(ej.uoro(net, LOSS, key=key), params, xs, ys)
        return jax.vmap(lambda key: jax.flatten_util.ravel_pytree(of(key))[0])(keys)

    keys = jax.random.split(jax.random.key(0), DRAWS)
    draws = np.concatenate([drawn(keys[i : i + 2000]) for i in range(0, DRAWS, 2000)])
    error = np.abs(draws.mean(0) - wanted) / (draws.std(0, ddof=1) / DRAWS**0.5)
    spread = float(np.sqrt(draws.var(0).sum()) / np.linalg.norm(wanted))
    return float(error.max()), len(wanted), spread


def draw(rows):
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(4.5, 3.2), layout="constrained")
    ax.semilogy([n for n, _, _ in rows], [max(x, 1e-17) for *_, x in rows], "o-")
    for n, places, x in rows:
        ax.annotate(f"{places} of {RING}", (n, max(x, 1e-17)), (5, 5), textcoords="offset points")
    ax.set(xlabel="n of SnAp-n (units reached beside the points)", ylabel="deviation from BPTT",
           xticks=[n for n, _, _ in rows], title=f"a ring of {RING} units")  # fmt: skip
    fig.savefig(harness.OUT / "beyond_paths.png", dpi=120)


def main():
    jax.config.update("jax_enable_x64", True)
    snap = list(of_snap())
    draw(snap)
    worst, parameters, spread = of_uoro()
    rows = [
        {"what": f"SnAp-{n}, deviation from BPTT", "found": x, "detail": f"{places} units reached"}
        for n, places, x in snap
    ]
    rows += [
        {"what": f"UORO, {DRAWS} draws: largest deviation of the mean, in standard errors",
         "found": worst, "detail": f"{parameters} parameters of a GRU of 3"},
        {"what": "UORO, spread of one draw / norm of the gradient", "found": spread, "detail": ""},
    ]  # fmt: skip
    harness.write("beyond_paths", rows, ("what", "found", "detail"), __doc__.split("\n\n")[2])


if __name__ == "__main__":
    main()
