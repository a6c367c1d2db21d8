"""The commands that train: train, resume, compare, sweep."""

import contextlib
import io
import json
import os
import pathlib

import jax
import numpy as np
import pytest

import eprop_jax as ej
from eprop_jax import checkpoints, experiments, runs
from eprop_jax.__main__ import main

SMALL = ["--task", "copy", "--cell", "rnn", "--units", "6", "--batch", "3"]


@pytest.fixture(autouse=True)
def as_a_user_starts_it():
    """The strict promotion that the suite sets is not a user's; optax.adam does not pass it."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def run(*args):
    """(exit code, what it printed as JSON)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*args, "--json"])
    return code, json.loads(out.getvalue()) if out.getvalue() else err.getvalue()


def final(folder, steps):
    e = experiments.experiment(runs.read_settings(folder / "settings.json"))
    return checkpoints.restore(folder / "checkpoints", experiments.start(e), steps)


@pytest.mark.slow
def test_a_run_that_is_resumed_is_the_run(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = [*SMALL, "--every", "4", "--rule", "eprop", "--feedback", "random"]
    code, found = run("train", *options, "--steps", "10", "--out", str(whole))
    assert code == 0 and found["steps"] == 10 and not found["goal_reached"]
    assert [row["step"] for row in found["rows"]] == [4, 8, 10]
    assert {"loss", "error", "test_error", "rate", "grad_norm", "cosine"} <= set(found["last"])

    assert run("train", *options, "--steps", "4", "--out", str(cut))[0] == 0
    with (cut / "log.jsonl").open("a") as log:  # as if killed after the row, before the save
        log.write('{"step": 8, "loss": 0.1}\n{"step": 10, "lo')
    code, again = run("resume", str(cut), "--steps", "10")
    assert code == 0 and again["rows"] == found["rows"]
    for a, b in zip(*(jax.tree.leaves(final(f, 10).params) for f in (whole, cut)), strict=True):
        assert np.array_equal(a, b)
    for name in ("settings.json", "log.jsonl", "summary.json", "curves.png"):
        assert (cut / name).exists()


def test_resuming_what_is_done_does_nothing(tmp_path):
    run("train", *SMALL, "--steps", "2", "--out", str(tmp_path))
    before = final(tmp_path, 2)
    code, found = run("resume", str(tmp_path))
    assert code == 0 and found["steps"] == 2
    assert np.array_equal(
        before.params["cell"]["w_rec"], final(tmp_path, 2).params["cell"]["w_rec"]
    )


@pytest.mark.slow
def test_compare_starts_every_rule_from_the_same_weights(tmp_path):
    code, found = run("compare", *SMALL, "--steps", "5", "--rule", "bptt,m-order,random",
                      "--order", "2,40", "--out", str(tmp_path))  # fmt: skip
    assert json.loads((tmp_path / "compare.json").read_text()) == found
    exact, second, all_orders, random = found["results"]
    assert code == 0
    assert [row["rule"] for row in found["results"]] == [
        "BPTT", "order 2, symmetric feedback", "order 40, symmetric feedback",
        "e-prop, random feedback",
    ]  # fmt: skip
    assert exact["cosine_start"] == pytest.approx(1)
    assert all_orders["test_loss"] == pytest.approx(exact["test_loss"])  # order > T is exact
    assert abs(random["cosine_start"]) < second["cosine_start"] < 1 - 1e-9
    assert second["test_loss"] != exact["test_loss"]
    assert exact["relative_time"] == 1 and random["relative_time"] > 0


def test_a_sweep_gives_each_seed_and_rate_its_own_run(tmp_path):
    code, found = run("sweep", *SMALL, "--steps", "6", "--seed", "3", "--seeds", "2",
                      "--lrs", "0.001,0.1", "--out", str(tmp_path / "new"))  # fmt: skip
    assert code == 0 and found["seeds"] == [3, 4]
    assert json.loads((tmp_path / "new" / "sweep.json").read_text()) == found
    assert (tmp_path / "new" / "curves.png").exists()
    slow, fast = found["results"]
    assert (slow["learning_rate"], fast["learning_rate"]) == (0.001, 0.1)
    curves = np.array(found["error_curves"])
    assert curves.shape == (2, 2, 6)
    s = experiments.settings(
        "copy", cell="rnn", units=6, batch=3, seed=4, learning_rate=0.1, steps=6
    )
    e = experiments.experiment(s)
    state, log = e.trainer.run(experiments.start(e), 6)
    np.testing.assert_allclose(curves[1, 1], log["error"], atol=1e-12)
    look = ej.training.evaluator(e.rule, e.sampler, metrics=e.metrics, batches=4)
    test = look(state.params, jax.random.fold_in(state.key, 2**31))
    assert fast["test_loss_by_seed"][1] == pytest.approx(float(test["test_loss"]), rel=1e-9)
    assert fast["test_loss"] == pytest.approx(np.mean(fast["test_loss_by_seed"]))


@pytest.mark.parametrize(
    "args, said",
    [
        (["train", "--task", "evidense"], "did you mean 'evidence'"),
        (["train", "--rule", "e-prop"], "did you mean 'eprop'"),
        (["train", "--feedback", "randon"], "did you mean 'random'"),
        (["train", "--cell", "ailf"], "did you mean 'alif'"),
        (["train", "--optimizer", "adma"], "did you mean 'adam'"),
        (["train", "--lr", "-1"], "wanted a number > 0"),
        (["train", "--lr", "fast"], "wanted a number > 0"),
        (["train", "--clip", "nan"], "wanted a number >= 0"),
        (["train", "--bacth", "3"], "'--batch'"),
        (["train", "--reset-gradient", "on"], "(one of yes, no)"),
        (["sweep", "--lrs", "0.1,x"], "got 'x', wanted a number > 0"),
        (["sweep", "--seeds", "0"], "nearest is 1"),
        (["compare", "--rule", "bptt,rtlr"], "did you mean 'rtrl'"),
        (["compar"], "did you mean 'compare'"),
    ],
)
def test_a_wrong_option_is_refused_with_the_nearest_right_one(args, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(args)
    assert stopped.value.code == 2 and said in capsys.readouterr().err


def test_what_cannot_be_run_is_said_in_one_line(tmp_path, capsys):
    (tmp_path / "settings.json").write_text(
        '{"format": 1, "settings": {"task": "copy", "units": -3}}'
    )
    for args, said in (
        (
            ["train", "--rule", "bptt", "--feedback", "random"],
            "feedback: got 'random' with rule 'bptt'",
        ),
        (["train", "--out", str(tmp_path)], "--out: "),
        (["resume", str(tmp_path / "nowhere")], "no settings.json"),
        (["resume", str(tmp_path)], "units: got -3, wanted an int >= 1"),
    ):
        assert main(args) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1 and "Traceback" not in err


def test_the_reset_gradient_is_a_choice():
    from eprop_jax.__main__ import parse

    of = lambda *options: runs.settings_of(parse(["train", *options])).reset_gradient
    assert (of(), of("--reset-gradient", "yes"), of("--reset-gradient", "no")) == (
        None,
        True,
        False,
    )


def test_settings_of_another_kind_are_refused(tmp_path):
    path = tmp_path / "settings.json"
    for text in ("", "[]", '{"settings": 3}', '{"settings": {"task": "copy", "unit": 3}}', "\0"):
        path.write_text(text)
        with pytest.raises(ValueError, match="holds no settings of a run"):
            runs.read_settings(path)


def test_the_log_is_never_half_written(tmp_path, monkeypatch):
    path = tmp_path / "settings.json"
    runs.replace(path, "first")

    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        runs.replace(pathlib.Path(path), "second")
    assert path.read_text() == "first"
