"""Many devices: 8 in one process, and 2 in each of a pair of processes (see sharding_worker.py)."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]

pytestmark = pytest.mark.slow  # all wait for these processes


def start(*args):
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_ENABLE_X64")}
    return subprocess.Popen(
        [sys.executable, "tests/sharding_worker.py", *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT)},
    )


def finish(process):
    try:
        out, err = process.communicate(timeout=6000)
    finally:
        process.kill()
    assert process.returncode == 0, err[-4000:]
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sharding")


@pytest.fixture(scope="module")
def checks(folder):
    """Runs beside the pairs; call it for what it found."""
    process, found = start("check", folder / "alone.npz"), {}

    def result():
        if not found:
            found.update(json.loads(finish(process).splitlines()[-1]))
        return found

    yield result
    process.kill()
    process.wait()


def start_pair(folder, die_at):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    saved = folder / "checkpoints"
    outs = [folder / f"params{rank}.npz" for rank in (0, 1)]
    pair = [start("pair", r, port, saved, outs[r], die_at if r == 1 else 0) for r in (0, 1)]
    return pair, outs


@pytest.fixture(scope="module")
def resumed(folder, checks):
    """A pair of which one process is killed at update 8 of 20, and the pair that goes on."""
    pair, outs = start_pair(folder, die_at=8)
    try:
        _, err = pair[1].communicate(timeout=6000)
        assert pair[1].returncode == -signal.SIGKILL, err[-4000:]
    finally:
        for process in pair:
            process.kill()  # the other cannot go on: its next all-gather has no answer
            process.wait()
    assert not any(out.exists() for out in outs)
    pair, outs = start_pair(folder, die_at=0)
    try:
        for process in pair:
            finish(process)
    finally:
        for process in pair:
            process.kill()
    return [dict(np.load(out)) for out in outs]


@pytest.mark.slow
def test_a_new_pair_goes_on_where_the_killed_one_saved(resumed):
    assert [int(arrays.pop("start")) for arrays in (dict(r) for r in resumed)] == [5, 5]


@pytest.mark.slow
def test_two_processes_end_with_the_same_parameters_as_one_device(resumed, checks, folder):
    checks()
    alone = np.load(folder / "alone.npz")
    assert len(alone) == 5
    for name in alone:
        np.testing.assert_array_equal(resumed[0][name], resumed[1][name])
        assert np.abs(resumed[0][name] - alone[name]).max() < 1e-6


@pytest.mark.slow
def test_8_devices_train_to_the_parameters_of_one(checks):
    """20 updates, examples over two and units over four."""
    assert checks()["trained"] < 1e-6


def test_a_step_moves_the_outputs_and_the_readout_whatever_the_parameters(checks):
    once = [["all-gather", 1024 * 2, 1], ["all-reduce", 5 * 2, 1]]
    assert checks()["collectives"] == once + once


def test_gradients_over_8_devices_are_those_of_one(checks):
    assert checks()["float32"] < 1e-5
    assert checks()["float64"] < 1e-12


def test_every_rule_over_every_kind_of_mesh(checks):
    assert len(checks()["rules"]) == 20
    assert max(checks()["rules"].values()) < 1e-12, checks()["rules"]


@pytest.mark.parametrize(
    "misuse, says",
    {
        "uneven units": "units: got 6, the network's n_units, .* wanted a multiple of 4",
        "uneven batch": "xs: got 6, .* wanted a multiple of 4",
        "uneven carry": "batch_shape: got 6, .* wanted a multiple of 4",
        "no batch": "batch_shape: got no batch axis",
        "no axis": "batch, units: got neither",
        "wrong axis": "units: got 'model', wanted an axis of the mesh",
        "one axis twice": "got 'units' for both",
        "shared weights": "units: got w_rec of conv synapses, whose units share weights",
        "no mesh": "TypeError: mesh: got list",
        "no rule": "TypeError: rule: got Network",
        "mesh of 4": "axes: .* wanted sizes whose product is 8",
        "wrong inputs": r"xs: got shape \[2, 6, 2\]",
        "no params": "TypeError: params: got list",
    }.items(),
)
def test_refusals(checks, misuse, says):
    assert re.search(says, checks()["refused"][misuse])


@pytest.mark.parametrize(
    "misuse, says",
    {
        "explicit xs": r"ValueError: xs: is split over mesh axes of the explicit kind, \(None, 'batch'",
        "explicit ys": "ValueError: ys: is split over mesh axes of the explicit kind",
        "explicit params": r"ValueError: params\['readout'\]\['w_out'\]: is split over mesh axes",
        "explicit xs, parallel": "ValueError: xs: is split over .* wanted the automatic kind",
        "explicit mesh set": "ValueError: mesh: jax.set_mesh has set one whose axes are of the kinds",
        "a checked shard_map": r"ValueError: xs: varies over the axes \['batch'\] .*check_vma=False",
    }.items(),
)
def test_arrays_whose_types_say_where_they_lie_are_refused_by_name(checks, misuse, says):
    assert re.search(says, checks()["refused"][misuse])


def test_nothing_wrong_is_accepted(checks):
    assert checks()["refused"]["missing"] == []
