"""The programs of tests/test_export.py, and the process that reads them from files."""

import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

import eprop_jax as ej

CELLS = {"lif": ej.cells.lif(3, 5, v_th=0.3), "lstm": ej.cells.lstm(3, 5)}


def programs():
    """{name: (function, what it takes)}"""
    found = {}
    xs, ys = (np.random.default_rng(0).normal(size=(4, 2, k)) for k in (3, 2))
    for name, cell in CELLS.items():
        net = ej.Network(cell, ej.readouts.leaky(5, 2))
        params, rule = net.init(jax.random.key(0)), ej.eprop(net, ej.losses.squared_error)
        found[name] = rule.step, (params, rule.init(params, (2,)), xs, ys)
    waiting = ej.three_factor(rule, 0.9)
    found["three factor"] = waiting.step, (params, waiting.init(params, (2,)), xs, ys)
    learner = ej.online(rule, optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2)))
    state = ej.export.register(learner.init(params, (2,)))  # for optax's states
    return found | {"online": (learner.step, (state, xs, ys))}


def main(folder):
    files = {file.stem: file.read_bytes() for file in pathlib.Path(folder).iterdir()}
    read = {name: jax.export.deserialize(files.pop(name)) for name in (*CELLS, "three factor")}
    problems = programs()
    read["online"] = jax.export.deserialize(files.pop("online"))
    distance = {}
    for name, (function, args) in problems.items():
        wanted, got = function(*args), read[name].call(*args)
        assert jax.tree.structure(got) == jax.tree.structure(wanted)
        pairs = list(zip(jax.tree.leaves(got), jax.tree.leaves(wanted)))
        assert all(a.dtype == b.dtype for a, b in pairs)
        assert any(bool(jnp.any(b != 0)) for _, b in pairs)
        distance[name] = max(float(jnp.max(jnp.abs(a - b))) for a, b in pairs)
    print(json.dumps(distance))


if __name__ == "__main__":
    main(sys.argv[1])
