"""Locality as communication: what a step moves between 8 devices, read out of the compiled program.

    python -m benchmarks.locality [--quick]     # the table of results/locality.md
    python -m benchmarks.locality --plan        # the arithmetic of docs/SCALING.md

Units are split over 8 devices, and the collectives of a compiled call are counted: what a gather
yields, what a reduction takes, one inside a loop as often as the loop runs, divided by the K steps of
the call. `theory` is what the equations say, with p = n · (n + n_in + 1) parameters of the cell.
Programs are compiled for shapes and not run. ALIF units, leaky read-out of 10, 40 inputs, batch 4 (8
where the batch is split), float32. RTRL and order 3 keep their traces "by synapse", beside the
synapse where paths start (`ej.sharding.parallel`; XLA's partitioner chooses), or "by unit", with the
unit where paths end, as a cell that learns by itself would.
"""

import argparse
import os
import re
from collections import Counter

if __name__ == "__main__":  # before JAX starts
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import eprop_jax as ej
from benchmarks import harness

KINDS = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute|collective-broadcast"
OP = re.compile(rf"= (\([^)]*\)|\S+) ({KINDS})(-start)?\(")
SHAPE = re.compile(r"\b([a-z]+\d+|pred)\[([\d,]*)\]")
WHILE = re.compile(r"\bwhile\(.*?condition=%?([\w.-]+), body=%?([\w.-]+)")
TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
CALLED = re.compile(
    r"(?:calls|to_apply|body|condition)=%?([\w.-]+)|branch_computations=\{([^}]*)\}"
)


def collectives(text, devices):
    """{(kind, elements): how many times} of a compiled program's text, loops counted as they run. Of
    a reduce-scatter over all the devices, the text names what each keeps."""
    bodies, name, entry = {}, None, None
    for line in text.splitlines():
        if line and not line[0].isspace() and line.rstrip().endswith("{"):
            name = re.match(r"(?:ENTRY )?%?([\w.-]+)", line).group(1)
            bodies[name] = []
            entry = name if line.startswith("ENTRY") else entry
        elif name is not None:
            bodies[name].append(line)

    def count(computation):
        found = Counter()
        for line in bodies.get(computation, ()):
            op, loop = OP.search(line), WHILE.search(line)
            if op:
                if op.group(3):
                    raise ValueError(f"an asynchronous collective: {line.strip()[:200]}")
                parts = devices if op.group(2) == "reduce-scatter" else 1
                found[op.group(2), parts * elements(op.group(1))] += 1
            times = 1
            if loop:
                trips = TRIPS.search(line)
                if not trips and (count(loop.group(1)) or count(loop.group(2))):
                    raise ValueError("collectives in a loop of unknown length")
                times = int(trips.group(1)) if trips else 0
            for one, several in CALLED.findall(line):
                for called in re.findall(r"[\w.-]+", one or several):
                    for key, n in count(called).items():
                        found[key] += times * n
        return found

    return count(entry)


def elements(shape):
    total = 0
    for _, dims in SHAPE.findall(shape):
        size = 1
        for d in dims.split(","):
            size *= int(d or 1)
        total += size
    return total


def network(n):
    return ej.Network(ej.cells.alif(40, n), ej.readouts.leaky(n, 10))


def shapes(rule, n, K, batch):
    net = rule.spec.network
    params = jax.eval_shape(net.init, jax.random.key(0))
    carry = jax.eval_shape(lambda p: rule.init(p, (batch,)), params)
    of = lambda last: jax.ShapeDtypeStruct((K, batch, last), jnp.float32)
    return params, carry, of(net.cell.n_in), of(net.readout.n_out)


def by_synapse(rule, n, K, examples, mesh, **axes):
    """The step of `ej.sharding.parallel`."""
    args = shapes(rule, n, K, examples)
    step = ej.sharding.parallel(rule, mesh, **axes).step
    return jax.jit(step).lower(*_placed(args, mesh, axes)).compile().as_text()


def _placed(args, mesh, axes):
    """Parameters as `ej.sharding.shardings` says, so that only the step's own moves are counted."""
    where = ej.sharding.shardings(args[0], mesh, units=axes.get("units"))
    place = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
    return jax.tree.map(place, args[0], where), *args[1:]


def whole(rule, n, T, batch, mesh):
    """The whole sequence in one call, without traces."""
    params, _, xs, ys = _placed(shapes(rule, n, T, batch), mesh, {"units": "units"})
    f = ej.value_and_grad(ej.sharding.parallel(rule, mesh, units="units"))
    return jax.jit(f).lower(params, xs, ys).compile().as_text()


def by_unit(rule, n, K, batch, mesh):
    """The same step, each α and β^r on the device of unit r, where its paths end: axis 1."""
    params, carry, xs, ys = shapes(rule, n, K, batch)
    put = lambda *axes: NamedSharding(mesh, P(*axes))
    held = {name: getattr(carry, name) for name in ("alpha", "beta") if name in carry._fields}
    ends = jax.tree.map(lambda _: put(None, "units"), held)
    other = jax.tree.map(lambda _: put(), carry)._replace(**ends)
    state = carry.state._replace(
        c=jax.tree.map(lambda _: put(None, "units"), carry.state.c), y=put()
    )
    where = ej.sharding.shardings(params, mesh, units="units")
    keep = jax.jit(
        lambda *args: rule.step(*args)[0],
        in_shardings=(where, other._replace(state=state), put(), put()),
        out_shardings=other._replace(state=state),
    )
    return keep.lower(params, carry, xs, ys).compile().as_text()


LOSS = ej.losses.squared_error
B, N_IN, N_OUT, T = 4, 40, 10, 64


def order_3(net, loss):
    return ej.m_order_eprop(net, loss, order=3)


def p(n):
    return n * (n + N_IN + 1)


# what is split, rule, traces, steps of a call, program, elements a step in theory, in words
CASES = [
    ("units", "e-prop", ej.eprop, "by synapse", 1, by_synapse,
     lambda n: (n + N_OUT) * B, "(n + n_out) B"),
    ("units", "e-prop", ej.eprop, "by synapse", T, by_synapse,
     lambda n: (n + N_OUT) * B, "(n + n_out) B"),
    ("units", "e-prop", ej.eprop, "none", T, whole,
     lambda n: (n + N_OUT) * B, "(n + n_out) B"),
    ("units", "BPTT", ej.bptt, "none", T, whole,
     lambda n: (2 * n + N_OUT) * B, "(2n + n_out) B"),
    ("units", "order 3", order_3, "none", T, whole,
     lambda n: (3 * n + N_OUT) * B, "(m n + n_out) B"),
    ("units", "order 3", order_3, "by synapse", 1, by_synapse,
     lambda n: n * n + (n + N_OUT) * B, "n² + (n + n_out) B"),
    ("units", "RTRL", ej.rtrl, "by synapse", 1, by_synapse,
     lambda n: n * n + (n + N_OUT) * B, "n² + (n + n_out) B"),
    ("units", "order 3", order_3, "by unit", 1, by_unit,
     lambda n: (n * p(n) + p(n) + N_OUT * p(n)) * B, "(n p + p + n_out p) B"),
    ("units", "RTRL", ej.rtrl, "by unit", 1, by_unit,
     lambda n: (n * p(n) + N_OUT * p(n)) * B, "(n p + n_out p) B"),
    ("batch", "e-prop", ej.eprop, "by synapse", 1, by_synapse,
     lambda n: p(n) + n * N_OUT + N_OUT + 1, "p + n n_out + n_out + 1"),
]  # fmt: skip


# -- docs/SCALING.md: sizes and published bandwidths in, bounds out --------------------------------

# name, bytes of memory, memory bytes/s, float32 operations/s, bytes/s into a device: in its node or
# pod, and its share of the node's network
H100 = ("H100 SXM", 80e9, 3.35e12, 67e12, 450e9, 50e9)
FAN_IN, LATENCY = 1000, 10e-6


def bounds(n, K, batch, devices, hardware=H100, per_node=8):
    """Seconds a step that memory, arithmetic, links and latency each need at least, for e-prop of
    ALIF units on a synapse list: see docs/SCALING.md for each term."""
    _, memory, bandwidth, flops, link, network = hardware
    synapses = n * FAN_IN
    stored = synapses * (20 + 8 * batch) / devices
    traffic = synapses * ((16 + 16 * batch) if K == 1 else (16 + 16 * batch) / K + 8) / devices
    work = synapses * batch * (12 if K == 1 else 10) / devices
    into = 4 * n * batch if devices > 1 else 0
    inside = into / link
    between = into / (network * per_node) if devices > per_node else 0
    return {
        "units": n, "K": K, "batch": batch, "devices": devices,
        "GB a device": stored / 1e9, "fits": "yes" if stored < memory else "no",
        "memory us": 1e6 * traffic / bandwidth, "arithmetic us": 1e6 * work / flops,
        "moved kB": into / 1e3, "links us": 1e6 * max(inside, between),
        "latency us": 1e6 * 2 * LATENCY if devices > 1 else 0.0,
    }  # fmt: skip


def plan():
    cases = [
        (10**4, 1, 1), (10**4, 64, 1), (10**4, 64, 8), (10**5, 1, 1), (10**5, 1, 8),
        (10**5, 64, 8), (10**6, 1, 8), (10**6, 1, 64), (10**6, 64, 64), (10**6, 1, 1024),
    ]  # fmt: skip
    rows = [bounds(n, K, 4, devices) for n, K, devices in cases]
    limits = ("memory us", "arithmetic us", "links us", "latency us")
    for row in rows:
        row["bound by"] = max(limits, key=row.get).removesuffix(" us")
    print(harness.table(rows, list(rows[0])))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the smallest size only")
    parser.add_argument("--plan", action="store_true", help="the arithmetic of docs/SCALING.md")
    args = parser.parse_args()
    if args.plan:
        return plan()
    sizes = (64,) if args.quick else (64, 256, 1024)
    rows = []
    for split, name, rule, traces, K, program, theory, words in CASES:
        mesh = ej.sharding.mesh(**{split: 8})
        for n in sizes:
            axes = {split: split} if program is by_synapse else {}
            examples = 8 if split == "batch" else B
            text = program(rule(network(n), LOSS), n, K, examples, mesh, **axes)
            found = collectives(text, mesh.size)
            by_kind = Counter()
            for (kind, size), times in found.items():
                by_kind[kind] += size * times / K
            moved = sum(by_kind.values())
            row = {"split": split, "rule": name, "traces": traces, "K": K, "n": n}
            named = {kind: int(by_kind.pop(kind, 0)) for kind in KINDS.split("|")[:3]}
            row |= {"calls a step": sum(found.values()) / K, **named}
            row |= {"other": int(sum(by_kind.values())), "kB a step": moved * 4 / 1e3}
            row |= {"theory": words, "moved / theory": moved / theory(n)}
            row["collectives"] = {f"{kind} of {size}": t for (kind, size), t in found.items()}
            rows.append(row)
            print(*list(row.values())[:-1], flush=True)
    columns = [c for c in rows[0] if c != "collectives"]
    harness.write("locality", rows, columns, __doc__.split("\n\n", 2)[2])


if __name__ == "__main__":
    main()
