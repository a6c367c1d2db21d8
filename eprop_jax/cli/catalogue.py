"""The tasks that have a name, as the command `tasks` prints them."""

from __future__ import annotations

from typing import Any

import jax

from eprop_jax.cli import experiments
from eprop_jax.paper import taxonomy


def overview() -> list[dict[str, Any]]:
    """Each task: steps T, inputs, outputs, goal, and the settings that it begins with.

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
            "feedback_gain": p.feedback_gain, "defaults": s._asdict(),
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
        *(name.replace("learning_rate", "lr").replace("_", "-") for name in each),
    ]
    text = [
        [
            row["task"], row["T"], row["n_in"], row["n_out"],
            f"{row['metric']} < {row['goal']:g}" if row["goal"] else f"least {row['metric']}",
            *(f"{row['defaults'][name]:g}" if isinstance(row["defaults"][name], float)
              else row["defaults"][name] for name in each),
        ]
        for row in rows
    ]  # fmt: skip
    shared = {k: v for k, v in rows[0]["defaults"].items() if k not in ("task", *each)}
    said = {k: v for k, v in shared.items() if v is not None}
    return "\n".join([
        taxonomy.table([head, *text], right=(1, 2, 3, 6, 7, 8, 9, 11, 12)), "",
        "All begin with " + ", ".join(f"{k.replace('_', '-')} {v}" for k, v in said.items()) + ".",
        "A run stops at its goal, on test batches, or after its steps. T: steps of a sequence;",
        "in, out: numbers a step; cell, units, batch, …: the options of those names.",
    ])  # fmt: skip
