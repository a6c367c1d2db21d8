"""The commands that train: `train`, `resume`, `compare` and `sweep`.

A run's folder holds `settings.json` (what was asked), `log.jsonl` (a row a pause), `checkpoints/`,
`summary.json` and, where matplotlib is installed, `curves.png`.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax import __version__, checkpoints, experiments, feedback, options, taxonomy, training
from eprop_jax.base import LearningRule
from eprop_jax.experiments import Settings


def settings_of(args: argparse.Namespace, **chosen: Any) -> Settings:
    given = {k: v for k, v in vars(args).items() if k in Settings._fields}
    if given.get("reset_gradient") is not None:
        given["reset_gradient"] = given["reset_gradient"] == "yes"
    return experiments.settings(**{**given, **chosen})


# -- train and resume ------------------------------------------------------------------------------


def run_train(args: argparse.Namespace) -> int:
    s = settings_of(args)
    if (args.out / "settings.json").exists():
        raise ValueError(
            f"--out: {args.out} holds a run already; resume it "
            f"(python -m eprop_jax resume {args.out}), or give another folder"
        )
    args.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"format": 1, "version": __version__, "settings": s._asdict()}, indent=1)
    replace(args.out / "settings.json", text + "\n")
    return go_on(args.out, s, args.json)


def run_resume(args: argparse.Namespace) -> int:
    s = read_settings(args.dir / "settings.json")
    return go_on(args.dir, s if args.steps is None else s._replace(steps=args.steps), args.json)


def read_settings(path: Path) -> Settings:
    """Settings from a run's file, checked as those of the command line are.

    Raises:
      FileNotFoundError, ValueError: if there is none, or what is there is no such file.
    """
    if not path.exists():
        raise FileNotFoundError(f"dir: got {path.parent}, where there is no settings.json of a run")
    try:
        found = json.loads(path.read_text())
        chosen = dict(found["settings"])
        return experiments.settings(**chosen)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"dir: {path} holds no settings of a run: {error}") from None


def go_on(folder: Path, s: Settings, as_json: bool) -> int:
    """Train from the last checkpoint, or from the start."""
    say = functools.partial(print, file=sys.stderr if as_json else sys.stdout, flush=True)
    began = time.perf_counter()
    e = experiments.experiment(s)
    state, saved = experiments.start(e), folder / "checkpoints"
    if checkpoints.steps(saved):
        state = checkpoints.restore(saved, state)
    log = folder / "log.jsonl"
    done = int(state.step)
    rows = [row for row in read_rows(log) if row["step"] <= done]
    replace(log, "".join(json.dumps(row) + "\n" for row in rows))
    named = f"{s.task}, {s.cell} of {s.units} units, {describe(s)}"
    say(f"{named}: {s.steps - done} updates to do, {done} done; {folder}")

    def keep(row):
        rows.append(row)
        with log.open("a") as file:
            file.write(json.dumps(row) + "\n")

    metric = next(iter(e.metrics))
    goal = lambda row: row[f"test_{metric}"] < experiments.PROBLEMS[s.task].goal
    look = training.evaluator(e.rule, e.test_sampler, metrics=e.metrics, cosine=True,
                              batches=experiments.PROBLEMS[s.task].test_batches,
                              reference=reference(s))  # fmt: skip
    if not (rows and goal(rows[-1])):
        run = training.fit(e.trainer, state, s.steps, every=s.every, evaluate=look, stop=goal,
                           report=keep, checkpoints=saved, progress=True)  # fmt: skip
        state = run.state
    summary = {
        "task": s.task, "rule": describe(s), "steps": int(state.step),
        "goal_reached": bool(rows) and goal(rows[-1]),
        "seconds": time.perf_counter() - began, "last": rows[-1] if rows else {},
        "picture": curves(folder / "curves.png", rows, metric, describe(s)), "folder": str(folder),
    }  # fmt: skip
    replace(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    say(as_table(rows, metric))
    end = "reached its goal" if summary["goal_reached"] else "did all its updates"
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
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text)
    os.replace(unfinished, path)


def describe(s: Settings) -> str:
    if s.rule in experiments.EXACT:
        return {"bptt": "BPTT", "rtrl": "RTRL"}[s.rule]
    return f"{'e-prop' if s.rule == 'eprop' else f'order {s.order}'}, {s.feedback} feedback"


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


def curves(path: Path, rows: Sequence[Mapping[str, float]], metric: str, name: str) -> str | None:
    """Learning curves of one run."""
    if not rows:
        return None
    of = lambda quantity: {
        k: [[row[k] for row in rows]] for k in (quantity, f"test_{quantity}") if k in rows[0]
    }
    steps = [row["step"] for row in rows]
    return draw(path, steps, {q: of(q) for q in ("loss", metric, "cosine")}, name)


def draw(path: Path, steps: Any, panels: Mapping[str, Mapping[str, Any]], name: str) -> str | None:
    """{quantity: {label: [seeds, steps]}}, a panel each, where matplotlib is installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    from eprop_jax import plotting

    figure = Figure(figsize=(1.5 + 3 * len(panels), 3.6), layout="constrained")
    for ax, (quantity, found) in zip(np.ravel(figure.subplots(1, len(panels))), panels.items()):
        plotting.learning_curves(ax, steps, found, label=quantity)
    figure.suptitle(name)
    figure.savefig(path, dpi=110)
    return str(path)


# -- compare ---------------------------------------------------------------------------------------


def run_compare(args: argparse.Namespace) -> int:
    """Each rule from the same weights on the same batches: what it reaches, how good its gradient
    is before and after, and what an update costs."""
    say = functools.partial(print, file=sys.stderr if args.json else sys.stdout, flush=True)
    chosen = options.flat(args.rule, ("bptt", "m-order", "eprop", "random"))
    rows = []
    for key in chosen:
        for order in options.flat(args.order, (2,)) if key == "m-order" else (2,):
            kind = key if key in feedback.KINDS else "symmetric"
            rule = "eprop" if key in feedback.KINDS else key
            s = settings_of(args, rule=rule, order=order, feedback=kind)
            rows.append(compared(s, say))
    base = next((row["update_ms"] for row in rows if row["rule"] == "BPTT"), None)
    for row in rows:
        row["relative_time"] = None if base is None else row["update_ms"] / base
    metric = next(k for k in rows[0] if k.startswith("test_") and k != "test_loss")
    columns = [
        "rule",
        "test_loss",
        metric,
        "cosine_start",
        "cosine_end",
        "update_ms",
        "relative_time",
    ]
    text = [[c.replace("_", " ") for c in columns]]
    text += [["–" if row[c] is None else row[c] if c == "rule" else f"{row[c]:.4g}" for c in columns]
             for row in rows]  # fmt: skip
    say(taxonomy.table(text, right=tuple(range(1, len(columns)))))
    give(args, "compare.json", {"task": args.task, "results": rows})
    return 0


def give(args: argparse.Namespace, name: str, found: dict[str, Any]) -> None:
    """Results as JSON, to stdout and to the folder, where they are asked for."""
    text = json.dumps(found, indent=1)
    if args.json:
        print(text)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        replace(args.out / name, text + "\n")


def compared(s: Settings, say: Any) -> dict[str, Any]:
    e = experiments.experiment(s)
    state, key = experiments.start(e), jax.random.key(2**20 + s.seed)
    look = training.evaluator(e.rule, e.test_sampler, metrics=e.metrics, batches=4, cosine=True,
                              reference=reference(s))  # fmt: skip
    before = look(state.params, key)
    parts, times = (5 if s.steps >= 5 else 1), []
    for _ in range(parts):
        began = time.perf_counter()
        state, _ = jax.block_until_ready(e.trainer.run(state, s.steps // parts))
        times.append((time.perf_counter() - began) / (s.steps // parts))
    after = {k: float(v) for k, v in look(state.params, key).items()}
    say(f"{describe(s)}: {int(state.step)} updates")
    return {
        "rule": describe(s), "steps": int(state.step),
        **{k: v for k, v in after.items() if k != "cosine"},
        "cosine_start": float(before["cosine"]), "cosine_end": after["cosine"],
        # the first part compiles
        "update_ms": 1e3 * statistics.median(times[1:]) if times[1:] else None,
    }  # fmt: skip


# -- sweep -----------------------------------------------------------------------------------------


def run_sweep(args: argparse.Namespace) -> int:
    """Seeds by learning rates, one compiled program."""
    say = functools.partial(print, file=sys.stderr if args.json else sys.stdout, flush=True)
    s = settings_of(args)
    rates = args.lrs or [s.learning_rate]
    seeds = list(range(s.seed, s.seed + args.seeds))
    metric = next(iter(experiments.PROBLEMS[s.task].metrics))

    def one(seed, rate):
        e = experiments.experiment(s, seed, rate)
        state, log = e.trainer.run(experiments.start(e, seed), s.steps)
        look = training.evaluator(e.rule, e.test_sampler, metrics=e.metrics, batches=4)
        return log[metric], look(state.params, jax.random.fold_in(state.key, 2**31))

    began = time.perf_counter()
    over = jax.vmap(jax.vmap(one, (0, None)), (None, 0))
    log, test = jax.jit(over)(jnp.array(seeds), jnp.array(rates))
    log, test = np.asarray(log), {k: np.asarray(v) for k, v in test.items()}
    seconds = time.perf_counter() - began
    say(f"{s.task}, {s.cell} of {s.units} units, {describe(s)}: {s.steps} updates, seeds "
        f"{seeds[0]} to {seeds[-1]}, {seconds:.0f} s, compiling included")  # fmt: skip
    spread = lambda x: (float(x.mean()), float(x.std(ddof=1)) if len(x) > 1 else 0.0)
    rows = []
    for i, rate in enumerate(rates):
        row: dict[str, Any] = {"learning_rate": rate}
        for name, values in test.items():
            mean, sd = spread(values[i])
            row |= {name: mean, f"{name}_sd": sd, f"{name}_by_seed": values[i].tolist()}
        rows.append(row)
    names = list(test)
    text = [["learning rate", *(n.replace("_", " ") for n in names), "best", "worst"]]
    for row in rows:
        each = [f"{row[n]:.4g} ± {row[f'{n}_sd']:.2g}" for n in names]
        by_seed = row[f"test_{metric}_by_seed"]
        text.append(
            [f"{row['learning_rate']:g}", *each, f"{min(by_seed):.4g}", f"{max(by_seed):.4g}"]
        )
    say(taxonomy.table(text, right=tuple(range(len(text[0])))))
    say(f"mean ± sd over {len(seeds)} seeds; best and worst: of test {metric}")
    give(args, "sweep.json", {
        "task": s.task, "rule": describe(s), "steps": s.steps, "seeds": seeds, "seconds": seconds,
        "results": rows, f"{metric}_curves": log.tolist(),
    })  # fmt: skip
    if args.out is not None:
        width = max(1, s.steps // 40)  # of a point, the mean of so many updates
        points = log[..., : s.steps // width * width].reshape(*log.shape[:2], -1, width).mean(-1)
        by_rate = {f"learning rate {rate:g}": x for rate, x in zip(rates, points)}
        steps = width * np.arange(1, points.shape[-1] + 1)
        draw(args.out / "curves.png", steps, {metric: by_rate}, describe(s))
    return 0
