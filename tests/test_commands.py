"""The commands beside training: predict and report; and what all of them say while they work."""

import contextlib
import io
import json

import jax
import numpy as np
import pytest

import eprop_jax as ej
from eprop_jax.cli import catalogue, experiments, predictions, reports, runs, terminal
from eprop_jax.cli.main import COMMANDS, main, parse

SMALL = ["--cell", "rnn", "--units", "6", "--batch", "3"]


@pytest.fixture(autouse=True)
def as_a_user_starts_it():
    """The strict promotion that the suite sets is not a user's; optax.adam does not pass it."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def run(*args):
    """(exit code, JSON of what it printed or None, what it said)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*map(str, args), "--json"])
    return code, json.loads(out.getvalue()) if out.getvalue() else None, err.getvalue()


def begun(folder, task, **chosen):
    """A run's folder without the training: (its experiment, its weights)."""
    s = experiments.settings(task, **{"cell": "rnn", "units": 6, "batch": 3, **chosen})
    e = experiments.experiment(s)
    state = experiments.start(e)
    runs.remember(folder, s)
    ej.checkpoints.save(folder / "checkpoints", state._replace(step=state.step + 7), 7)
    return e, state.params


# -- predict ---------------------------------------------------------------------------------------


def by_hand(e, params, x):
    """Outputs of one sequence [T, F], step by step, of an rnn."""
    cell = {k: np.asarray(v) for k, v in params["cell"].items()}
    h, outputs = np.zeros(e.net.cell.n_units), []
    for x_t in np.asarray(x):
        h = np.tanh(x_t @ cell["w_in"] + h @ cell["w_rec"] + cell["bias"])
        outputs.append(h @ np.asarray(params["readout"]["w_out"]) + params["readout"]["bias"])
    return np.asarray(outputs)


def test_test_examples_are_named_where_the_task_asks(tmp_path):
    e, params = begun(tmp_path, "digits")
    code, found, _ = run("predict", tmp_path, "--examples", 5, "--out", tmp_path / "p.npz")
    assert code == 0 and found["step"] == 7 and found["examples"] == 5
    xs, (label, _) = e.test_sampler(jax.random.fold_in(jax.random.key(0), 2**31), batch=5)
    outputs = np.stack([by_hand(e, params, xs[:, n]) for n in range(5)])
    np.testing.assert_allclose(found["logits"], outputs[:, -1], atol=1e-5)  # the last row's
    assert found["classes"] == outputs[:, -1].argmax(-1).tolist()
    assert found["wanted"] == label[-1].tolist()
    wrong = np.mean(np.array(found["classes"]) != np.array(found["wanted"]))
    assert found["metrics"]["error"] == pytest.approx(wrong)
    with np.load(tmp_path / "p.npz") as file:
        assert sorted(file) == ["classes", "logits", "outputs", "wanted"]
        np.testing.assert_allclose(file["outputs"], outputs, atol=1e-5)
    other = run("predict", tmp_path, "--examples", 5, "--seed", 1)[1]
    assert other["logits"] != found["logits"] and other["file"] is None


def test_a_task_that_asks_at_each_step_is_answered_there(tmp_path):
    e, params = begun(tmp_path, "copy")
    _, found, said = run("predict", tmp_path)
    xs, (label, weight) = e.test_sampler(jax.random.fold_in(jax.random.key(0), 2**31), batch=3)
    asked = np.asarray(weight.T) > 0
    assert 0 < asked.sum() < asked.size
    outputs = np.stack([by_hand(e, params, xs[:, n]) for n in range(3)])
    assert np.array_equal(found["classes"], np.where(asked, outputs.argmax(-1), -1))
    assert np.array_equal(found["wanted"], np.where(asked, label.T, -1))
    assert found["logits"] is None and "-1" not in said


def test_real_targets_have_outputs_and_no_classes(tmp_path):
    begun(tmp_path, "pattern", batch=1)
    code, found, said = run("predict", tmp_path, "--out", tmp_path / "p.npz")
    assert code == 0 and found["classes"] is None and found["metrics"]["nmse"] > 0
    assert "outputs [1, " in said
    with np.load(tmp_path / "p.npz") as file:
        assert (
            sorted(file) == ["outputs", "wanted"] and file["wanted"].shape == file["outputs"].shape
        )


@pytest.mark.parametrize("task", ["digits", "vowels", "copy"])
def test_your_own_examples_are_named_as_the_tasks_are(tmp_path, task):
    e, params = begun(tmp_path, task)
    rng = np.random.default_rng(0)
    X, lengths = rng.normal(size=(4, 9, e.net.n_in)).astype("float32"), np.array([9, 2, 5, 9])
    outputs = [by_hand(e, params, x[:n]) for x, n in zip(X, lengths)]
    if task == "copy":
        wanted = [[*y.argmax(-1).tolist(), *[-1] * (9 - len(y))] for y in outputs]
        y = np.zeros((4, 9), int)
    else:
        logits = [y[-1] if task == "digits" else y.mean(0) for y in outputs]
        wanted, y = np.argmax(logits, -1).tolist(), np.zeros(4, int)
    np.savez(tmp_path / "own.npz", X=X, lengths=lengths, y=y)
    code, found, _ = run("predict", tmp_path, "--data", tmp_path / "own.npz")
    assert code == 0 and found["classes"] == wanted
    named = np.array([k for row in wanted for k in np.atleast_1d(row) if k >= 0])
    assert found["metrics"]["error"] == pytest.approx(np.mean(named != 0))
    np.save(tmp_path / "own.npy", X)
    code, found, _ = run("predict", tmp_path, "--data", tmp_path / "own.npy")
    assert code == 0 and found["classes"][0] == wanted[0]
    assert found["metrics"] == {} and found["wanted"] is None


def test_what_cannot_be_predicted_is_said_in_one_line(tmp_path):
    begun(tmp_path, "digits")
    (tmp_path / "words.npy").write_text("words")
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    np.save(tmp_path / "flat.npy", np.ones((4, 8)))
    np.save(tmp_path / "wide.npy", np.ones((4, 8, 5)))
    np.savez(tmp_path / "z.npz", Z=np.ones(3))
    np.savez(tmp_path / "long.npz", X=np.ones((2, 3, 8)), lengths=[3, 4])
    np.savez(tmp_path / "y.npz", X=np.ones((2, 3, 8)), y=[3, 4, 5])
    (tmp_path / "empty").mkdir()
    runs.remember(tmp_path / "empty", experiments.settings("copy"))
    for args, said in (
        (["--data", "words.npy"], "holds no arrays of numbers"),
        (["--data", "objects.npy"], "holds no arrays of numbers"),
        (["--data", "nowhere.npy"], "nowhere.npy, where there is none"),
        (["--data", "flat.npy"], "X: got shape [4, 8], wanted [N, T, F]"),
        (["--data", "wide.npy"], "X: got shape [4, 8, 5], wanted [N, T, 8]"),
        (["--data", "z.npz"], "z.npz holds Z; wanted a .npy file of X"),
        (["--data", "long.npz"], "lengths: got 4"),
        (["--data", "y.npz"], "y: got shape [3], wanted [2]"),
        (["--out", "words.npy"], "wanted a new file whose name ends in .npz"),
        (["--out", "z.npz"], "wanted a new file whose name ends in .npz"),
    ):
        code, found, err = run("predict", tmp_path, args[0], tmp_path / args[1])
        assert code == 2 and found is None and said in err, err
        assert err.count("\n") == 1 and "Traceback" not in err and "pickle" not in err
    for folder, said in (
        ("nowhere", "no settings.json of a run"),
        ("empty", "complete checkpoint"),
    ):
        code, _, err = run("predict", tmp_path / folder)
        assert code == 2 and said in err and err.count("\n") == 1


# -- report ----------------------------------------------------------------------------------------


def test_a_report_is_that_of_the_rule_and_its_costs_those_of_its_sizes():
    code, found, said = run("report", "--task", "copy", *SMALL, "--rule", "rtrl")
    e = experiments.experiment(
        experiments.settings("copy", rule="rtrl", cell="rnn", units=6, batch=3)
    )
    params = experiments.start(e).params
    assert code == 0 and str(ej.paths.report(e.rule, params, batch=3)) in said
    assert (
        found["parameters"] == sum(x.size for x in jax.tree.leaves(params)) == 6 * (6 + 6 + 1) + 28
    )
    assert found["exact"] and found["layers"][0]["dropped"] == []
    whole, chunked, online = found["costs"]
    carry = e.rule.init(params, (3,))
    held = sum(x.nbytes for x in jax.tree.leaves(carry))
    assert online["bytes"] == held + ej.cost(e.rule, params, (3,), 1).chunk_bytes
    assert whole["bytes"] == 16 * ej.cost(e.rule, params, (3,), None).chunk_bytes
    assert whole["relative_work"] == 1 < chunked["relative_work"] < online["relative_work"]
    lines = [line.split()[:2] for line in said.splitlines()]
    assert ["whole", "sequences"] in lines and ["step", "by"] in lines


@pytest.mark.parametrize(
    "rule, exact, runs_of_it",
    [("bptt", True, 1), ("eprop", False, 3), ("random", False, 3), ("frozen", False, 3)],
)
def test_a_report_says_whether_the_gradient_is_the_losses(rule, exact, runs_of_it):
    s = experiments.settings("copy", rule=rule, cell="rnn", units=6, batch=3)
    found = reports.as_dict(s)
    assert found["exact"] == exact and len(found["costs"]) == runs_of_it
    said = reports.as_text(found, reports.kept_paths(s))
    wanted = {"bptt": "exact, that of the loss", "frozen": "exact, of the read-out"}
    assert wanted.get(rule, "not exact in all layers") in said


def test_a_setup_that_would_be_refused_is_reported_and_not_run():
    code, found, said = run("report", "--task", "copy", "--cell", "rnn", "--layers", "6,5")
    assert code == 0 and found["costs"] is None
    assert "got no path to the loss under e-prop" in found["refused"]
    assert "no path from ['w_rec']" in said and "It would be refused: params['cell'][0]" in said
    s = experiments.settings("copy", cell="rnn", units=(6, 5))
    with pytest.raises(ValueError, match="no path to the loss"):
        runs.prepare(s)


def test_a_report_of_what_no_memory_holds_makes_no_array():
    code, _, err = run("report", "--task", "evidence", "--units", "1000000")
    assert code == 2 and "wanted less than this machine's" in err and err.count("\n") == 1


# -- tasks ----------------------------------------------------------------------------------------


def test_the_minutes_of_every_task_are_of_its_present_defaults(capsys):
    taken = catalogue.measured()
    assert [row["task"] for row in taken["rows"]] == list(experiments.TASKS)
    for row, shown in zip(taken["rows"], catalogue.overview(), strict=True):
        assert {k: shown["defaults"][k] for k in catalogue.SIZES} == {
            k: row[k] for k in catalogue.SIZES
        }
        pauses = row["steps"] / row["every"]
        least = row["first_s"] + (pauses - 1) * row["pause_s"]
        assert shown["minutes"] == row["minutes"] == pytest.approx(least / 60, rel=0.1)
    assert catalogue.minutes(experiments.settings("copy", steps=7)) is None
    assert main(["tasks"]) == 0
    said = capsys.readouterr().out
    assert taken["processor"] in said and "python -m benchmarks.minutes" in said
    for row, line in zip(taken["rows"], said.splitlines()[2:]):
        assert f"{row['minutes']:.2g}" in line.split()


# -- what all of them say --------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_json(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    said = capsys.readouterr().out
    assert stopped.value.code == 0
    assert said.startswith(f"usage: python -m eprop_jax {command} [-h]")
    assert "--json" in said and COMMANDS[command].help.split()[0] in said
    assert all(len(line) <= 80 for line in said.splitlines())


def test_without_a_command_it_is_the_demo():
    assert parse([]).command == "demo" and parse(["--seeds", "2"]).seeds == 2


def test_training_is_seen_while_it_goes_on(tmp_path):
    seen = []

    class Watched(io.StringIO):
        def write(self, text):
            rows = runs.read_rows(tmp_path / "log.jsonl")
            seen.append((text, len(rows)))
            return len(text)

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(Watched()):
        train = ["train", "--task", "copy", *SMALL, "--steps", "6", "--every", "2"]
        assert main([*train, "--out", str(tmp_path)]) == 0
    rows = runs.read_rows(tmp_path / "log.jsonl")
    said = [(text, n) for text, n in seen if "updates" in text]
    assert said[0] == ("e-prop, symmetric: 0 of 6 updates, compiling", 0)
    for (text, n), row, done in zip(said[1:], rows, (2, 4, 6), strict=True):
        assert n == done // 2  # not all at the end
        for name in ("loss", "error", "test error"):
            assert f"{name} {row[name.replace(' ', '_')]:.3g}" in text
        assert text.startswith(f"e-prop, symmetric: {done} of 6 updates, loss ")
    assert "to go" in said[2][0] and "to go" not in said[3][0]


def test_the_time_to_go_is_without_the_compiling(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    with terminal.Progress(100, done=20) as bar:
        for at, done in ((0, 0), (60, 20), (62, 20), (63, 0), (93, 10), (96, 10)):
            now[0] = at
            bar.move("rule", done, {"test_loss": 0.25} if done else None)
    assert capsys.readouterr().err.splitlines() == [
        "rule: 20 of 100 updates, compiling",
        "rule: 40 of 100 updates, test loss 0.25",
        "rule: 60 of 100 updates, test loss 0.25, about 4 s to go",
        "rule: 60 of 100 updates, compiling",
        "rule: 70 of 100 updates, test loss 0.25",
        "rule: 80 of 100 updates, test loss 0.25, about 6 s to go",
    ]


def test_a_terminal_has_a_bar_that_says_the_same(monkeypatch):
    pytest.importorskip("tqdm", reason="the bar is tqdm's: the extra `train`")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(terminal.sys, "stderr", Terminal())
    with terminal.Progress(100, done=20) as bar:
        bar.move("rule", 0)
        bar.move("rule", 80, {"test_loss": 0.25})
    said = terminal.sys.stderr.getvalue()
    assert "20/100" in said and "compiling" in said
    assert "100/100" in said and "test loss 0.25" in said


def test_few_lines_come_of_many_pauses(monkeypatch, capsys):
    monkeypatch.setattr(terminal.time, "monotonic", lambda: 0.0)
    with terminal.Progress(1000) as bar:
        for _ in range(1000):
            bar.move("rule", 1, {"loss": 1.0})
    assert len(capsys.readouterr().err.splitlines()) == terminal.Progress.SHARE


def test_what_a_table_shows_of_many_examples_is_their_beginning():
    found = predictions.Answers(np.zeros((12, 3, 2)), np.arange(12), np.zeros((12, 2)))
    lines = predictions.as_text(found).splitlines()
    assert lines[2].split() == ["0", "0", "0.500"] and len(lines) == 2 + predictions.SHOWN + 1
    assert lines[-1].startswith("… and 2 more")
