"""The command `predict`: what the network of a run's folder says of its task's test examples, or of a
file's."""

from __future__ import annotations

import argparse
import functools
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax.cli import experiments, runs, terminal
from eprop_jax.cli.experiments import Experiment, Settings
from eprop_jax.network.types import PyTree
from eprop_jax.paper import taxonomy
from eprop_jax.run import checkpoints
from eprop_jax.run.predict import predict

SHOWN = 10
"""examples in the table"""
NEVER = -1
"""the class of a step at which nothing is asked"""


class Answers(NamedTuple):
    """Of N examples, as NumPy's arrays; what a task has not is None."""

    outputs: np.ndarray
    """[N, T, n_out]"""
    classes: np.ndarray | None = None
    """int [N]; of a task that asks at each step [N, T], −1 where it does not ask"""
    logits: np.ndarray | None = None
    """[N, n_out], of tasks with one answer a sequence"""
    wanted: np.ndarray | None = None
    """like classes; of a task with real targets like outputs"""
    metrics: Mapping[str, float] = MappingProxyType({})
    """the task's own"""


class Given(NamedTuple):
    """What a file holds."""

    X: np.ndarray
    """[N, T, F]"""
    lengths: np.ndarray | None = None
    y: np.ndarray | None = None


def run_predict(args: argparse.Namespace) -> int:
    say, s = terminal.sayer(args.json), runs.read_settings(args.dir / runs.SETTINGS)
    if args.out is not None and (args.out.suffix != ".npz" or args.out.exists()):
        raise ValueError(f"--out: got {args.out}, wanted a new file whose name ends in .npz")
    e = experiments.experiment(s)
    given = None if args.data is None else read(args.data)
    state = checkpoints.restore(args.dir / runs.SAVED, experiments.start(e))
    if given is None:
        found = of_task(e, state.params, args.examples or s.batch, args.seed)
    else:
        found = of_arrays(e, state.params, given)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        kept: dict[str, Any] = {
            k: v for k, v in found._asdict().items() if isinstance(v, np.ndarray)
        }
        np.savez(args.out, **kept)
    done = int(state.step)
    say(
        f"{experiments.title(s)}, {experiments.name(s)}, after {done} updates: "
        f"{len(found.outputs)} {'test examples' if given is None else f'examples of {args.data}'}"
    )
    say(as_text(found))
    if args.out is not None:
        say(f"in {args.out}: {', '.join(kept)}")
    if args.json:
        print(json.dumps(as_dict(found, s, done, args), indent=1))
    return 0


# -- where examples come from ----------------------------------------------------------------------


def read(path: Path) -> Given:
    """X, and lengths and y where they are, from a file of NumPy's.

    Raises:
      OSError, ValueError: for what is no such file, or has no X of numbers.
    """
    wanted = "a .npy file of X [N, T, F], or a .npz of X and, if you like, lengths [N] and y [N]"
    try:
        file = np.load(path)
        if isinstance(file, np.ndarray):
            found = {"X": file}
        else:
            with file:
                found = dict(file)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"--data: got {path}, where there is none; wanted {wanted}"
        ) from None
    except (ValueError, EOFError, zipfile.BadZipFile):  # whose own words tell to unpickle it
        raise ValueError(f"--data: {path} holds no arrays of numbers; wanted {wanted}") from None
    others = sorted(set(found) - set(Given._fields))
    if "X" not in found or others:
        raise ValueError(f"--data: {path} holds {', '.join(found) or 'nothing'}; wanted {wanted}")
    return Given(**found)


def of_arrays(e: Experiment, params: PyTree, given: Given) -> Answers:
    """Of a user's examples, answered where the task's are."""
    named = experiments.PROBLEMS[e.settings.task].named
    found = predict(e.net, params, given.X, given.lengths, named=named or "last")
    N, T, _ = found.outputs.shape
    ends = np.full(N, T) if given.lengths is None else given.lengths
    if named is not None:
        answers = Answers(found.outputs, found.classes, found.logits)
    elif e.net.readout.n_out > 1:
        there = np.arange(T) < ends[:, None]
        answers = Answers(found.outputs, np.where(there, found.outputs.argmax(-1), NEVER))
    else:
        return Answers(found.outputs)
    if given.y is None:
        return answers
    if given.y.shape != answers.classes.shape:
        raise ValueError(f"y: got shape {list(given.y.shape)}, wanted {list(answers.classes.shape)}, "
                         "a class an example, or a step where the task asks at each")  # fmt: skip
    wrong = (answers.classes != given.y)[answers.classes != NEVER]
    return answers._replace(wanted=given.y, metrics={"error": float(wrong.mean())})


def of_task(e: Experiment, params: PyTree, examples: int, seed: int) -> Answers:
    """Of test examples of the run's own task."""
    # Of another key than training's, whose batches are drawn by 32 bits.
    key = jax.random.fold_in(jax.random.key(seed), 2**31)
    xs, ys = functools.partial(e.test_sampler, batch=examples)(key)
    outputs = e.net.apply(params, xs).outputs
    metrics = {name: float(f(outputs, ys)) for name, f in e.metrics.items()}
    first = lambda x: np.asarray(jnp.swapaxes(x, 0, 1))
    if not isinstance(ys, tuple):
        return Answers(first(outputs), wanted=first(ys), metrics=metrics)
    wanted, weight = map(first, ys)
    asked, own = weight > 0, first(outputs)
    if experiments.PROBLEMS[e.settings.task].named is None:
        classes = np.where(asked, own.argmax(-1), NEVER)
        return Answers(own, classes, None, np.where(asked, wanted, NEVER), metrics)
    logits = (own * weight[..., None]).sum(1) / weight.sum(1)[:, None]
    return Answers(own, logits.argmax(-1), logits, np.where(asked, wanted, 0).max(1), metrics)


# -- what is shown ---------------------------------------------------------------------------------


def as_text(found: Answers) -> str:
    """The metrics, and a table of the first examples."""
    said = [f"{name}: {value:.4g}" for name, value in found.metrics.items()]
    if found.classes is None:
        y = found.outputs
        said.append(f"outputs {list(y.shape)}, from {y.min():.4g} to {y.max():.4g}")
        return "\n".join(said)
    word = lambda k: " ".join(str(i) for i in np.atleast_1d(k) if i != NEVER)
    head, columns = ["example", "class"], [range(len(found.classes)), map(word, found.classes)]
    if found.logits is not None:
        shifted = np.exp(found.logits - found.logits.max(-1, keepdims=True))
        probability = (shifted / shifted.sum(-1, keepdims=True)).max(-1)
        head, columns = [*head, "probability"], [*columns, (f"{p:.3f}" for p in probability)]
    if found.wanted is not None:
        head, columns = [*head, "wanted"], [*columns, map(word, found.wanted)]
    rows = list(zip(*columns))
    text = taxonomy.table([head, *rows[:SHOWN]], right=(0,))
    more = len(rows) - SHOWN
    said.append(
        text if more <= 0 else f"{text}\n… and {more} more (--out writes all, --json prints them)"
    )
    return "\n".join(said)


def as_dict(found: Answers, s: Settings, step: int, args: argparse.Namespace) -> dict[str, Any]:
    of_list = lambda x: None if x is None else x.tolist()
    return {
        "task": s.task, "rule": experiments.key(s), "name": experiments.name(s),
        "folder": str(args.dir), "step": step, "data": None if args.data is None else str(args.data),
        "examples": len(found.outputs), "metrics": dict(found.metrics),
        "classes": of_list(found.classes), "logits": of_list(found.logits),
        "wanted": of_list(found.wanted), "outputs": list(found.outputs.shape),
        "file": None if args.out is None else str(args.out),
    }  # fmt: skip
