"""The loop on the host: pauses to look, to save, to stop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax import checks
from eprop_jax.network.types import Array, PyTree
from eprop_jax.run import checkpoints as ckpt
from eprop_jax.run.training.updates import Trainer, TrainState


class Run(NamedTuple):
    """What `fit` gives."""

    state: TrainState
    log: dict[str, np.ndarray]
    """of each update done here, as the trainer logs it"""
    rows: list[dict[str, float]]
    """one a segment: "step", the log's means over the segment, and what `evaluate` found"""
    stopped: bool
    """did the criterion end it?"""


def fit(
    trainer: Trainer,
    state: TrainState,
    steps: int,
    *,
    every: int = 100,
    evaluate: Callable[[PyTree, Array], Mapping[str, Any]] | None = None,
    stop: Callable[[Mapping[str, float]], bool] | None = None,
    report: Callable[[dict[str, float]], Any] | None = None,
    checkpoints: str | Path | None = None,
    keep: int = 2,
    progress: bool = True,
) -> Run:
    """Train until `steps` updates are done in all, pausing every few to look.

    Args:
      trainer: from `ej.training.trainer`.
      state: from its `init`, or from `ej.checkpoints.restore`.
      steps: updates in all, those already in `state.step` included.
      every: updates between pauses, which come at its multiples wherever the run started.
      evaluate: (params, key) -> {name: number}, see `evaluator`; the key is of this step alone.
      stop: (row) -> True to end the run.
      report: called with each row, before the state of that pause is saved: a run that is killed
        between the two does those updates once more, and reports the same row.
      checkpoints: a folder; the state is saved there at each pause, the last `keep` are kept. No other
        process may write there meanwhile.
      progress: a bar, where tqdm is installed.

    Returns:
      A `Run`.

    Raises:
      TypeError, ValueError: for what is no trainer, state or number of steps.
      BlockingIOError: if another process is writing to the folder of checkpoints.
      FloatingPointError: if the loss, gradient or a parameter is no finite number at a pause. The
        message says at which update, and what `ej.check_finite` finds there: in which step, unit
        or parameter. The state is not saved then: the last checkpoint is of the pause before.

    >>> import functools, jax, optax, eprop_jax as ej
    >>> task = functools.partial(ej.tasks.copy_memory(n_symbols=2, length=1, delay=3), batch=4)
    >>> net = ej.Network(ej.cells.gru(4, 8), ej.readouts.linear(8, 2))
    >>> rule = ej.eprop(net, ej.losses.masked(ej.losses.softmax_cross_entropy))
    >>> t = ej.training.trainer(rule, optax.sgd(0.1), task)
    >>> state = t.init(net.init(jax.random.key(0)), jax.random.key(1))
    >>> run = ej.training.fit(t, state, 20, every=10, progress=False)
    >>> [row["step"] for row in run.rows]
    [10, 20]
    """
    checks.instance("trainer", trainer, Trainer, "ej.training.trainer(...)")
    checks.instance("state", state, TrainState, "a TrainState")
    for name, value in (("steps", steps), ("every", every), ("keep", keep)):
        checks.size(name, value)
    for name, value in (("evaluate", evaluate), ("stop", stop), ("report", report)):
        if value is not None:
            checks.is_callable(name, value)
    if checkpoints is not None:
        checks.folder("checkpoints", checkpoints)
    checks.flag("progress", progress)
    done, logs, rows, stopped = int(state.step), [], [], False
    alone = contextlib.nullcontext() if checkpoints is None else ckpt.alone(checkpoints)
    with alone, _Bar(steps, done, progress) as bar:
        while done < steps and not stopped:
            updates = min(every - done % every, steps - done)
            before = state
            state, log = trainer.run(before, updates)
            log = {name: np.asarray(x) for name, x in log.items()}
            try:
                finite(state, log, done)
            except FloatingPointError as error:
                raise FloatingPointError(f"{error}{_origin(trainer, before, log)}") from None
            done += updates
            row = {"step": done, **{name: float(x.mean()) for name, x in log.items()}}
            if evaluate is not None:
                found = evaluate(state.params, jax.random.fold_in(state.key, 2**31 + done))
                row |= {name: float(x) for name, x in found.items()}
            logs.append(log)
            rows.append(row)
            if report is not None:  # before the save: what is on the disk has its row
                report(row)
            if checkpoints is not None:
                ckpt.save(checkpoints, state, done, keep=keep)
            bar(updates, row)
            stopped = stop is not None and bool(stop(row))
    names = logs[0] if logs else {}
    log = {name: np.concatenate([log[name] for log in logs]) for name in names}
    return Run(state, log, rows, stopped)


def finite(state: TrainState, log: Mapping[str, np.ndarray], start: int) -> None:
    """Refuse to go on from numbers that are not finite.

    Args:
      state: after some updates.
      log: of those updates.
      start: the number of the first.

    Raises:
      TypeError, ValueError: for what is no state, log or number.
      FloatingPointError: naming the first update whose loss or gradient was not finite, or the
        parameter.

    >>> import numpy as np, eprop_jax as ej
    >>> state = ej.training.TrainState({"w": np.ones(2)}, (), None, 3)
    >>> ej.training.finite(state, {"loss": np.array([1.0, np.nan])}, start=1)
    Traceback (most recent call last):
    ...
    FloatingPointError: loss: got nan at update 2, wanted a finite number
    """
    checks.instance("state", state, TrainState, "a TrainState")
    checks.mapping("log", log)
    checks.steps("start", start)
    for name in ("loss", "grad_norm"):
        bad = np.flatnonzero(~np.isfinite(log.get(name, 0.0)))
        if bad.size:
            raise FloatingPointError(
                f"{name}: got {log[name][bad[0]]} at update {start + bad[0]}, wanted a finite number"
            )
    for path, x in jax.tree.leaves_with_path(state.params):
        if not bool(jnp.all(jnp.isfinite(x))):
            raise FloatingPointError(
                f"params{jax.tree_util.keystr(path)}: has {int(jnp.sum(~jnp.isfinite(x)))} values "
                f"that are not finite after update {int(state.step) - 1}"
            )


def _origin(trainer: Trainer, before: TrainState, log: Mapping[str, np.ndarray]) -> str:
    """What `ej.check_finite` says of the first bad update."""
    bad = np.flatnonzero(~(np.isfinite(log["loss"]) & np.isfinite(log["grad_norm"])))
    if not bad.size:
        return "; its loss and gradient are finite: the optimiser made them so"
    try:
        trainer.check(before, int(bad[0]))
    except FloatingPointError as error:
        return f"; there, {error}"
    return ""


class _Bar:
    """A progress bar on stderr where tqdm is installed."""

    def __init__(self, total: int, done: int, wanted: bool):
        self.bar = None
        if wanted:
            try:
                from tqdm import tqdm

                self.bar = tqdm(total=total, initial=done, unit="update", dynamic_ncols=True)
            except ImportError:
                pass

    def __call__(self, updates: int, row: Mapping[str, float]) -> None:
        if self.bar is not None:
            shown = {k: f"{v:.3g}" for k, v in row.items() if k not in ("step", "grad_norm")}
            self.bar.set_postfix(shown, refresh=False)
            self.bar.update(updates)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.bar is not None:
            self.bar.close()
