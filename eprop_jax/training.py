"""Training: many updates as one compiled program, and a loop on the host around it.

    (w, s)^{u+1} = optimiser(w^u, s^u, g(w^u; batch_u))        batch_u drawn with fold_in(key, u)

What update u sees depends on the key and on u alone. So a run that was cut off and goes on from a
checkpoint ends, bit for bit, where an uninterrupted one ends.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eprop_jax import checkpoints as ckpt
from eprop_jax import checks
from eprop_jax.base import Array, LearningRule, PyTree
from eprop_jax.bptt import bptt
from eprop_jax.compare import fidelity
from eprop_jax.finite import check_finite
from eprop_jax.sequence import value_and_grad

__all__ = [
    "Run",
    "TrainState",
    "Trainer",
    "accuracy",
    "evaluator",
    "finite",
    "fit",
    "normalised_mse",
    "step_accuracy",
    "train",
    "trainer",
]

Metric = Callable[[Array, PyTree], Array]
"""(outputs [T, *batch, n_out], ys) -> []"""


class TrainState(NamedTuple):
    """All that training carries from update to update."""

    params: PyTree
    opt_state: PyTree
    key: Array
    """of the sampler: update u draws its batch with fold_in(key, u)"""
    step: Array
    """[] int32, updates done"""


class Trainer(NamedTuple):
    """`init(params, key) -> TrainState`; `run(state, updates) -> (TrainState, log)`, one program;
    `check(state)` raises what `ej.check_finite` finds in the next update's batch."""

    init: Callable[..., TrainState]
    run: Callable[[TrainState, int], tuple[TrainState, dict[str, Array]]]
    check: Callable[[TrainState], Any]


def trainer(
    rule: LearningRule,
    optimizer: optax.GradientTransformation,
    data: Any,
    *,
    chunk: Any = None,
    metrics: Mapping[str, Metric] | None = None,
) -> Trainer:
    """Updates of the parameters, as one `lax.scan`.

    Args:
      rule: any learning rule.
      optimizer: any optax transformation: clipping, schedules, weight decay, masks, frozen parts.
        The weights of random feedback, fixed by definition, are kept from it.
      data: a sampler (key) -> (xs [T, *batch, n_in], ys), such as
        `functools.partial(ej.tasks.delayed_xor(), batch=64)`; or batches, a pair (xs, ys) whose
        leaves start with [N, T, *batch], of which update u takes number u mod N.
      chunk: as in `ej.value_and_grad`.
      metrics: {name: function of (outputs, ys)}, of each update's batch; see `accuracy`.

    Returns:
      A `Trainer`. Its log holds, for each update, [updates]: "loss" (before the update), "rate"
      (mean activity; of spiking units, spikes a unit and step), "grad_norm" (of the gradient as
      the rule gives it), and the metrics. `run` compiles once for each number of updates.

    Raises:
      TypeError, ValueError: for what is no rule, optimiser, sampler or metric; when called, for
        what does not fit the network.

    >>> import functools, jax, optax, eprop_jax as ej
    >>> task = ej.tasks.copy_memory(n_symbols=2, length=1, delay=3)
    >>> net = ej.Network(ej.cells.gru(4, 8), ej.readouts.linear(8, 2))
    >>> rule = ej.eprop(net, ej.losses.masked(ej.losses.softmax_cross_entropy))
    >>> t = ej.training.trainer(rule, optax.sgd(0.1), functools.partial(task, batch=4))
    >>> state = t.init(net.init(jax.random.key(0)), jax.random.key(1))
    >>> state, log = t.run(state, 5)
    >>> int(state.step), log["loss"].shape
    (5, (5,))
    """
    if not isinstance(rule, LearningRule):
        raise TypeError(f"rule: got {type(rule).__name__}, wanted an ej.LearningRule")
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            f"optimizer: got {type(optimizer).__name__}, wanted an optax transformation"
        )
    gradient = value_and_grad(rule, chunk=chunk, has_aux=True)
    metrics = _metrics(metrics)
    draw = _sampler(data)

    def init(params: PyTree, key: Array) -> TrainState:
        own, _ = _parts(rule, params)
        key = checks.key("key", key)
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        key = key if typed else jax.random.wrap_key_data(key)
        return TrainState(params, optimizer.init(own), key, jnp.int32(0))

    def update(state: TrainState, _):
        params, opt_state, key, step = state
        xs, ys = draw(key, step)
        (loss, aux), grads = gradient(params, xs, ys)
        own, fixed = _parts(rule, params)
        grads = {name: grads[name] for name in own}
        changes, opt_state = optimizer.update(grads, opt_state, own)
        own = dict(optax.apply_updates(own, changes))  # pyright: ignore
        log = {
            "loss": loss,
            "rate": jnp.mean(aux.activity),
            "grad_norm": jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads))),
            **{name: metric(aux.outputs, ys) for name, metric in metrics.items()},
        }
        return TrainState({**own, **fixed}, opt_state, key, step + 1), log

    @functools.partial(jax.jit, static_argnames="updates")
    def _run(state, updates):
        return jax.lax.scan(update, state, length=updates)

    def run(state: TrainState, updates: int) -> tuple[TrainState, dict[str, Array]]:
        if not isinstance(state, TrainState):
            raise TypeError(
                f"state: got {type(state).__name__}, wanted what this trainer's init gave"
            )
        return _run(state, checks.size("updates", updates))

    def check(state: TrainState) -> None:
        check_finite(rule, chunk)(state.params, *draw(state.key, state.step))

    return Trainer(init, run, check)


def train(
    rule: LearningRule,
    optimizer: optax.GradientTransformation,
    params: PyTree,
    data: Any,
    steps: int,
    *,
    key: Array | None = None,
    chunk: Any = None,
    metrics: Mapping[str, Metric] | None = None,
) -> tuple[TrainState, dict[str, Array]]:
    """Train for some updates, as one program: jit it, or vmap it over seeds and hyper-parameters.

    Args:
      rule, optimizer, data, chunk, metrics: as in `ej.training.trainer`.
      params: where to start.
      steps: updates.
      key: of the sampler (default `jax.random.key(0)`; batches do not read it).

    Returns:
      (TrainState, log), as `ej.training.trainer` says; log leaves are [steps].

    Raises:
      TypeError, ValueError: as `ej.training.trainer`.

    Three seeds by two learning rates, one compiled program:

    >>> import functools, jax, jax.numpy as jnp, optax, eprop_jax as ej
    >>> task = functools.partial(ej.tasks.copy_memory(n_symbols=2, length=1, delay=3), batch=4)
    >>> net = ej.Network(ej.cells.gru(4, 8), ej.readouts.linear(8, 2))
    >>> rule = ej.eprop(net, ej.losses.masked(ej.losses.softmax_cross_entropy))
    >>> def one(key, rate):
    ...     return ej.train(rule, optax.sgd(rate), net.init(key), task, steps=5, key=key)
    >>> sweep = jax.vmap(jax.vmap(one, (None, 0)), (0, None))
    >>> state, log = jax.jit(sweep)(jax.random.split(jax.random.key(0), 3), jnp.array([0.1, 1.0]))
    >>> log["loss"].shape
    (3, 2, 5)
    """
    steps = checks.size("steps", steps)
    checks.mapping("params", params)
    if key is not None:
        checks.key("key", key)
    t = trainer(rule, optimizer, data, chunk=chunk, metrics=metrics)
    return t.run(t.init(params, jax.random.key(0) if key is None else key), steps)


# -- the loop on the host --------------------------------------------------------------------------


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
      report: called with each row.
      checkpoints: a folder; the state is saved there at each pause, the last `keep` are kept.
      progress: a bar, where tqdm is installed.

    Returns:
      A `Run`.

    Raises:
      TypeError, ValueError: for what is no trainer, state or number of steps.
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
    if not isinstance(trainer, Trainer):
        raise TypeError(f"trainer: got {type(trainer).__name__}, wanted ej.training.trainer(...)")
    if not isinstance(state, TrainState):
        raise TypeError(f"state: got {type(state).__name__}, wanted a TrainState")
    for name, value in (("steps", steps), ("every", every), ("keep", keep)):
        checks.size(name, value)
    for name, value in (("evaluate", evaluate), ("stop", stop), ("report", report)):
        if value is not None:
            checks.is_callable(name, value)
    if checkpoints is not None:
        checks.folder("checkpoints", checkpoints)
    checks.flag("progress", progress)
    done, logs, rows, stopped = int(state.step), [], [], False
    with _bar(steps, done, progress) as bar:
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
            if checkpoints is not None:
                ckpt.save(checkpoints, state, done, keep=keep)
            if report is not None:
                report(row)
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
    if not isinstance(state, TrainState):
        raise TypeError(f"state: got {type(state).__name__}, wanted a TrainState")
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


# -- what to look at -------------------------------------------------------------------------------


def accuracy(outputs: Array, ys: PyTree) -> Array:
    """Share of sequences that are named rightly, by the largest of the outputs' sum over the window.

    Args:
      outputs: [T, *batch, n_out].
      ys: (class [T, *batch], weight [T, *batch]), with one class a sequence wherever its weight is
        not 0; where the class changes, take `step_accuracy`.

    Raises:
      TypeError, ValueError: if ys is no such pair, or does not fit the outputs.

    >>> import jax.numpy as jnp, eprop_jax as ej
    >>> ys = jnp.array([[1], [1]]), jnp.array([[0.0], [1.0]])
    >>> float(ej.training.accuracy(jnp.array([[[9.0, 0.0]], [[0.0, 1.0]]]), ys))
    1.0
    """
    label, weight = _classes(outputs, ys)
    logits = jnp.sum(outputs * weight[..., None].astype(outputs.dtype), 0)
    label = jnp.max(jnp.where(weight > 0, label, 0), 0)
    return jnp.mean((jnp.argmax(logits, -1) == label).astype(outputs.dtype))


def step_accuracy(outputs: Array, ys: PyTree) -> Array:
    """Share of steps that are named rightly by the largest output, weighted as the loss is.

    Args:
      outputs, ys: as in `accuracy`; the class may change from step to step.

    Raises:
      TypeError, ValueError: if ys is no such pair, or does not fit the outputs.

    >>> import jax.numpy as jnp, eprop_jax as ej
    >>> ys = jnp.array([[0], [1]]), jnp.array([[0.5], [0.5]])
    >>> float(ej.training.step_accuracy(jnp.array([[[9.0, 0.0]], [[1.0, 0.0]]]), ys))
    0.5
    """
    label, weight = _classes(outputs, ys)
    weight = weight.astype(outputs.dtype)
    right = (jnp.argmax(outputs, -1) == label).astype(outputs.dtype)
    return jnp.sum(weight * right) / jnp.sum(weight)


def normalised_mse(outputs: Array, ys: Array) -> Array:
    """Σ (y − y*)² / Σ (y* − ȳ*)², ȳ* the target's mean over time (Bellec et al. 2020).

    Args:
      outputs, ys: [T, *batch, n_out].

    Raises:
      TypeError, ValueError: if they are not two arrays of one shape.

    >>> import jax.numpy as jnp, eprop_jax as ej
    >>> target = jnp.array([[0.0], [2.0]])
    >>> float(ej.training.normalised_mse(jnp.ones((2, 1)), target))
    1.0
    """
    checks.array("outputs", outputs)
    if checks.array("ys", ys).shape != outputs.shape:
        raise ValueError(
            f"ys: got shape {list(ys.shape)}, wanted {list(outputs.shape)}, as outputs"
        )
    target = ys.astype(outputs.dtype)
    spread = jnp.sum((target - jnp.mean(target, 0, keepdims=True)) ** 2)
    return jnp.sum((outputs - target) ** 2) / spread


def evaluator(
    rule: LearningRule,
    data: Any,
    *,
    metrics: Mapping[str, Metric] | None = None,
    batches: int = 1,
    cosine: bool = False,
    reference: LearningRule | None = None,
) -> Callable[[PyTree, Array], dict[str, Array]]:
    """(params, key) -> {"test_loss", "test_" + each metric, "cosine"}, compiled, for `fit`.

    Args:
      rule: the rule in training; of it, the network and the loss are read.
      data: as in `trainer`; batch b of the key is drawn with fold_in(key, b).
      metrics: as in `trainer`.
      batches: how many, over which the mean is taken.
      cosine: also the cosine of the rule's gradient of the cell's parameters to the reference's,
        on the first batch.
      reference: a rule of symmetric feedback; None: BPTT of the same network and losses. Over long
        sequences of spikes BPTT may explode where no gradient passes the reset; then another
        network with the same parameters, in which it does pass, makes the better reference.

    Raises:
      TypeError, ValueError: as `trainer`; for a rule of your own with no `spec`.

    >>> import functools, jax, eprop_jax as ej
    >>> task = functools.partial(ej.tasks.copy_memory(n_symbols=2, length=1, delay=3), batch=4)
    >>> net = ej.Network(ej.cells.gru(4, 8), ej.readouts.linear(8, 2))
    >>> rule = ej.eprop(net, ej.losses.masked(ej.losses.softmax_cross_entropy))
    >>> look = ej.training.evaluator(rule, task, metrics={"accuracy": ej.training.accuracy},
    ...                              batches=2, cosine=True)
    >>> sorted(look(net.init(jax.random.key(0)), jax.random.key(1)))
    ['cosine', 'test_accuracy', 'test_loss']
    """
    if not isinstance(rule, LearningRule) or rule.spec is None:
        raise TypeError(f"rule: got {type(rule).__name__}, wanted one of the library's rules")
    checks.size("batches", batches)
    checks.flag("cosine", cosine)
    metrics = _metrics(metrics)
    draw, spec = _sampler(data), rule.spec
    if reference is None:
        reference = bptt(spec.network, spec.loss, activity_loss=spec.activity_loss,
                         state_loss=spec.state_loss)  # fmt: skip
    if not isinstance(reference, LearningRule):
        raise TypeError(f"reference: got {type(reference).__name__}, wanted an ej.LearningRule")
    exact = value_and_grad(reference, None, True)
    own = value_and_grad(rule)

    def one(params, key, b):
        xs, ys = draw(key, b)
        (loss, aux), _ = exact({k: params[k] for k in ("cell", "readout")}, xs, ys)
        return {"test_loss": loss} | {f"test_{k}": f(aux.outputs, ys) for k, f in metrics.items()}

    @jax.jit
    def evaluate(params, key):
        found = jax.lax.map(lambda b: one(params, key, b), jnp.arange(batches))
        found = {name: jnp.mean(x) for name, x in found.items()}
        if cosine:
            xs, ys = draw(key, jnp.int32(0))
            _, wanted = exact({k: params[k] for k in ("cell", "readout")}, xs, ys)
            grads = own(params, xs, ys)[1]
            found["cosine"] = fidelity(grads["cell"], wanted["cell"]).cosine
        return found

    return evaluate


# -- inside ----------------------------------------------------------------------------------------


def _origin(trainer: Trainer, before: TrainState, log: Mapping[str, np.ndarray]) -> str:
    """What `ej.check_finite` says of the first bad update, which is run up to once more."""
    bad = np.flatnonzero(~(np.isfinite(log["loss"]) & np.isfinite(log["grad_norm"])))
    if not bad.size:
        return "; its loss and gradient are finite: the optimiser made them so"
    state = trainer.run(before, int(bad[0]))[0] if bad[0] else before
    try:
        trainer.check(state)
    except FloatingPointError as error:
        return f"; there, {error}"
    return ""


def _metrics(metrics: Any) -> dict[str, Metric]:
    given = checks.mapping("metrics", metrics or {})
    return {name: checks.is_callable(f"metrics[{name!r}]", f) for name, f in given.items()}


def _classes(outputs: Array, ys: PyTree) -> tuple[Array, Array]:
    lead = list(checks.array("outputs", outputs).shape[:-1])
    if not isinstance(ys, tuple) or len(ys) != 2:
        raise TypeError(f"ys: got {type(ys).__name__}, wanted the pair (class, weight)")
    for i, y in enumerate(ys):
        if list(checks.array(f"ys[{i}]", y).shape) != lead:
            raise ValueError(f"ys[{i}]: got shape {list(y.shape)}, wanted {lead}, as outputs")
    return ys


def _parts(rule: LearningRule, params: PyTree) -> tuple[dict, dict]:
    """What the optimiser sees, and the weights of random feedback."""
    if not isinstance(params, Mapping):
        raise TypeError(f"params: got {type(params).__name__}, wanted the dict that net.init gives")
    fixed = ("feedback",) if rule.spec is not None and rule.spec.feedback == "random" else ()
    return (
        {k: v for k, v in params.items() if k not in fixed},
        {k: v for k, v in params.items() if k in fixed},
    )


def _pair(drawn: Any) -> Any:
    if not isinstance(drawn, tuple) or len(drawn) != 2:
        raise TypeError(f"data: gave {type(drawn).__name__}, wanted the pair (xs, ys)")
    return drawn


def _sampler(data: Any) -> Callable[[Array, Array], Any]:
    """(key, u) -> batch u."""
    if callable(data):
        return lambda key, u: _pair(data(jax.random.fold_in(key, u)))
    if not isinstance(data, tuple) or len(data) != 2:
        raise TypeError(
            f"data: got {type(data).__name__}, wanted a sampler (key) -> (xs, ys), or a pair (xs, ys) "
            "of batches [N, T, *batch, ...]"
        )
    sizes = {np.shape(x)[:1] for x in jax.tree.leaves(data)}
    if len(sizes) != 1 or sizes & {(), (0,)}:
        raise ValueError(f"data: got leading axes {sorted(sizes)}, wanted one number of batches N")
    N = sizes.pop()[0]
    xs, ys = jax.tree.map(jnp.asarray, data)
    at = lambda u: lambda x: jax.lax.dynamic_index_in_dim(x, u % N, keepdims=False)
    return lambda key, u: (at(u)(xs), jax.tree.map(at(u), ys))


class _bar:
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
