"""What tests/test_sharding.py runs in processes of their own: 8 devices in one, or 2 in each of a
pair. Results are printed as JSON, or written as arrays."""

import json
import os
import pathlib
import signal
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    f"--xla_force_host_platform_device_count={8 if sys.argv[1] == 'check' else 2} "
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import eprop_jax as ej
from benchmarks import locality

LOSS = ej.losses.squared_error
UPDATES, EVERY = 20, 5


def train(mesh, folder=None, die_at=None):
    """20 updates of one network; the whole state is saved after each 5, by the first process."""
    net = ej.Network(ej.cells.alif(4, 8, v_th=0.3, tau_a=50.0), ej.readouts.leaky(8, 2))
    rule, params = ej.eprop(net, LOSS), jax.jit(net.init)(jax.random.key(0))
    if mesh is not None:
        rule = ej.sharding.parallel(rule, mesh, batch="batch", units="units")
        params = jax.device_put(params, ej.sharding.shardings(params, mesh, units="units"))
    optimizer = optax.adam(1e-2)
    state, start = (params, jax.jit(optimizer.init)(params)), 0
    if folder is not None and ej.checkpoints.steps(folder):
        start = ej.checkpoints.steps(folder)[-1]
        state = ej.checkpoints.restore(folder, state)

    @jax.jit
    def update(state, key):
        params, opt_state = state
        xs, ys = jnp.split(jax.random.normal(key, (6, 4, 6)), [4], -1)
        _, grads = ej.value_and_grad(rule, chunk=1)(params, xs, ys)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for step in range(start + 1, UPDATES + 1):
        state = update(state, jax.random.key(step))
        if folder is not None and step % EVERY == 0:
            whole = ej.sharding.replicated(state, mesh)
            if jax.process_index() == 0:
                ej.checkpoints.save(folder, whole, step)
        if step == die_at:
            jax.block_until_ready(state)
            os.kill(os.getpid(), signal.SIGKILL)
    params = state[0] if mesh is None else ej.sharding.replicated(state[0], mesh)
    return start, jax.tree.leaves(params)


def relative_error(got, wanted):
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs if np.any(b))


def collectives():
    """Of one e-prop step of 1024 units over 8 devices, for two numbers of parameters."""
    found = []
    for n_in in (3, 300):
        net = ej.Network(ej.cells.alif(n_in, 1024), ej.readouts.leaky(1024, 5))
        mesh = ej.sharding.mesh(units=8)
        step = locality.by_synapse(ej.eprop(net, LOSS), 1024, 1, 2, mesh, units="units")
        found += [[*key, times] for key, times in locality.collectives(step, 8).items()]
    return found


def gradients(dtype):
    """The same step's gradients against one device's, over 4 steps."""
    net = ej.Network(ej.cells.alif(3, 1024, v_th=0.3), ej.readouts.leaky(1024, 5))
    cast = lambda tree: jax.tree.map(lambda x: x.astype(dtype), tree)
    params = cast(jax.jit(net.init)(jax.random.key(0)))
    xs, ys = (2 * jax.random.normal(jax.random.key(1), (4, 2, k), dtype) for k in (3, 5))
    mesh, rule = ej.sharding.mesh(units=8), ej.eprop(net, LOSS)
    wanted = ej.value_and_grad(rule, chunk=1)(params, xs, ys)
    placed = jax.device_put(params, ej.sharding.shardings(params, mesh, units="units"))
    rule = ej.sharding.parallel(rule, mesh, units="units")
    return relative_error(ej.value_and_grad(rule, chunk=1)(placed, xs, ys), wanted)


def explicit(**axes):
    """A mesh as `jax.make_mesh` gives it, in the versions in which its axes are explicit."""
    kinds = {}
    if hasattr(jax.sharding, "AxisType"):
        kinds["axis_types"] = (jax.sharding.AxisType.Explicit,) * len(axes)
    return jax.make_mesh(tuple(axes.values()), tuple(axes), **kinds)


def rules():
    """{rule, axes, chunk: error} in float64, for what is split in ways of its own: values that differ
    by unit, a mask, an activity loss by unit, gates, feedback weights, trained read-out decays."""
    n = 8
    mask = np.asarray(jax.random.bernoulli(jax.random.key(5), 0.6, (n, n)))
    target = np.linspace(0, 0.3, n)
    beta = np.linspace(0, 0.4, n)
    alif = ej.cells.alif(
        3, n, v_th=0.3, beta=beta, gain_in=2.0, gain_rec=2.0, trainable=("beta",), connectivity=mask
    )
    spiking = ej.Network(alif, ej.readouts.leaky(n, 2))
    gated = ej.Network(ej.cells.lstm(3, n), ej.readouts.leaky(n, 2, trainable=("tau",)))
    plain = ej.Network(ej.cells.leaky_rnn(3, n, decay=0.6), ej.readouts.leaky(n, 2))
    # Some synapses of each line are not there: by lists, and by a mask.
    lists = np.where(mask[:3], np.arange(3 * n).reshape(3, n) % n, -1)
    listed = ej.Network(
        ej.cells.alif(
            3, n, v_th=0.3, w_in=ej.synapses.masked(mask[:3]), w_rec=ej.synapses.sparse(lists)
        ),
        ej.readouts.leaky(n, 2, w_out=ej.synapses.masked(mask[:, :2])),
    )
    convolved = ej.Network(
        ej.cells.lif(3, n, w_rec=ej.synapses.conv((4, 2), 2, (3,))), ej.readouts.leaky(n, 2)
    )
    named = ej.Network(  # values named like the lines
        ej.cells.custom(
            3, n, lambda theta, c, a: theta["w_rec"] * c + a + theta["w_out"],
            lambda theta, c: jnp.tanh(c), 0.0, theta={"w_rec": 0.5, "w_out": target},
        ),
        ej.readouts.custom(
            n, 2, lambda phi, y, a: phi["w_out"] * y + phi["feedback"] * a,
            theta={"w_out": 0.5, "feedback": 1.0},
        ),
    )  # fmt: skip
    stack = ej.Network([alif, ej.cells.gru(n + 3, 4)], ej.readouts.leaky(n + 4, 2),
                       inputs=[("x",), (0, "x")], reads=(1, 0))  # fmt: skip
    quiet = {"activity_loss": ej.losses.firing_rate(target, 3.0)}
    units, both, batch = (
        {"units": "units"},
        {"units": "units", "batch": "batch"},
        {"batch": "batch"},
    )
    cases = [
        ("e-prop", ej.eprop(spiking, LOSS, **quiet), both, (2, None)),
        ("e-prop, gated", ej.eprop(gated, LOSS, feedback="adaptive"), units, (None,)),
        ("BPTT", ej.bptt(spiking, LOSS, **quiet), both, (None,)),
        ("order 3", ej.m_order_eprop(spiking, LOSS, order=3, feedback="random"), units, (None,)),
        ("order 2", ej.m_order_eprop(plain, LOSS, order=2), both, (1,)),
        ("RTRL", ej.rtrl(plain, LOSS), units, (1,)),
        ("RTRL", ej.rtrl(plain, LOSS), batch, (1,)),
        ("e-prop, names of lines", ej.eprop(named, LOSS, feedback="random"), both, (1, None)),
        ("stack, i*f*", ej.by_paths(stack, LOSS, paths="i*f*", feedback="random"), both, (1, None)),
        ("stack, (i|e)*f*", ej.by_paths(stack, LOSS, paths="(i|e)*f*"), units, (2,)),
        ("stack, BPTT", ej.bptt(stack, LOSS), batch, (None,)),
        ("e-prop, lists", ej.eprop(listed, LOSS), both, (1, None)),
        ("BPTT, lists", ej.bptt(listed, LOSS), units, (None,)),
        ("RTRL, lists", ej.rtrl(listed, LOSS), units, (1,)),
        ("own synapses", ej.by_paths(listed, LOSS, paths="(i|s)*"), units, (None,)),
        ("convolution", ej.eprop(convolved, LOSS), batch, (1,)),
    ]
    mesh, found = explicit(batch=2, units=4), {}
    xs, ys = (jax.random.normal(jax.random.key(1), (5, 4, k)) for k in (3, 2))
    mask, resets = jax.random.bernoulli(jax.random.key(3), 0.7, (2, 5, 4))
    said = {"mask": mask, "resets": ~resets}
    for name, rule, axes, chunks in cases:
        net = rule.spec.network
        params = jax.tree.map(lambda x: x.astype(float), jax.jit(net.init)(jax.random.key(0)))
        if rule.spec.feedback != "symmetric":
            params["feedback"] = ej.feedback.init(jax.random.key(2), net)
        placed = jax.device_put(
            params, ej.sharding.shardings(params, mesh, units=axes.get("units"))
        )
        over = ej.sharding.parallel(rule, mesh, **axes)
        for K in chunks:
            # An activity loss sees one chunk at a time; all else is the same for all chunks.
            like = K if rule.spec.activity_loss else None
            wanted = ej.value_and_grad(rule, like, has_aux=True)(params, xs, ys, **said)
            got = ej.value_and_grad(over, K, has_aux=True)(placed, xs, ys, **said)
            found[f"{name} {sorted(axes)} {K}"] = relative_error(got, wanted)
    return found


def refused():
    """What each misuse says."""
    net = ej.Network(ej.cells.lif(3, 6), ej.readouts.leaky(6, 2))
    rule, params = ej.eprop(net, LOSS), net.init(jax.random.key(0))
    mesh = ej.sharding.mesh(batch=4, units=2)
    over = ej.sharding.parallel(rule, mesh, batch="batch")
    shared = ej.Network(
        ej.cells.lif(3, 6, w_rec=ej.synapses.conv((6, 1), 1, (3,))), ej.readouts.leaky(6, 2)
    )
    shared = ej.eprop(shared, LOSS)
    xs, ys = jnp.ones((2, 6, 3)), jnp.ones((2, 6, 2))
    tries = {
        "uneven units": lambda: ej.sharding.parallel(rule, mesh, units="batch"),
        "uneven batch": lambda: ej.value_and_grad(over)(params, xs, ys),
        "uneven carry": lambda: over.init(params, (6,)),
        "no batch": lambda: over.init(params, ()),
        "no axis": lambda: ej.sharding.parallel(rule, mesh),
        "wrong axis": lambda: ej.sharding.parallel(rule, mesh, units="model"),
        "one axis twice": lambda: ej.sharding.parallel(rule, mesh, units="units", batch="units"),
        "shared weights": lambda: ej.sharding.parallel(shared, mesh, units="units"),
        "no mesh": lambda: ej.sharding.parallel(rule, jax.devices(), units="units"),
        "no rule": lambda: ej.sharding.parallel(net, mesh, units="units"),
        "mesh of 4": lambda: ej.sharding.mesh(batch=2, units=2),
        "wrong inputs": lambda: ej.value_and_grad(over)(params, xs[..., :2], ys),
        "no params": lambda: ej.sharding.shardings([1], mesh, units="units"),
    }
    if hasattr(jax, "set_mesh"):
        other = explicit(batch=2, units=4)
        at = lambda x, *spec: jax.device_put(x, NamedSharding(other, P(*spec)))
        f = ej.value_and_grad(rule, chunk=1)
        wide = jnp.ones((2, 8, 3)), jnp.ones((2, 8, 2))
        split = {**params, "readout": at(params["readout"])}
        split["readout"]["w_out"] = at(params["readout"]["w_out"], "batch")

        def set_around():
            with jax.set_mesh(other):
                return over.step(params, over.init(params, (8,)), *wide)

        # fmt: off
        tries |= {
            "explicit xs": lambda: f(params, at(xs, None, "batch"), ys),
            "explicit ys": lambda: f(params, xs, at(ys, None, "batch")),
            "explicit params": lambda: f(split, xs, ys),
            "explicit xs, parallel": lambda: ej.value_and_grad(over)(
                params, at(wide[0], None, "batch"), wide[1]
            ),
            "explicit mesh set": set_around,
            "a checked shard_map": lambda: jax.jit(
                jax.shard_map(
                    lambda x, y: jax.lax.pmean(f(params, x, y), "batch"),
                    mesh=mesh, in_specs=P(None, "batch"), out_specs=P(),
                )
            )(*wide),
        }
        # fmt: on
    said = {}
    for name, attempt in tries.items():
        try:
            attempt()
        except (TypeError, ValueError) as error:
            said[name] = f"{type(error).__name__}: {error}"
    return {"missing": sorted(tries.keys() - said.keys()), **said}


if __name__ == "__main__":
    if sys.argv[1] == "check":
        report = {"collectives": collectives()}
        jax.config.update("jax_disable_most_optimizations", True)
        alone = train(None)[1]
        np.savez(sys.argv[2], *alone)
        over_8 = train(ej.sharding.mesh(batch=2, units=4))[1]
        report["trained"] = max(float(np.abs(a - b).max()) for a, b in zip(alone, over_8))
        report["float32"] = gradients(jnp.float32)
        report["refused"] = refused()
        jax.config.update("jax_enable_x64", True)
        report |= {"float64": gradients(jnp.float64), "rules": rules()}
        print(json.dumps(report))
    else:
        rank, port, folder, out, die_at = sys.argv[2:]
        jax.config.update("jax_disable_most_optimizations", True)
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(rank))
        mesh = ej.sharding.mesh(batch=2, units=2)
        start, params = train(mesh, pathlib.Path(folder), int(die_at))
        np.savez(out, *params, start=start)
