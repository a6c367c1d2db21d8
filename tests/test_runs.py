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
from eprop_jax import checkpoints
from eprop_jax.cli import demo, experiments, options, runs, studies
from eprop_jax.cli.main import main
from eprop_jax.paper import taxonomy
from eprop_jax.run import folders

SMALL = ["--task", "copy", "--cell", "rnn", "--units", "6", "--batch", "3"]
STACK = ["--task", "copy", "--cell", "rnn", "--layers", "6,5", "--batch", "3"]


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


def dies(monkeypatch, step, after):
    """The process is killed before or after it saves this step."""
    real = checkpoints.save

    def save(folder, tree, number, **kw):
        if number == step and not after:
            raise KeyboardInterrupt
        real(folder, tree, number, **kw)
        if number == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save", save)


@pytest.mark.slow
def test_a_run_that_is_resumed_is_the_run(tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    options = [*SMALL, "--every", "4", "--rule", "random"]
    code, found = run("train", *options, "--steps", "10", "--out", str(whole))
    assert code == 0 and found["steps"] == 10 and not found["goal_reached"]
    assert found["rule"] == "random" and found["name"] == "e-prop, random"
    assert [row["step"] for row in found["rows"]] == [4, 8, 10]
    assert {"loss", "error", "test_error", "rate", "grad_norm", "cosine"} <= set(found["last"])

    for step, after in ((8, False), (8, True)):
        cut = tmp_path / f"cut{step}{after}"
        with monkeypatch.context() as patch:
            dies(patch, step, after)
            assert run("train", *options, "--steps", "10", "--out", str(cut))[0] == 130
        with (cut / "log.jsonl").open("a") as log:
            log.write('{"step": 10, "lo')
        code, again = run("resume", str(cut))
        assert code == 0 and again["rows"] == found["rows"]
        for a, b in zip(*(jax.tree.leaves(final(f, 10).params) for f in (whole, cut)), strict=True):
            assert np.array_equal(a, b)
        for name in ("settings.json", "log.jsonl", "summary.json", "curves.png"):
            assert (cut / name).exists()


def test_a_goal_is_not_forgotten_by_a_run_that_is_killed_there(tmp_path, monkeypatch):
    easy = {**experiments.PROBLEMS, "copy": experiments.PROBLEMS["copy"]._replace(goal=2.0)}
    monkeypatch.setattr(experiments, "PROBLEMS", easy)
    with monkeypatch.context() as patch:
        dies(patch, 2, after=True)
        assert (
            run("train", *SMALL, "--every", "2", "--steps", "50", "--out", str(tmp_path))[0] == 130
        )
    code, found = run("resume", str(tmp_path))
    assert code == 0 and found["goal_reached"] and found["steps"] == 2
    assert [row["step"] for row in found["rows"]] == [2]


def test_resuming_what_is_done_does_nothing(tmp_path):
    run("train", *SMALL, "--steps", "2", "--out", str(tmp_path))
    before = final(tmp_path, 2)
    code, found = run("resume", str(tmp_path))
    assert code == 0 and found["steps"] == 2
    assert np.array_equal(
        before.params["cell"]["w_rec"], final(tmp_path, 2).params["cell"]["w_rec"]
    )
    code, said = run("resume", str(tmp_path), "--steps", "1")
    assert code == 2 and "--steps: got 1, wanted >= 2, the updates that are done" in said
    assert run("resume", str(tmp_path), "--steps", "3")[1]["steps"] == 3
    assert runs.read_settings(tmp_path / "settings.json").steps == 3
    assert run("resume", str(tmp_path))[1]["steps"] == 3


@pytest.mark.skipif(folders.fcntl is None, reason="no locks here")
def test_a_run_at_which_another_process_works_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "PATIENCE", 0.1)
    runs.remember(tmp_path, experiments.settings("copy"))
    (tmp_path / ".lock").write_text("process 123 on elsewhere")
    with (tmp_path / ".lock").open() as held:
        folders.fcntl.flock(held, folders.fcntl.LOCK_EX)
        for command in ("train", "compare"):
            out = tmp_path if command == "compare" else tmp_path / "new"
            if command == "train":
                out.mkdir()
                (out / ".lock").symlink_to(tmp_path / ".lock")
            code, said = run(command, *SMALL, "--steps", "1", "--out", str(out))
            assert (
                code == 2
                and "process 123 on elsewhere" in said
                and not (out / "log.jsonl").exists()
            )
        code, said = run("resume", str(tmp_path))
        assert code == 2 and "dir: got" in said and "process 123 on elsewhere" in said


def test_a_run_is_not_begun_over_what_another_left(tmp_path):
    checkpoints.save(tmp_path / "checkpoints", {"w": np.ones(2)}, 7)
    there = sorted(p for p in tmp_path.rglob("*"))
    code, said = run("train", *SMALL, "--steps", "5", "--out", str(tmp_path))
    assert code == 2 and "holds checkpoints of another run" in said
    assert sorted(p for p in tmp_path.rglob("*")) == there


def test_a_start_that_fails_leaves_a_folder_that_can_be_used(tmp_path, monkeypatch):
    out, file = tmp_path / "new", tmp_path / "file"
    file.write_text("mine")
    absent = ImportError("checkpoints need orbax-checkpoint")
    full = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")

    def fails(error):
        def of(*_, **__):
            raise error

        return of

    for patched, error, more, said in (
        ((checkpoints, "orbax"), absent, [], "need orbax"),
        ((ej.training, "fit"), full, [], "out of memory"),
        ((ej.training, "fit"), MemoryError(), [], "out of memory"),
        (None, None, ["--batch", "1000000000"], "batch, units: got 1000000000, 6"),
        (None, None, ["--batch", "1" + 30 * "0"], "batch, units: got 1"),
        (None, None, ["--units", "1000000"], "wanted less than this machine's"),
        (None, None, ["--out", str(file)], "is a file; wanted a folder"),
        (None, None, ["--out", str(file / "x")], "is a file; wanted a folder"),
    ):
        with monkeypatch.context() as patch:
            if patched:
                patch.setattr(*patched, fails(error))
            code, told = run("train", *SMALL, "--steps", "1", "--out", str(out), *more)
        assert code == 2 and said in told and "Traceback" not in told
        runs.is_new(out)
    with pytest.raises(SystemExit):
        run("train", *SMALL, "--seed", str(2**32), "--out", str(out))
    with pytest.raises(ValueError, match="seed: got 4294967296, wanted an int < 2"):
        experiments.settings("copy", seed=2**32)
    assert file.read_text() == "mine"


# -- compare and sweep -----------------------------------------------------------------------------


@pytest.mark.slow
def test_compare_starts_every_rule_from_the_same_weights(tmp_path):
    code, found = run("compare", *SMALL, "--steps", "7", "--rule", "bptt,m-order,random,frozen",
                      "--order", "2,40", "--out", str(tmp_path))  # fmt: skip
    assert json.loads((tmp_path / "compare.json").read_text()) == found
    exact, second, all_orders, random, frozen = found["results"]
    assert code == 0 and found["finished"]
    assert [(row["rule"], row["name"]) for row in found["results"]] == [
        ("bptt", "BPTT"), ("m-order", "e-prop, order 2"), ("m-order", "e-prop, order 40"),
        ("random", "e-prop, random"), ("frozen", "frozen layer"),
    ]  # fmt: skip
    assert all(row["steps"] == row["curve"]["updates"][-1] == 7 for row in found["results"])
    assert pathlib.Path(found["picture"]).read_bytes().startswith(b"\x89PNG")
    assert frozen["cosine_start"] is None and frozen["test_loss"] != exact["test_loss"]
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


def canned(s, progress):
    """In `compared`'s place."""
    progress(s.steps)
    return {
        "rule": experiments.key(s), "name": experiments.name(s), "test_loss": 1.0, "test_error": 0.5,
        "cosine_start": 1.0, "cosine_end": None, "update_ms": 2.0,
        "curve": {"updates": [1, 2], "loss": [2.0, 1.0], "error": [0.9, 0.8]},
    }  # fmt: skip


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_results_are_saved_before_they_are_printed_in_whatever_letters_there_are(
    tmp_path, monkeypatch, encoding
):
    monkeypatch.setattr(studies, "compared", canned)
    out = io.BytesIO()
    with contextlib.redirect_stdout(io.TextIOWrapper(out, encoding)) as stream:
        assert main(["compare", *SMALL, "--rule", "bptt,eprop", "--out", str(tmp_path / "1")]) == 0
        assert "BPTT" in out.getvalue().decode(encoding)
        stream.detach()

    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

    err = io.StringIO()
    with contextlib.redirect_stdout(Closed()), contextlib.redirect_stderr(err):
        code = main(["compare", *SMALL, "--rule", "bptt,eprop", "--out", str(tmp_path / "2")])
    assert code == 1 and err.getvalue().endswith("could not write what it prints: Broken pipe\n")
    first, second = (json.loads((tmp_path / i / "compare.json").read_text()) for i in "12")
    assert first["results"] == second["results"] and first["finished"] and second["finished"]


def test_what_was_found_is_kept_when_a_command_is_killed(tmp_path, monkeypatch):
    def once(s, progress):
        if s.rule != "bptt":
            raise KeyboardInterrupt
        return canned(s, progress)

    monkeypatch.setattr(studies, "compared", once)
    monkeypatch.chdir(tmp_path)
    for folder in ("out/compare", "out/compare-2"):  # by themselves, they take a new one each time
        assert main(["compare", *SMALL, "--rule", "bptt,eprop"]) == 130
        found = json.loads((tmp_path / folder / "compare.json").read_text())
        assert [row["rule"] for row in found["results"]] == ["bptt"] and not found["finished"]
        assert (tmp_path / folder / "curves.png").exists()
    code, said = run("compare", *SMALL, "--out", "out/compare")
    assert code == 2 and "--out: out/compare holds compare.json already" in said

    def dies(self, name, done, seen=None):
        self.done += done
        if self.done == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(studies.Progress, "move", dies)
    assert main(["sweep", *SMALL, "--steps", "3", "--seeds", "2"]) == 130
    found = json.loads((tmp_path / "out/sweep/sweep.json").read_text())
    assert found["steps"] == 1 and not found["finished"] and found["results"][0]["test_loss"] > 0
    assert np.shape(found["error_curves"]) == (1, 2, 1) and (tmp_path / found["picture"]).exists()


# -- stacks and languages --------------------------------------------------------------------------


def test_layers_are_the_sizes_of_a_stack_and_one_number_is_the_plain_network():
    from eprop_jax.cli.main import parse

    of = lambda *args: runs.settings_of(parse(["train", "--task", "xor", *args]))
    assert of("--layers", "8") == of("--units", "8")
    assert not experiments.network(of("--layers", "8")).stacked
    net = experiments.network(of("--layers", "8,6,4", "--cell", "alif"))
    assert str(net) == "Network([alif 40 -> 8, alif 8 -> 6, alif 6 -> 4], leaky 4 -> 2)"
    assert experiments.title(of("--layers", "8,6")) == "xor, lsnn of 8-6 units"


def test_a_run_of_a_stack_is_read_back_as_it_was_asked(tmp_path):
    s = experiments.settings(
        "copy", units=(6, 5), freeze=(1,), rule="paths:i*f*", feedback="random"
    )
    runs.remember(tmp_path, s)
    assert json.loads((tmp_path / "settings.json").read_text())["settings"]["units"] == [6, 5]
    assert runs.read_settings(tmp_path / "settings.json") == s


def test_every_rule_but_symmetric_eprop_is_one_of_a_stack():
    wanted = {"m-order": "i*((e|f)i*){0,1}", "random": "i*", "adaptive": "i*", "frozen": "i*f*",
              "paths:(i|s)*f*": "(i|s)*f*"}  # fmt: skip
    for rule in (*(key for key in taxonomy.KEYS if key != "eprop"), "paths:(i|s)*f*"):
        s = experiments.settings("copy", rule=rule, cell="rnn", units=(6, 5), batch=2)
        runs.prepare(s)
        e = experiments.experiment(s)
        assert e.net.stacked and e.rule.spec.language == wanted.get(rule, "(i|e|f)*")
        assert experiments.key(s) == rule
        assert e.rule.spec.feedback == (rule if rule in ("random", "adaptive") else "symmetric")
    with pytest.raises(ValueError, match="no path to the loss under e-prop"):
        runs.prepare(experiments.settings("copy", units=(6, 5)))


@pytest.mark.parametrize(
    "rule, freeze, still",
    [("paths:i*f*", (0,), {0}), ("bptt", (1,), {1}), ("frozen", None, {0, 1})],
)
def test_layers_of_a_stack_stay_as_they_are(rule, freeze, still):
    s = experiments.settings("copy", rule=rule, freeze=freeze, cell="rnn", units=(4, 3), batch=2,
                             clip=1.0, feedback="random" if freeze == (0,) else None)  # fmt: skip
    e = experiments.experiment(s)
    before = experiments.start(e)
    after, _ = e.trainer.run(before, 3)
    parts = lambda state: [*state.params["cell"], state.params["readout"]]
    for l, pair in enumerate(zip(parts(before), parts(after), strict=True)):
        leaves = zip(*map(jax.tree.leaves, pair))
        assert all(np.array_equal(a, b) for a, b in leaves) == (l in still)


def test_languages_have_commas_in_braces_alone(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        studies, "compared", lambda s, progress: asked.append(s) or canned(s, progress)
    )
    rules = "bptt,paths:i*((e|f)i*){0,2},random"
    assert main(["compare", *STACK, "--rule", rules, "--out", str(tmp_path / "1")]) == 0
    assert [experiments.key(s) for s in asked] == ["bptt", "paths:i*((e|f)i*){0,2}", "random"]
    asked.clear()
    assert main(["compare", *STACK, "--freeze", "0", "--out", str(tmp_path / "2")]) == 0
    assert [experiments.name(s) for s in asked] == [
        f"{name}, layer 0 frozen"
        for name in ("BPTT", "e-prop, order 2", "paths i*f*", "e-prop, random")
    ]


@pytest.mark.slow
def test_a_run_of_a_stack_that_is_resumed_is_the_run(tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = [*STACK, "--every", "2", "--rule", "paths:i*f*", "--steps", "6"]
    code, found = run("train", *options, "--out", str(whole))
    assert code == 0 and found["name"] == "paths i*f*" and found["last"]["cosine"] < 1 - 1e-6
    with monkeypatch.context() as patch:
        dies(patch, 4, True)
        assert run("train", *options, "--out", str(cut))[0] == 130
    code, again = run("resume", str(cut))
    assert code == 0 and again["rows"] == found["rows"]
    for a, b in zip(*(jax.tree.leaves(final(f, 6).params) for f in (whole, cut)), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.slow
def test_compare_and_sweep_take_a_stack(tmp_path):
    code, found = run("compare", *STACK, "--steps", "5", "--rule", "bptt,paths:(i|e|f)*,paths:i*f*",
                      "--out", str(tmp_path / "1"))  # fmt: skip
    assert code == 0
    exact, all_paths, climbing = found["results"]
    assert all_paths["test_loss"] == pytest.approx(exact["test_loss"])
    assert all_paths["cosine_end"] == pytest.approx(1)
    assert climbing["rule"] == "paths:i*f*" and climbing["cosine_end"] < 1 - 1e-6
    code, found = run("sweep", *STACK, "--steps", "5", "--seeds", "2", "--rule", "paths:i*f*",
                      "--freeze", "0", "--out", str(tmp_path / "2"))  # fmt: skip
    assert code == 0 and found["name"] == "paths i*f*, layer 0 frozen"
    assert len(set(found["results"][0]["test_loss_by_seed"])) == 2


# -- names and options -----------------------------------------------------------------------------


def test_rules_have_one_name_in_every_command():
    from eprop_jax.cli.main import parse

    assert demo.RULES == experiments.RULES == options.RULES == taxonomy.KEYS
    for rule in (*taxonomy.KEYS, "symmetric"):
        s = runs.settings_of(parse(["train", "--task", "copy", "--rule", rule]))
        key = taxonomy.find(rule).key
        assert experiments.key(s) == key == ("eprop" if rule == "symmetric" else rule)
        for command in (["compare"], []):
            assert parse([*command, "--rule", rule]).rule == [[key]]
        net = demo.setup("gru").net
        (method,) = demo.methods(net, [rule], [2])
        assert method.key == key
        assert method.name.split(",")[0] == experiments.name(s).split(",")[0]
        made = experiments.rule(s, experiments.network(s)).spec
        assert made.language == method.rule.spec.language
        assert made.feedback == method.rule.spec.feedback
    both = ["train", "--rule", "eprop", "--feedback", "random"]
    assert runs.settings_of(parse(both)) == runs.settings_of(parse(["train", "--rule", "random"]))
    with pytest.raises(ValueError, match="feedback: got 'symmetric' with rule 'random'"):
        experiments.settings("copy", rule="random", feedback="symmetric")


def test_a_frozen_layer_stays_as_it_is():
    s = experiments.settings("copy", rule="frozen", cell="rnn", units=4, batch=2, clip=1.0)
    e = experiments.experiment(s)
    before = experiments.start(e)
    after, _ = e.trainer.run(before, 3)
    for part, moves in (("cell", False), ("readout", True)):
        pairs = zip(*(jax.tree.leaves(state.params[part]) for state in (before, after)))
        assert any(not np.array_equal(a, b) for a, b in pairs) == moves


def test_the_tasks_are_printed_with_what_they_begin_with(capsys):
    assert main(["tasks"]) == 0
    said = capsys.readouterr().out
    for line in said.splitlines()[2:11]:
        task = line.split()[0]
        s = experiments.settings(task)
        assert {s.cell, str(s.units), str(s.batch), str(s.steps), s.optimizer} <= set(line.split())
        assert f"{s.learning_rate:g}" in line.split()
    for row in run("tasks")[1]:
        xs, _ = jax.eval_shape(
            experiments.experiment(experiments.settings(row["task"], batch=2)).sampler,
            jax.random.key(1),
        )
        assert xs.shape == (row["T"], 2, row["n_in"])
        assert row["defaults"] == json.loads(
            json.dumps(experiments.settings(row["task"])._asdict())
        )


@pytest.mark.parametrize("args", [["-v"], ["train", "-v"], ["train", "--xyzzy"], ["resume", "a", "b"],
                                  ["train", "--task", "mnist"]])  # fmt: skip
def test_nothing_is_suggested_that_is_not_near(args, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(args)
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and "did you mean" not in err and "unknown" in err


@pytest.mark.parametrize(
    "args, said",
    [
        (["train", "--rule", "BPTT"], "did you mean 'bptt'"),
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
        (["train", "--layers", "0"], "--layers: got '0', wanted a whole number >= 1"),
        (["sweep", "--layers", "a,b"], "--layers: got 'a', wanted a whole number >= 1"),
        (["compare", "--layers", "8,"], "--layers: got '', wanted a whole number >= 1"),
        (["train", "--layers", "8,6", "--units", "8"], "not allowed with argument --layers"),
        (["train", "--units", "8", "--layers", "8"], "not allowed with argument --units"),
        (["sweep", "--freeze", "-1"], "--freeze: got '-1', wanted a whole number >= 0"),
        (["train", "--rule", "paths:i*g"], "paths: got 'i*g' with 'g' at index 2"),
        (["compare", "--rule", "bptt,paths:i*(f"], "the ')' of the '(' at index 2"),
        (["--rule", "bptt,i*f*"], "unknown rule 'i*f*' (one of bptt, "),
    ],
)
def test_a_wrong_option_is_refused_with_the_nearest_right_one(args, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(args)
    assert stopped.value.code == 2 and said in capsys.readouterr().err


def test_what_cannot_be_run_is_said_in_one_line(tmp_path, capsys):
    new = str(tmp_path / "new")
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
        (
            ["train", *STACK, "--out", new],
            "params['cell'][0]: got no path to the loss under e-prop",
        ),
        (["compare", *STACK, "--rule", "bptt,eprop", "--out", new], "no path to the loss"),
        (["sweep", *STACK, "--rule", "m-order", "--order", "1", "--out", new], "order 1"),
        (["train", "--order", "3"], "--order: got 3 with rule 'eprop', which has none"),
        (["train", *STACK, "--freeze", "0,1"], "freeze: got 0,1, wanted numbers of some layers"),
        (["train", *SMALL, "--freeze", "0"], "freeze: got 0, wanted numbers of some layers"),
    ):
        assert main(args) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1 and "Traceback" not in err
    assert not (tmp_path / "new").exists()


def test_the_reset_gradient_is_a_choice():
    from eprop_jax.cli.main import parse

    of = lambda *options: runs.settings_of(parse(["train", *options])).reset_gradient
    assert (of(), of("--reset-gradient", "yes"), of("--reset-gradient", "no")) == (
        None,
        True,
        False,
    )


def test_settings_of_another_kind_are_refused(tmp_path):
    path = tmp_path / "settings.json"
    for text in ("", "[]", '{"settings": 3}', '{"settings": {"task": "copy", "unit": 3}}', "\0",
                 '{"settings": {"task": "copy", "rule": 3}}',
                 '{"settings": {"task": "copy", "units": [3, "2"]}}',
                 '{"settings": {"task": "copy", "units": [3, 2], "freeze": 0}}'):  # fmt: skip
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
