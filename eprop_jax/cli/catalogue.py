"""The tasks that have a name, as the command `tasks` prints them."""

from __future__ import annotations

import functools
import importlib.resources
import json
from typing import Any

import jax

from eprop_jax.cli import experiments
from eprop_jax.paper import taxonomy

MINUTES = "minutes.json"
"""beside this file: what `python -m benchmarks.minutes` measured"""
SIZES = ("rule", "cell", "units", "batch", "steps", "every")
"""the settings that a run's time is of"""


@functools.cache
def measured() -> dict[str, Any]:
    """How long default runs took: the processor, and a row a task.

    >>> from eprop_jax.cli import catalogue
    >>> sorted(catalogue.measured())
    ['jax', 'processor', 'rows', 'threads']
    """
    file = importlib.resources.files("eprop_jax.cli") / MINUTES
    return json.loads(file.read_text(encoding="utf-8"))


def minutes(s: experiments.Settings) -> float | None:
    """Of a run with these settings on one core, compiling included, at most; None: not measured.

    >>> from eprop_jax.cli import catalogue, experiments
    >>> catalogue.minutes(experiments.settings("copy")) > 0
    True
    >>> catalogue.minutes(experiments.settings("copy", batch=3))
    """
    for row in measured()["rows"]:
        if row["task"] == s.task and all(row[name] == getattr(s, name) for name in SIZES):
            return row["minutes"]
    return None


def overview() -> list[dict[str, Any]]:
    """Each task: steps T, inputs, outputs, goal, minutes of a run with the settings that it begins
    with, and those.

    >>> from eprop_jax.cli import catalogue
    >>> row = catalogue.overview()[0]
    >>> row["task"], row["T"], row["n_in"], row["defaults"]["units"]
    ('evidence', 2250, 40, 100)
    """
    rows = []
    for task, p in experiments.PROBLEMS.items():
        s = experiments.settings(task)
        xs, _ = jax.eval_shape(experiments.experiment(s).sampler, jax.random.key(0))
        rows.append({
            "task": task, "T": xs.shape[0], "n_in": p.n_in, "n_out": p.n_out,
            "metric": next(iter(p.metrics)), "goal": p.goal or None,
            "minutes": minutes(s), "feedback_gain": p.feedback_gain, "defaults": s._asdict(),
        })  # fmt: skip
    return rows


def as_text() -> str:
    """The tasks for a terminal: a table, and the settings that all of them share.

    >>> from eprop_jax.cli import catalogue
    >>> catalogue.as_text().split()[:5]
    ['task', 'T', 'in', 'out', 'goal']
    """
    rows = overview()
    each = (
        "cell",
        "units",
        "batch",
        "steps",
        "every",
        "optimizer",
        "learning_rate",
        "rate_strength",
    )
    head = [
        "task",
        "T",
        "in",
        "out",
        "goal",
        "minutes",
        *(name.replace("learning_rate", "lr").replace("_", "-") for name in each),
    ]
    text = [
        [
            row["task"], row["T"], row["n_in"], row["n_out"],
            f"{row['metric']} < {row['goal']:g}" if row["goal"] else f"least {row['metric']}",
            "–" if row["minutes"] is None else f"{row['minutes']:.2g}",
            *(f"{row['defaults'][name]:g}" if isinstance(row["defaults"][name], float)
              else row["defaults"][name] for name in each),
        ]
        for row in rows
    ]  # fmt: skip
    shared = {k: v for k, v in rows[0]["defaults"].items() if k not in ("task", *each)}
    said = {k: v for k, v in shared.items() if v is not None}
    taken = measured()
    return "\n".join([
        taxonomy.table([head, *text], right=(1, 2, 3, 5, 7, 8, 9, 10, 12, 13)), "",
        "All begin with " + ", ".join(f"{k.replace('_', '-')} {v}" for k, v in said.items()) + ".",
        "A run stops at its goal, on test batches, or after its steps. T: steps of a sequence;",
        "in, out: numbers a step; cell, units, batch, …: the options of those names.",
        f"minutes: all those steps, about, on one core of {taken['processor']} (jax {taken['jax']}),",
        "compiling, tests and checkpoints included; python -m benchmarks.minutes measured it.",
    ])  # fmt: skip
