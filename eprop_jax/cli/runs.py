"""The commands that train one network: `train` and `resume`.

A run's folder holds `settings.json` (what was asked), `log.jsonl` (a row a pause), `checkpoints/`,
`summary.json` and, where matplotlib is installed, `curves.png`. One process at a time works in it.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from eprop_jax import __version__
from eprop_jax.cli import experiments, terminal
from eprop_jax.cli.experiments import Settings
from eprop_jax.network.types import LearningRule
from eprop_jax.paper import taxonomy
from eprop_jax.run import checkpoints, folders, training
from eprop_jax.run.folders import replace

SETTINGS, LOG, SAVED = "settings.json", "log.jsonl", "checkpoints"


def settings_of(args: argparse.Namespace, **chosen: Any) -> Settings:
    given = {k: v for k, v in vars(args).items() if k in Settings._fields}
    if given.get("reset_gradient") is not None:
        given["reset_gradient"] = given["reset_gradient"] == "yes"
    s = experiments.settings(**{**given, **chosen})
    if isinstance(given.get("order"), int) and s.rule != "m-order":
        raise ValueError(
            f"--order: got {given['order']} with rule {s.rule!r}, which has none; wanted --rule m-order"
        )
    return s


# -- train and resume ------------------------------------------------------------------------------


def run_train(args: argparse.Namespace) -> int:
    s = settings_of(args)
    is_new(args.out)
    checkpoints.orbax()
    prepare(s)
    args.out.mkdir(parents=True, exist_ok=True)
    with folders.lock(args.out, "--out"):
        is_new(args.out)
        remember(args.out, s)
        try:
            return go_on(args.out, s, args.json)
        except Exception:
            if not checkpoints.steps(args.out / SAVED):  # it never began: leave no trace
                for name in (SETTINGS, LOG):
                    (args.out / name).unlink(missing_ok=True)
            raise


def run_resume(args: argparse.Namespace) -> int:
    s = read_settings(args.dir / SETTINGS)
    with folders.lock(args.dir, "dir"):
        done = max(checkpoints.steps(args.dir / SAVED), default=0)
        if args.steps is not None:
            if args.steps < done:
                raise ValueError(
                    f"--steps: got {args.steps}, wanted >= {done}, the updates that are done"
                )
            s = s._replace(steps=args.steps)
        return go_on(args.dir, s, args.json)


def is_new(folder: Path) -> None:
    """Refuse to begin a run where something stands."""
    is_folder("--out", folder)
    if (folder / SETTINGS).exists():
        raise ValueError(
            f"--out: {folder} holds a run already; resume it "
            f"(python -m eprop_jax resume {folder}), or give another folder"
        )
    saved = folder / SAVED
    there = [saved] if saved.is_dir() and {p.name for p in saved.iterdir()} - {folders.LOCK} else []
    there += [folder / name for name in (LOG, "summary.json") if (folder / name).exists()]
    if there:
        raise ValueError(
            f"--out: {folder} holds {there[0].name} of another run, without its {SETTINGS}; "
            "give another folder"
        )


def is_folder(name: str, path: Path) -> None:
    """Refuse a path that cannot be a folder."""
    for part in (path, *path.parents):
        if part.exists():
            if not part.is_dir():
                raise ValueError(f"{name}: got {path}, but {part} is a file; wanted a folder")
            return


def prepare(s: Settings, side_by_side: int = 1) -> None:
    """Refuse what cannot be made, what no memory holds, and a rule that leaves a parameter without
    gradient, before anything is written."""
    fits_in_memory(s, side_by_side)
    e = experiments.experiment(s)
    jax.eval_shape(lambda: e.rule.init(experiments.start(e).params, (1,)))


def fits_in_memory(s: Settings, side_by_side: int) -> None:
    """Refuse what takes more than this machine has, by its sizes."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        sizes = [2 * n * n for n in experiments.layers(s)]  # weights and their gradient
        if 4 * sum(sizes) < memory:  # else making the network would fill it: its masks are arrays
            e = experiments.experiment(s)
            xs, ys = jax.eval_shape(e.sampler, jax.random.key(0))
            state = jax.eval_shape(lambda: experiments.start(e))
            sizes = [x.size for x in jax.tree.leaves((xs, ys, state))] + [
                xs.shape[0] * s.batch * sum(experiments.layers(s))
            ]
    except (OverflowError, TypeError):  # no array has that many rows
        sizes, memory = [2**63], 0
    except (AttributeError, ValueError, OSError):  # the system does not say how much there is
        return
    needed = 4 * side_by_side * sum(sizes)
    if needed > memory:
        raise ValueError(
            f"batch, units{', seeds' if side_by_side > 1 else ''}: got {s.batch}, {s.units}"
            f"{f', {side_by_side} side by side' if side_by_side > 1 else ''}, which take more than "
            f"{needed / 2**30:.3g} GiB; wanted less than this machine's {memory / 2**30:.3g}"
        )


def remember(folder: Path, s: Settings) -> None:
    record = {"format": 1, "version": __version__, "settings": s._asdict()}
    replace(folder / SETTINGS, json.dumps(record, indent=1) + "\n")


def read_settings(path: Path) -> Settings:
    """Settings from a run's file, checked as those of the command line are.

    Raises:
      FileNotFoundError, ValueError: if there is none, or what is there is no such file.
    """
    if not path.exists():
        raise FileNotFoundError(f"dir: got {path.parent}, where there is no {SETTINGS} of a run")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        chosen = dict(found["settings"])
        return experiments.settings(**chosen)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"dir: {path} holds no settings of a run: {error}") from None


def go_on(folder: Path, s: Settings, as_json: bool) -> int:
    """Train from the last checkpoint, or from the start."""
    say, began = terminal.sayer(as_json), time.perf_counter()
    e = experiments.experiment(s)
    state, saved = experiments.start(e), folder / SAVED
    if checkpoints.steps(saved):
        state = checkpoints.restore(saved, state)
    remember(folder, s)  # `resume --steps` is what is asked from now on
    log = folder / LOG
    done = int(state.step)
    rows = [row for row in read_rows(log) if row["step"] <= done]
    replace(log, "".join(json.dumps(row) + "\n" for row in rows))
    named = f"{experiments.title(s)}, {experiments.name(s)}"
    say(f"{named}: {max(0, s.steps - done)} updates to do, {done} done; {folder}")

    def keep(row):
        rows.append(row)
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    metric = next(iter(e.metrics))
    goal = lambda row: row[f"test_{metric}"] < experiments.PROBLEMS[s.task].goal
    look = training.evaluator(e.rule, e.test_sampler, metrics=e.metrics,
                              batches=experiments.PROBLEMS[s.task].test_batches,
                              cosine=experiments.trains_all(s), reference=reference(s))  # fmt: skip
    if done < s.steps and not (rows and goal(rows[-1])):
        with terminal.Progress(s.steps, done) as bar:

            def report(row):
                keep(row)
                seen = {k: row[k] for k in ("loss", metric, f"test_{metric}")}
                bar.move(experiments.name(s), row["step"] - bar.done, seen)

            bar.move(experiments.name(s), 0)
            run = training.fit(e.trainer, state, s.steps, every=s.every, evaluate=look, stop=goal,
                               report=report, checkpoints=saved, progress=False)  # fmt: skip
            state = run.state
    summary = {
        "task": s.task, "rule": experiments.key(s), "name": experiments.name(s),
        "steps": int(state.step), "goal_reached": bool(rows) and goal(rows[-1]),
        "seconds": time.perf_counter() - began, "last": rows[-1] if rows else {},
        "picture": curves(folder / "curves.png", rows, metric, named), "folder": str(folder),
    }  # fmt: skip
    replace(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    say(as_table(rows, metric))
    end = "reached its goal" if summary["goal_reached"] else "done"
    say(f"{end} after {summary['steps']} updates; {summary['seconds']:.0f} s here")
    if as_json:
        print(json.dumps({**summary, "rows": rows}, indent=1))
    return 0


def reference(s: Settings) -> LearningRule:
    """BPTT of the same task and units, by which gradients are measured."""
    exact = s._replace(rule="bptt", feedback="symmetric")
    return experiments.rule(exact, experiments.network(exact))


def read_rows(path: Path) -> list[dict[str, float]]:
    """The rows of a log; a last line that was cut short is left out."""
    rows = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            break
        if not isinstance(row, dict) or "step" not in row:
            break
        rows.append(row)
    return rows


# -- what is shown ---------------------------------------------------------------------------------


def as_table(rows: Sequence[Mapping[str, float]], metric: str) -> str:
    """Some of the rows, the last among them."""
    if not rows:
        return "nothing to do"
    columns = ["step", "loss", metric, "test_loss", f"test_{metric}", "rate", "grad_norm", "cosine"]
    shown = [*rows[: -1 : max(1, len(rows) // 10)], rows[-1]]
    body = [
        [str(int(row["step"])), *(f"{row[c]:.4g}" if c in row else "–" for c in columns[1:])]
        for row in shown
    ]
    return taxonomy.table([columns, *body], right=tuple(range(len(columns))))


POINTS = 40
"""of a curve, at most; a point stands for some pauses, with the range between them"""


def curves(path: Path, rows: Sequence[Mapping[str, float]], metric: str, name: str) -> str | None:
    """Learning curves of one run."""
    if not rows:
        return None
    size = -(-len(rows) // POINTS)
    of = lambda quantity: {
        k: points([row[k] for row in rows], size)
        for k in (quantity, f"test_{quantity}")
        if k in rows[0]
    }
    steps = points([row["step"] for row in rows], size)[-1]
    named = name if size == 1 else f"{name} (mean and range of {size} pauses)"
    return draw(path, steps, {q: of(q) for q in ("loss", metric, "cosine") if of(q)}, named)


def points(values: Sequence[float], size: int) -> np.ndarray:
    """[size, points]: `size` values a point, in their order; the last value fills the last point.

    >>> from eprop_jax.cli import runs
    >>> runs.points([1, 2, 3, 4, 5], 2).tolist()
    [[1, 3, 5], [2, 4, 5]]
    """
    filled = [*values, *[values[-1]] * (-len(values) % size)]
    return np.reshape(filled, (-1, size)).T


def draw(path: Path, steps: Any, panels: Mapping[str, Mapping[str, Any]], name: str) -> str | None:
    """{quantity: {label: [seeds, steps]}}, a panel each, where matplotlib is installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    from eprop_jax import plotting

    figure = Figure(figsize=(1.5 + 3 * len(panels), 3.6), layout="constrained")
    for ax, (quantity, found) in zip(np.ravel(figure.subplots(1, len(panels))), panels.items()):
        called = {label.replace("_", " "): curve for label, curve in found.items()}
        plotting.learning_curves(ax, steps, called, label=quantity)
    figure.suptitle(name)
    figure.savefig(path, dpi=110)
    return str(path)
