"""A convolutional spiking network names handwritten digits, under each rule, beside a dense one.

    python -m benchmarks.conv_digits

Each digit (8 × 8 pixels) is a constant current for 20 steps, and is named by the read-out's mean over
the last ten. Two LIF layers without recurrent synapses, convolutions of 3 × 3 in the one network and
dense in the other, 512 (8 × 8 places, 8 channels) and 256 units (4 × 4, 16), then 32 recurrent ALIF
units and a leaky read-out. Where it hears the top layer alone, order 2 reaches two of the three layers,
and is refused; 3 is the smallest that reaches all. Where it hears the upper two (`reads`), order 2
reaches all. The settings were chosen under BPTT and the control, on the last 297 training digits;
here all 1347 are trained on, for 300 updates of 64 digits. "Accuracy" is of the 450 test digits in %,
mean ± sd over three seeds; "ratio" the time of an update, Adam included, as a share of BPTT's of the
same network (median of interleaved runs, quartiles beside it); "spikes" are those a unit and step of
each layer, on test digits, after training. In "lower layers frozen", the control, both stay as they
were drawn.
"""

import math
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import optax

import eprop_jax as ej
from benchmarks import harness

LOSS = ej.losses.masked(ej.losses.softmax_cross_entropy)
SIDE, STEPS, BATCH, UPDATES, SEEDS, REPEATS = 8, 20, 64, 300, 3, 100
LEARNING_RATE, ORDER, LOWER = 5e-3, 3, 2
TOP, UPPER_TWO = (2,), (1, 2)
"""the layers that the read-out hears"""


def by_order(m):
    return lambda net, loss: ej.m_order_eprop(net, loss, order=m)


RULES = {
    "BPTT": ej.bptt,
    "i*f*": lambda net, loss: ej.by_paths(net, loss, paths="i*f*"),
    "(i|f)*": lambda net, loss: ej.by_paths(net, loss, paths="(i|f)*"),
    f"order {ORDER}": by_order(ORDER),
}
"""where it hears the top layer; and where it hears the upper two"""
RULES_OF_TWO = {"BPTT": ej.bptt, f"order {ORDER - 1}": by_order(ORDER - 1)}


def network(convolutional, channels=(8, 16), top=32, reads=TOP):
    """Two layers of the same sizes, convolutional or dense; a recurrent one; a read-out."""
    pixels = (SIDE, SIDE, 1)
    first = ej.synapses.conv_shape(pixels, channels[0], (3, 3))
    second = ej.synapses.conv_shape(first, channels[1], (3, 3), stride=2)
    kinds = (None, None)
    if convolutional:
        kinds = (
            ej.synapses.conv(pixels, channels[0], (3, 3)),
            ej.synapses.conv(first, channels[1], (3, 3), stride=2),
        )
    sizes = [math.prod(grid) for grid in (pixels, first, second)]
    spiking = {"tau_m": 10.0, "gain_in": 2.0}
    lower = [
        ej.cells.lif(m, n, w_in=kind, drives=("w_in", "bias"), **spiking)
        for m, n, kind in zip(sizes, sizes[1:], kinds)
    ]
    upper = ej.cells.alif(sizes[-1], top, tau_a=20.0, **spiking)
    heard = sum((*sizes[1:], top)[l] for l in reads)
    readout = ej.readouts.leaky(heard, ej.tasks.CLASSES, tau=10.0, gain=0.3)
    return ej.Network([*lower, upper], readout, reads=reads)


def show(images, labels, steps=STEPS):
    """Images [B, 8, 8] as constant currents: xs [T, B, 64], and (labels, weights) [T, B]."""
    many = (steps, len(labels))
    late = (np.arange(steps) >= steps // 2).astype(images.dtype) / (steps - steps // 2)
    xs = jnp.broadcast_to(images.reshape(1, len(labels), -1), (*many, SIDE * SIDE))
    return xs, (jnp.broadcast_to(labels, many), jnp.broadcast_to(late[:, None], many))


def updater(rule, optimizer):
    """(params, opt_state, xs, ys) -> the first two after one update, loss and gradient."""
    gradient = ej.value_and_grad(rule)

    def update(params, opt_state, xs, ys):
        loss, grads = gradient(params, xs, ys)
        changes, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, changes), opt_state, loss, grads

    return update


def frozen(optimizer):
    """The same, which leaves the lower layers as they are."""
    lower = lambda path, _: path[0].key == "cell" and path[1].idx < LOWER
    still = lambda params: jax.tree.map_with_path(lower, params)
    return optax.chain(optimizer, optax.masked(optax.set_to_zero(), still))


def adam():
    return optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, UPDATES))


def train(update, optimizer, params, batches, present):
    # Not as one `lax.scan` over updates (`ej.train`): XLA's convolutions on CPU are several times
    # slower inside a loop.
    opt_state = optimizer.init(params)
    for indices in batches:
        params, opt_state, *_ = update(params, opt_state, *present(indices))
    return params


def case(net, rule, optimizer, data):
    """Accuracy of each seed in %, and spikes a unit and step of each layer."""
    update, run = jax.jit(updater(rule, optimizer)), jax.jit(net.apply)
    images, labels = jnp.asarray(data.train_images), jnp.asarray(data.train_labels)
    present = jax.jit(lambda indices: show(images[indices], labels[indices]))
    xs, ys = show(jnp.asarray(data.test_images), jnp.asarray(data.test_labels))
    accuracy, spikes = [], []
    for seed in range(SEEDS):
        k_net, k_data = jax.random.split(jax.random.key(seed))
        batches = ej.tasks.batches(k_data, len(labels), BATCH, UPDATES)
        params = train(update, optimizer, net.init(k_net), batches, present)
        found = run(params, xs)
        accuracy.append(100 * float(ej.training.accuracy(found.outputs, ys)))
        spikes.append([float(h.mean()) for h in found.activity])
    return accuracy, np.mean(spikes, 0)


def times(net, rules, data):
    """{rule: what an update takes}, once every gradient is seen to reach every parameter."""
    xs, ys = show(jnp.asarray(data.train_images[:BATCH]), jnp.asarray(data.train_labels[:BATCH]))
    params = net.init(jax.random.key(0))
    for name, rule in rules.items():
        grads = jax.jit(ej.value_and_grad(rule))(params, xs, ys)[1]
        if not all(bool(jnp.any(g != 0)) for g in jax.tree.leaves(grads)):
            raise AssertionError(f"{name}: a gradient is zero")
    updates = {name: updater(rule, adam()) for name, rule in rules.items()}
    rows = harness.measure("", updates, (params, adam().init(params), xs, ys), REPEATS)
    return {row["what"]: row for row in rows}


def rows_of(convolutional, reads, data):
    net = network(convolutional, reads=reads)
    weights = sum(x.size for x in jax.tree.leaves(net.init(jax.random.key(0))))
    title = f"{'convolutional' if convolutional else 'dense'}, {weights} parameters"
    title += ", upper two heard" if reads == UPPER_TWO else ""
    rules = RULES_OF_TWO if reads == UPPER_TWO else RULES
    rules = {name: make(net, LOSS) for name, make in rules.items()}
    timed = times(net, rules, data)
    runs = [(name, rule, adam()) for name, rule in rules.items()]
    runs.append(("BPTT, lower layers frozen", rules["BPTT"], frozen(adam())))
    for name, rule, optimizer in runs:
        accuracy, spikes = case(net, rule, optimizer, data)
        mean, sd = statistics.mean(accuracy), statistics.stdev(accuracy)
        row = {
            "network": title,
            "rule": name,
            "accuracy": f"{mean:.1f} ± {sd:.1f}",
            "each seed": ", ".join(f"{x:.1f}" for x in accuracy),
            "spikes": ", ".join(f"{x:.2f}" for x in spikes),
        }
        if name in timed:
            row |= {k: f"{timed[name][k]:.2f}" for k in ("ratio", "low", "high")}
            row["ms"] = timed[name]["ms"]
        print(row, flush=True)
        yield row


def main():
    data = ej.tasks.digits()
    networks = [(kind, reads) for reads in (TOP, UPPER_TWO) for kind in (True, False)]
    rows = [row for each in networks for row in rows_of(*each, data)]
    columns = ["network", "rule", "accuracy", "each seed", "ratio", "low", "high", "ms", "spikes"]
    harness.write("conv_digits", rows, columns, __doc__.split("\n\n")[2].strip().replace("\n", " "))


if __name__ == "__main__":
    main()
