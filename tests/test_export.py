"""Programs that are written by `jax.export` and read in another process."""

import importlib
import json
import os
import pathlib
import subprocess
import sys
from typing import Any, NamedTuple

import export_worker
import jax
import jax.numpy as jnp
import pytest

import eprop_jax as ej

HERE = pathlib.Path(__file__).parent


def serialized(function, args):
    return jax.export.export(jax.jit(function))(*args).serialize()


def test_programs_are_read_in_a_process_of_their_own(tmp_path):
    """E-prop's step of two cells, with nothing registered by hand, and an online learner's."""
    with jax.numpy_dtype_promotion("standard"):  # optax.adam needs it
        for name, program in export_worker.programs().items():
            (tmp_path / name).write_bytes(serialized(*program))
    done = subprocess.run(
        [sys.executable, str(HERE / "export_worker.py"), str(tmp_path)],
        env={**os.environ, "JAX_ENABLE_X64": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, timeout=6000,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    distance = json.loads(done.stdout)
    assert set(distance) == {"lif", "lstm", "three factor", "online"}
    assert max(distance.values()) < 1e-12


class Own(NamedTuple):
    v: Any
    w: Any


def test_a_state_of_ones_own_is_registered_by_one_call():
    cell = ej.cells.custom(
        3, 4, lambda theta, c, a: Own(0.9 * c.v - c.w + a, 0.5 * c.w + 0.1 * c.v),
        lambda theta, c: jnp.tanh(c.v), Own(0.0, 0.0),
    )  # fmt: skip
    net = ej.Network(cell, ej.readouts.linear(4, 2))
    rule, params = ej.eprop(net, ej.losses.squared_error), net.init(jax.random.key(0))
    carry = rule.init(params)
    program = rule.step, (params, carry, jnp.ones((2, 3)), jnp.ones((2, 2)))
    with pytest.raises(ValueError, match=r"unregistered type .*Own"):
        serialized(*program)
    assert ej.export.register(carry) is carry
    blob = serialized(*program)
    after, _ = jax.export.deserialize(blob).call(*program[1])
    assert isinstance(after.state.c, Own)


def test_what_is_registered_stays_so():
    """A module that is loaded again, and a type that a user has registered."""
    importlib.reload(ej.export)

    class Mine(NamedTuple):
        x: Any

    jax.export.register_namedtuple_serialization(Mine, serialized_name="mine")
    ej.export.register([Mine(jnp.ones(2)), ej.State(jnp.ones(2), jnp.ones(2))])
    blob = serialized(lambda m: m, (Mine(jnp.ones(2)),))
    assert b"mine" in bytes(blob)
