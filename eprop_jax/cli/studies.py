"""The commands that train many networks: `compare` (rules) and `sweep` (seeds and learning rates).

Each writes `compare.json` or `sweep.json` and `curves.png` to a folder as it goes, before it prints: a
command that is killed leaves what was found until then, with "finished": false.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax.cli import experiments, options, runs, terminal
from eprop_jax.cli.experiments import Settings
from eprop_jax.cli.terminal import Progress
from eprop_jax.paper import taxonomy
from eprop_jax.run import folders, training

PARTS = 20
"""training pauses so often, to move the bar and to save"""


@contextlib.contextmanager
def results(args: argparse.Namespace) -> Iterator[tuple[Path, Callable[[dict[str, Any]], None]]]:
    """(the folder, what writes the results there), which no other process writes to."""
    file = f"{args.command}.json"
    folder = args.out
    if folder is None:
        first = Path("out") / args.command
        others = (first.with_name(f"{first.name}-{i}") for i in itertools.count(2))
        folder = next(f for f in itertools.chain([first], others) if not (f / file).exists())
    runs.is_folder("--out", folder)
    if (folder / file).exists():
        raise ValueError(f"--out: {folder} holds {file} already; give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    with folders.lock(folder, "--out"):
        yield (
            folder,
            lambda found: folders.replace(folder / file, json.dumps(found, indent=1) + "\n"),
        )


def parts(steps: int) -> list[int]:
    """So many updates, in pauses."""
    size = max(1, steps // PARTS)
    return [size] * (steps // size) + ([steps % size] if steps % size else [])


# -- compare ---------------------------------------------------------------------------------------


def run_compare(args: argparse.Namespace) -> int:
    """Each rule from the same weights on the same batches: what it reaches, how good its gradient
    is before and after, and what an update costs."""
    say = terminal.sayer(args.json)
    local = "paths:i*f*" if isinstance(args.units, tuple) else "eprop"  # reaches every layer
    chosen = options.flat(args.rule, ("bptt", "m-order", local, "random"))
    if args.order and "m-order" not in chosen:
        chosen.append("m-order")  # who names an order wants to see it
    asked = [
        runs.settings_of(args, rule=key, order=order)
        for key in chosen
        for order in (options.flat(args.order, (2,)) if key == "m-order" else (2,))
    ]
    for s in asked:
        runs.prepare(s)
    metric = next(iter(experiments.PROBLEMS[args.task].metrics))
    rows: list[dict[str, Any]] = []
    found = {"task": args.task, "finished": False, "results": rows, "picture": None}
    with results(args) as (folder, write):
        found["folder"] = str(folder)
        with Progress(sum(s.steps for s in asked)) as bar:
            for s in asked:
                rows.append(compared(s, functools.partial(bar.move, experiments.name(s))))
                base = next((row["update_ms"] for row in rows if row["rule"] == "bptt"), None)
                for row in rows:
                    timed = base is not None and row["update_ms"] is not None
                    row["relative_time"] = row["update_ms"] / base if timed else None
                write(found)
                found["picture"] = draw_compared(folder / "curves.png", rows, metric, s)
        found["finished"] = True
        write(found)
    columns = ["name", "test_loss", f"test_{metric}", "cosine_start", "cosine_end", "update_ms",
               "relative_time"]  # fmt: skip
    text = [["rule", *(c.replace("_", " ") for c in columns[1:])]]
    text += [
        [row["name"], *("–" if row[c] is None else f"{row[c]:.4g}" for c in columns[1:])]
        for row in rows
    ]
    say(taxonomy.table(text, right=tuple(range(1, len(columns)))))
    give(args, found)
    return 0


def compared(s: Settings, progress: Callable[..., None]) -> dict[str, Any]:
    """What one rule reaches."""
    e = experiments.experiment(s)
    state, key = experiments.start(e), jax.random.key(2**20 + s.seed)
    moves = experiments.trains_all(s)
    look = training.evaluator(e.rule, e.test_sampler, metrics=e.metrics, batches=4, cosine=moves,
                              reference=runs.reference(s))  # fmt: skip
    progress(0)
    before = look(state.params, key)
    times, sizes, curve = [], set(), {"updates": [], "loss": [], **{k: [] for k in e.metrics}}
    for size in parts(s.steps):
        began = time.perf_counter()
        state, log = jax.block_until_ready(e.trainer.run(state, size))
        if size in sizes:  # the first of each size compiles
            times.append((time.perf_counter() - began) / size)
        sizes.add(size)
        curve["updates"].append(int(state.step))
        for quantity in ("loss", *e.metrics):
            curve[quantity].append(float(log[quantity].mean()))
        progress(size, {quantity: curve[quantity][-1] for quantity in ("loss", *e.metrics)})
    after = {k: float(v) for k, v in look(state.params, key).items()}
    return {
        "rule": experiments.key(s), "name": experiments.name(s),
        "order": s.order if s.rule == "m-order" else None, "steps": int(state.step),
        **{k: v for k, v in after.items() if k != "cosine"},
        "cosine_start": float(before["cosine"]) if moves else None,
        "cosine_end": after["cosine"] if moves else None,
        "update_ms": 1e3 * statistics.median(times) if times else None,
        "curve": curve,
    }  # fmt: skip


def draw_compared(path: Path, rows: list[dict[str, Any]], metric: str, s: Settings) -> str | None:
    """Learning curves, a line a rule."""
    of = lambda quantity: {row["name"]: [row["curve"][quantity]] for row in rows}
    panels = {quantity: of(quantity) for quantity in ("loss", metric)}
    named = f"{experiments.title(s)}, while training"
    return runs.draw(path, rows[0]["curve"]["updates"], panels, named)


def give(args: argparse.Namespace, found: dict[str, Any]) -> None:
    """Where the results are; and they themselves, where they are asked for."""
    say = terminal.sayer(args.json)
    say(f"in {found['folder']}: {args.command}.json" + (", curves.png" if found["picture"] else ""))
    if args.json:
        print(json.dumps(found, indent=1))


# -- sweep -----------------------------------------------------------------------------------------


def run_sweep(args: argparse.Namespace) -> int:
    """Seeds by learning rates, one compiled program."""
    say, s = terminal.sayer(args.json), runs.settings_of(args)
    rates = args.lrs or [s.learning_rate]
    if s.seed + args.seeds > experiments.SEEDS:
        raise ValueError(f"seed, seeds: got {s.seed}, {args.seeds}, wanted a sum <= 2**32")
    runs.prepare(s, args.seeds * len(rates))
    seeds = list(range(s.seed, s.seed + args.seeds))
    metric = next(iter(experiments.PROBLEMS[s.task].metrics))
    named = f"{experiments.title(s)}, {experiments.name(s)}"
    over = lambda f: jax.jit(jax.vmap(jax.vmap(f, (0, None, 0)), (None, 0, 0)))

    def run(seed, rate, state, size):
        state, log = experiments.experiment(s, seed, rate).trainer.run(state, size)
        return state, log[metric]

    def test(seed, rate, state):
        e = experiments.experiment(s, seed, rate)
        look = training.evaluator(e.rule, e.test_sampler, metrics=e.metrics, batches=4)
        return look(state.params, jax.random.fold_in(state.key, 2**31))

    def begin(seed, rate, _):
        return experiments.start(experiments.experiment(s, seed, rate), seed)

    grid = jnp.array(seeds, jnp.uint32), jnp.array(rates)
    began, curves = time.perf_counter(), np.zeros((len(rates), len(seeds), 0))
    look, run_for, found, tested = over(test), {}, {}, {}
    with results(args) as (folder, write), Progress(s.steps) as bar:
        bar.move(experiments.name(s), 0)
        state = over(begin)(*grid, jnp.zeros((len(rates), len(seeds))))
        try:
            for size in parts(s.steps):
                if size not in run_for:
                    run_for[size] = over(functools.partial(run, size=size))
                state, log = run_for[size](*grid, state)
                curves = np.concatenate([curves, np.asarray(log)], -1)
                tested = {k: np.asarray(v) for k, v in look(*grid, state).items()}
                over_all = tested[f"test_{metric}"]
                seen = {f"test_{metric}": over_all.mean(), "best": over_all.min()}
                bar.move(experiments.name(s), size, seen)
                found = {
                    "task": s.task, "rule": experiments.key(s), "name": experiments.name(s),
                    "finished": curves.shape[-1] == s.steps, "steps": curves.shape[-1],
                    "seeds": seeds, "seconds": time.perf_counter() - began,
                    "results": by_rate(rates, tested), f"{metric}_curves": curves.tolist(),
                    "folder": str(folder), "picture": None,
                }  # fmt: skip
                write(found)
        finally:  # of a sweep that is interrupted too
            if found:
                found["picture"] = draw_swept(folder / "curves.png", curves, rates, metric, named)
                write(found)
    say(f"{named}: {s.steps} updates, seeds {seeds[0]} to {seeds[-1]}, {found['seconds']:.0f} s, "
        "compiling included")  # fmt: skip
    text = [["learning rate", *(k.replace("_", " ") for k in tested), "best", "worst"]]
    for row in found["results"]:
        each = [f"{row[k]:.4g} ± {row[f'{k}_sd']:.2g}" for k in tested]
        of_seeds = row[f"test_{metric}_by_seed"]
        best, worst = f"{min(of_seeds):.4g}", f"{max(of_seeds):.4g}"
        text.append([f"{row['learning_rate']:g}", *each, best, worst])
    say(taxonomy.table(text, right=tuple(range(len(text[0])))))
    say(f"mean ± sd over {len(seeds)} seeds; best and worst: of test {metric}")
    give(args, found)
    return 0


def by_rate(rates: list[float], tested: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """A row a learning rate: mean, standard deviation and all seeds of each quantity."""
    rows = []
    for i, rate in enumerate(rates):
        row: dict[str, Any] = {"learning_rate": rate}
        for quantity, values in tested.items():
            x = values[i]
            sd = float(x.std(ddof=1)) if len(x) > 1 else 0.0
            row |= {
                quantity: float(x.mean()),
                f"{quantity}_sd": sd,
                f"{quantity}_by_seed": x.tolist(),
            }
        rows.append(row)
    return rows


def draw_swept(path: Path, curves: np.ndarray, rates: list[float], metric: str, name: str):
    """Learning curves [rates, seeds, steps], a line a rate; a point is the mean of some updates."""
    width = max(1, curves.shape[-1] // 40)
    whole = curves.shape[-1] // width * width
    points = curves[..., :whole].reshape(*curves.shape[:2], -1, width).mean(-1)
    lines = {f"learning rate {rate:g}": x for rate, x in zip(rates, points)}
    steps = width * np.arange(1, points.shape[-1] + 1)
    return runs.draw(path, steps, {metric: lines}, name)
