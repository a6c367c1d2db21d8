"""How long a default run of each task takes, which `python -m eprop_jax tasks` prints.

    python -m benchmarks.minutes             # all tasks
    python -m benchmarks.minutes copy xor    # some; the others stay as they were

It does what `train` does until its third pause, the first with all its compiling, and counts the rest
as the third. Seconds are those that the processor worked, with one thread, so that what else the
machine does matters little; a run stops earlier where it reaches its goal.
"""

import os

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"

import json
import pathlib
import re
import sys
import tempfile
import time

import jax

import eprop_jax
from eprop_jax.cli import catalogue, experiments, runs
from eprop_jax.run import training

TABLE = pathlib.Path(eprop_jax.__file__).parent / "cli" / catalogue.MINUTES


def processor():
    """Its name, where the system tells it (Linux)."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
        return re.search(r"model name\s*: (.*)", text)[1].replace(" Processor", "")
    except (OSError, TypeError):
        return "a processor of an unknown name"


def measure(task):
    s = experiments.settings(task)
    e = experiments.experiment(s)
    look = training.evaluator(
        e.rule,
        e.test_sampler,
        metrics=e.metrics,
        batches=experiments.PROBLEMS[task].test_batches,
        cosine=True,
        reference=runs.reference(s),
    )
    seconds, began = [], time.process_time()

    def pause(_):
        nonlocal began
        now = time.process_time()
        seconds.append(now - began)
        began = now

    with tempfile.TemporaryDirectory() as folder:
        training.fit(e.trainer, experiments.start(e), 3 * s.every, every=s.every, evaluate=look,
                     report=pause, progress=False, checkpoints=folder)  # fmt: skip
    first, second, third = seconds
    total = first + second + (s.steps / s.every - 2) * third
    return {
        "task": task, **{k: getattr(s, k) for k in catalogue.SIZES},
        "first_s": round(first, 1), "pause_s": round(third, 3), "minutes": round(total / 60, 2),
    }  # fmt: skip


def main(asked):
    found = json.loads(TABLE.read_text())["rows"] if TABLE.exists() else []
    rows = {row["task"]: row for row in found}
    for task in asked or experiments.TASKS:
        rows[task] = measure(task)
        print(rows[task], flush=True)
        record = {"processor": processor(), "threads": 1, "jax": jax.__version__,
                  "rows": [rows[t] for t in experiments.TASKS if t in rows]}  # fmt: skip
        TABLE.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
