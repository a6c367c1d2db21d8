"""The main job, its data and its command line; the command line as a user starts it."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import eprop_jax as ej
from eprop_jax import tasks
from eprop_jax.cli import demo
from eprop_jax.paper import taxonomy

ROOT = pathlib.Path(__file__).parents[1]
# Started from a background job, a process ignores SIGINT; a terminal's does not.
LIKE_A_TERMINAL = (
    "import signal, runpy; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "runpy.run_module('eprop_jax', run_name='__main__', alter_sys=True)"
)


def start(*args):
    return subprocess.Popen(
        [sys.executable, "-c", LIKE_A_TERMINAL, *args],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "MPLBACKEND": "Agg", "JAX_PLATFORMS": "cpu"},
    )


def run(*args):
    process = start(*args)
    out, err = process.communicate(timeout=900)
    return process.returncode, out, err


def test_digits_are_the_1797_of_the_source_split_as_it_says():
    data = tasks.digits()
    assert data.train_images.shape == (1347, 8, 8) and data.test_images.shape == (450, 8, 8)
    assert data.train_labels.shape == (1347,) and data.test_labels.shape == (450,)
    assert data.train_images.dtype == np.float32 and data.train_labels.dtype == np.int32
    for images in (data.train_images, data.test_images):
        assert images.min() == 0 and images.max() == 1
    assert set(data.train_labels) == set(data.test_labels) == set(range(10))


def test_a_digit_is_read_row_by_row_and_named_at_the_last():
    images = jnp.arange(2 * 64, dtype=jnp.float32).reshape(2, 8, 8)
    xs, (labels, weight) = tasks.row_by_row(images, jnp.array([3, 7], jnp.int32), steps_a_row=3)
    assert xs.shape == (24, 2, 8) and labels.shape == weight.shape == (24, 2)
    assert np.array_equal(xs[3:6, 1], np.broadcast_to(images[1, 1], (3, 8)))
    assert np.array_equal(np.asarray(weight[:, 0]) > 0, np.arange(24) >= 21)
    assert np.allclose(np.asarray(weight).sum(0), 1)
    with pytest.raises(ValueError, match=r"images: got shape \[2, 64\]"):
        tasks.row_by_row(images.reshape(2, 64), labels[0])
    with pytest.raises(ValueError, match=r"labels: got shape \[3\], wanted \[2\]"):
        tasks.row_by_row(images, jnp.zeros(3, jnp.int32))


def test_batches_are_epochs_in_random_order():
    order = tasks.batches(jax.random.key(0), n=11, size=4, updates=5)
    assert order.shape == (5, 4)
    for epoch in (order[:2], order[2:4]):
        assert len(set(np.asarray(epoch).ravel().tolist())) == 8


def small(method_key):
    net = ej.Network(ej.cells.rnn(8, 12), ej.readouts.linear(12, 10))
    (method,) = demo.methods(net, [method_key], [2])
    s = demo.setup("gru")._replace(net=net, updates=150)
    data = tasks.digits()
    optimizer = optax.sgd(0.1)
    params = demo.initial(net, jax.random.split(jax.random.key(0), 2))
    segment = demo.trainer(
        method, optimizer, demo.presenter(s, data.train_images, data.train_labels)
    )
    before = demo.begin(method, params, optimizer)
    order = tasks.batches(jax.random.key(1), 1347, 32, 150)
    return before, *segment(before, jnp.stack([order, order]))


@pytest.mark.parametrize("key", ["m-order", "random", "frozen"])
def test_training_reduces_the_loss_and_trains_what_it_should(key):
    (before, _), (after, _), losses = small(key)
    assert losses.shape == (2, 150)
    assert np.all(losses[:, -5:].mean(1) < 0.9 * losses[:, :5].mean(1))
    moved = {k: bool(jnp.any(after[k]["w_in" if k == "cell" else "w_out"]
                             != before[k]["w_in" if k == "cell" else "w_out"]))
             for k in ("cell", "readout")}  # fmt: skip
    assert moved == {"cell": key != "frozen", "readout": True}
    if key == "random":
        assert np.array_equal(after["feedback"], before["feedback"])


def test_a_stack_of_the_demo_trains_the_layers_that_it_should():
    s = demo.setup("gru", (12, 9))
    assert demo.units(s.net) == (12, 9) and s.net.readout.n_units == 9
    assert s.orders == (2, 3, 4, 5, 6, 7, 8)  # order 1 leaves layer 0 without a gradient
    net = ej.Network([ej.cells.rnn(8, 12), ej.cells.rnn(12, 9)], ej.readouts.linear(9, 10))
    data = tasks.digits()
    present = demo.presenter(s, data.train_images, data.train_labels)
    (method,) = demo.methods(net, ["paths:i*f*"], [], freeze=(0,))
    assert method.name == "paths i*f*, layer 0 frozen" and not method.whole
    params = demo.initial(net, jax.random.split(jax.random.key(0), 2))
    optimizer = optax.chain(optax.add_decayed_weights(1e-3), optax.sgd(0.1))
    before = demo.begin(method, params, optimizer)
    order = tasks.batches(jax.random.key(1), 1347, 32, 100)
    after, losses = demo.trainer(method, optimizer, present)(before, jnp.stack([order, order]))
    assert np.all(losses[:, -5:].mean(1) < 0.9 * losses[:, :5].mean(1))
    moved = lambda part: [
        not np.array_equal(a, b)
        for a, b in zip(*(jax.tree.leaves(part(x[0])) for x in (before, after)), strict=True)
    ]
    assert not any(moved(lambda p: p["cell"][0]))
    assert all(moved(lambda p: p["cell"][1])) and all(moved(lambda p: p["readout"]))


@pytest.mark.slow
def test_a_recording_of_a_stack_has_the_traces_that_its_rule_carries():
    s, data = demo.setup("alif", (12, 9)), tasks.digits()
    params = s.net.init(jax.random.key(3))
    images, labels = data.test_images[:1], data.test_labels[:1]
    seen = demo.record(s, params, images, labels)
    assert [h.shape for h in seen.spikes] == [(24, 12), (24, 9)] and seen.spikes[1].sum() > 0
    rule = ej.by_paths(s.net, demo.setups.LOSS, paths="i*f*")
    cell, p = s.net.cells[0], params["cell"][0]

    def step(carry, now):
        carry, out = rule.step(params, carry, *jax.tree.map(lambda x: x[None], now))
        (epsilon,) = carry.epsilon[0]
        psi = ej.jacobians.output_blocks(cell, p, carry.state.c[0])[0]
        return carry, (out.activity, psi, jax.tree.leaves(epsilon["w_rec"]))

    shown = demo.presenter(s, images, labels)(jnp.arange(1))
    _, (h, psi, epsilon) = jax.lax.scan(step, rule.init(params, (1,)), shown)
    for mine, its in zip(seen.spikes, h, strict=True):
        assert np.array_equal(mine, its[:, 0, 0])
    full = [x for x in epsilon if x.ndim == 4]  # [T, 1, lines, n]; a shared component has n = 1
    e = sum(np.asarray(d)[:, :, None] * x for d, x in zip((d for d in psi if d is not None), full))
    wanted = np.stack(
        [np.broadcast_to(e, (24, 1, 12, 12))[:, 0, i, j] for i, j in seen.synapses], 1
    )
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(seen.traces, wanted, rtol=1e-5, atol=1e-7)


def test_what_a_stack_refuses_is_said_before_anything_is_trained(tmp_path, capsys):
    from eprop_jax.cli.main import main

    for args, said in (
        (["--rule", "bptt,eprop"], "params['cell'][0]: got no path to the loss under e-prop (i*)"),
        (["--freeze", "0,1"], "freeze: got 0,1, wanted numbers of some layers"),
    ):
        out = tmp_path / "out"
        assert main(["--cell", "alif", "--layers", "4,3", *args, "--out", str(out)]) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1 and "Traceback" not in err
        assert not (out / "demo.png").exists()


@pytest.mark.slow
def test_the_demo_prints_a_stack_and_draws_its_layers(tmp_path):
    code, out, err = run(
        "--cell", "alif", "--layers", "12,9", "--rule", "bptt,paths:i*f*,frozen", "--steps", "20",
        "--seeds", "2", "--out", str(tmp_path), "--json",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(out)
    assert "ALIF, 12-9 units" in err and "frozen layers" in err
    assert found["settings"]["alif"]["units"] == [12, 9]
    assert found["fidelity"]["alif"]["orders"] == [2, 4, 8]
    exact, climbing, frozen = found["results"]
    assert [r["rule"] for r in found["results"]] == ["bptt", "paths:i*f*", "frozen"]
    assert exact["cosine_start"] == pytest.approx(1, abs=1e-5) and frozen["cosine_start"] is None
    assert 0.5 < climbing["cosine_start"] < 0.9999
    assert pathlib.Path(found["picture"]).read_bytes().startswith(b"\x89PNG")


def test_every_rule_of_the_demo_is_in_the_taxonomy():
    for key in demo.RULES:
        entry = taxonomy.find(key)
        assert entry.causal in ("yes", "no") and entry.equation and entry.cuts


@pytest.mark.slow
def test_the_command_line_trains_and_prints_json(tmp_path):
    code, out, err = run(
        "--cell", "gru", "--rule", "bptt,symmetric", "--steps", "20", "--seeds", "2",
        "--seed", "5", "--out", str(tmp_path), "--json",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(out)
    assert [r["rule"] for r in found["results"]] == ["bptt", "eprop"]  # by its old name, too
    for row in found["results"]:
        assert row["cell"] == "gru" and len(row["accuracies"]) == 2
        assert 0.3 < row["accuracy"] <= 1 and row["update_ms"] > 0
        assert row["curve"]["updates"][-1] == 20
    exact, local = found["results"]
    assert exact["cosine_start"] == pytest.approx(1, abs=1e-5)
    assert 0.5 < local["cosine_start"] < 0.9999
    errors = found["fidelity"]["gru"]["relative_error_start"]
    assert errors == sorted(errors, reverse=True) and errors[0] > 0.1 and errors[-1] < 1e-5
    assert found["seed"] == 5 and found["settings"]["gru"]["updates"] == 20
    assert "e-prop, symmetric" in err and "20" in err
    if found["picture"]:
        assert pathlib.Path(found["picture"]).read_bytes().startswith(b"\x89PNG")


def test_taxonomy_prints():
    code, out, _ = run("taxonomy")
    assert code == 0
    for word in ("BPTT", "RTRL", "m-order", "O(pT)", "O(p²T)", "O(np)", "keeps", "cuts", "causal",
                 "(i|s)*f*", "i*((e|f)i*){0,m-1}"):  # fmt: skip
        assert word in out
    code, out, _ = run("taxonomy", "--json")
    assert code == 0 and {"rules", "costs", "languages"} == set(json.loads(out))


@pytest.mark.parametrize(
    "args, nearest",
    [
        (["--rule", "epop"], "'eprop'"),
        (["--seed", "4294967296"], "wanted a whole number <= 4294967295"),
        (["--cell", "gur"], "'gru'"),
        (["--order", "0"], "nearest is 1"),
        (["--seeds", "two"], "wanted a whole number >= 1"),
        (["--stpes", "3"], "'--steps'"),
        (["taxonmy"], "'taxonomy'"),
    ],
)
def test_a_wrong_argument_is_refused_with_the_nearest_right_one(args, nearest, capsys):
    from eprop_jax.cli.main import main

    with pytest.raises(SystemExit) as stopped:
        main(args)
    assert stopped.value.code == 2
    assert nearest in capsys.readouterr().err


def test_output_that_nothing_takes_is_said_in_a_line():
    """A full disk, a closed stream, a pipe that nobody reads."""
    command = [sys.executable, "-m", "eprop_jax", "taxonomy"]
    begin = lambda line, out: subprocess.Popen(
        ["sh", "-c", line, *command], cwd=ROOT, stdout=out, stderr=subprocess.PIPE, text=True
    )
    reads, writes = os.pipe()
    os.close(reads)
    started = {
        "No space left": begin('exec "$0" "$@" > /dev/full', None),
        "Broken pipe": begin('exec "$0" "$@"', writes),
        "standard output is closed": begin('exec "$0" "$@" >&-', None),
    }
    for said, process in started.items():
        _, err = process.communicate(timeout=600)
        assert process.returncode in (1, 2) and said in err, err
        assert err.count("\n") == 1 and "Traceback" not in err
    os.close(writes)


def test_the_version_is_printed():
    code, out, _ = run("--version")
    assert code == 0 and out.strip() == f"eprop_jax {ej.__version__}"


def test_ctrl_c_ends_it_cleanly(tmp_path):
    process = start("--cell", "gru", "--steps", "100000", "--out", str(tmp_path))
    process.stdout.readline()  # the demo has begun
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "Traceback" not in err and err.strip().endswith("interrupted")
