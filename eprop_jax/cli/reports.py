"""The command `report`: a setup before it is trained.

Which paths its rule keeps, where its gradient is exact, and what it costs: of shapes alone, nothing is
trained and nothing is run.
"""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

import jax

from eprop_jax.cli import experiments, runs, terminal
from eprop_jax.cli.experiments import Settings
from eprop_jax.network.types import LearningRule, PyTree
from eprop_jax.paper import paths, taxonomy
from eprop_jax.run.cost import auto_chunk, cost


def run_report(args: argparse.Namespace) -> int:
    say, s = terminal.sayer(args.json), runs.settings_of(args)
    runs.fits_in_memory(s, 1)
    found, kept = as_dict(s), kept_paths(s)
    say(as_text(found, kept))
    if args.json:
        print(json.dumps(found, indent=1))
    return 0


def kept_paths(s: Settings) -> paths.Report:
    """`ej.paths.report` of the setup, its traces those of a batch.

    >>> from eprop_jax.cli import experiments, reports
    >>> reports.kept_paths(experiments.settings("copy", rule="bptt")).layers[0].exact
    True
    """
    e = experiments.experiment(s)
    return paths.report(e.rule, jax.eval_shape(lambda: experiments.start(e)).params, s.batch)


def as_dict(s: Settings) -> dict[str, Any]:
    """All that is said, as plain values.

    Returns:
      A dict: the setup and its sizes; "layers", a row each of `ej.paths.report`; "costs", a row for
      each way to run the rule, or None where it refuses to run ("refused" says why); bytes are of a
      whole batch.

    >>> from eprop_jax.cli import experiments, reports
    >>> found = reports.as_dict(experiments.settings("copy"))
    >>> found["T"], found["exact"], [row["run"] for row in found["costs"]]
    (16, False, ['whole sequences', 'in chunks of 16', 'step by step'])
    """
    e = experiments.experiment(s)
    params = jax.eval_shape(lambda: experiments.start(e)).params
    xs, _ = jax.eval_shape(e.sampler, jax.random.key(0))
    kept, T = kept_paths(s), xs.shape[0]
    refused, rows = None, None
    try:
        rows = costs(e.rule, params, s.batch, T)
        base = costs(runs.reference(s), params_of_network(params), s.batch, T)[0]
        for row in rows:
            row["relative_work"] = row["multiply_adds"] / base["multiply_adds"]
    except ValueError as error:
        refused = str(error)
    return {
        "task": s.task, "rule": experiments.key(s), "name": experiments.name(s),
        "network": str(e.net), "parameters": sum(map(size, jax.tree.leaves(params))),
        "T": T, "batch": s.batch, "language": kept.language, "co_states": kept.states,
        "exact": all(layer.exact for layer in kept.layers),
        "layers": [layer._asdict() for layer in kept.layers],
        "readout_trace_bytes": kept.readout_bytes, "costs": rows, "refused": refused,
    }  # fmt: skip


def size(x: Any) -> int:
    return math.prod(x.shape)


def params_of_network(params: PyTree) -> PyTree:
    """Without feedback weights, which BPTT has none of."""
    return {k: v for k, v in params.items() if k != "feedback"}


def costs(rule: LearningRule, params: PyTree, batch: int, T: int) -> list[dict[str, Any]]:
    """A row for each way to run a rule on a batch of sequences: `ej.cost` of a step, and the bytes that
    the sequence takes beside parameters, inputs and optimiser.

    Whole sequences keep what each step leaves for the sweep, and no traces; chunks keep traces and
    one chunk's steps. BPTT has whole sequences alone.
    """
    whole = cost(rule, params, (batch,), None)
    row = lambda run, work, kept: {"run": run, "multiply_adds": work, "bytes": kept}
    rows = [row("whole sequences", whole.multiply_adds, whole.chunk_bytes * T)]
    if rule.spec.name == "BPTT":
        return rows
    chunk = auto_chunk(rule, params, (batch,), T)
    for K, run in ((chunk, f"in chunks of {chunk}"), (1, "step by step")):
        of = cost(rule, params, (batch,), K)
        rows.append(row(run, of.multiply_adds, of.trace_bytes + of.chunk_bytes))
    return rows


def as_text(found: dict[str, Any], kept: paths.Report) -> str:
    """For a terminal."""
    said = [
        f"{found['task']}, {found['name']}",
        f"{found['network']}: {found['parameters']:,} parameters; T = {found['T']} steps, "
        f"{found['batch']} sequences an update",
        "",
        str(kept),
        "",
    ]
    if found["refused"]:
        return "\n".join([*said, f"It would be refused: {found['refused']}"])
    head = ("run", "memory of the batch", "multiply-adds a step", "× BPTT's")
    rows = [
        (row["run"], readable(row["bytes"]), f"{row['multiply_adds']:.3g}",
         f"{row['relative_work']:.2f}")
        for row in found["costs"]
    ]  # fmt: skip
    whose = "exact, that of the loss" if found["exact"] else "not exact in all layers"
    if found["rule"] == "frozen":
        whose = "exact, of the read-out, which alone is trained"
    return "\n".join([
        *said, taxonomy.table([head, *rows], right=(1, 2, 3)), "",
        f"Gradient: {whose}.",
        "Memory: of states and traces, from the sizes alone, beside parameters, inputs and optimiser.",
        "train runs whole sequences; ej.value_and_grad(rule, chunk=…) and rule.step the other ways.",
    ])  # fmt: skip


def readable(size: int) -> str:
    """Bytes, in units that fit.

    >>> from eprop_jax.cli import reports
    >>> reports.readable(900), reports.readable(2_340_000)
    ('900 B', '2.34 MB')
    """
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= one:
            return f"{size / one:.3g} {unit}"
    return f"{size} B"
