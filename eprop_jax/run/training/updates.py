"""Many updates as one compiled program."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax import checks
from eprop_jax.network.types import Array, LearningRule, PyTree
from eprop_jax.network.units import wide
from eprop_jax.rules import feedback
from eprop_jax.run.finite import check_finite
from eprop_jax.run.sequence import plain_value_and_grad, value_and_grad
from eprop_jax.run.training.batches import Batch, is_read, reader, sampler

if TYPE_CHECKING:  # importing it takes as long as all of this library
    import optax

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
    `check(state, ahead=0)` raises what `ej.check_finite` finds in the next update's batch, or in that
    of one further ahead."""

    init: Callable[..., TrainState]
    run: Callable[[TrainState, int], tuple[TrainState, dict[str, Array]]]
    check: Callable[..., Any]


def trainer(
    rule: LearningRule | Callable[[Array], LearningRule],
    optimizer: optax.GradientTransformation,
    data: Any,
    *,
    chunk: Any = None,
    metrics: Mapping[str, Metric] | None = None,
) -> Trainer:
    """Updates of the parameters, as one `lax.scan`.

    Args:
      rule: any learning rule; or a function (key) -> rule, which is called with a new key in each
        update, for what is drawn there: noise in the units (`ej.cells.noisy`, `ej.cells.dropout`), the
        signs of `ej.uoro`.
      optimizer: any optax transformation: clipping, schedules, weight decay, masks, frozen parts.
        Its label and mask trees are shaped like the parameters, "feedback" included; whatever it
        does there, random feedback weights stay (`ej.feedback.fixed`). One that takes extra
        arguments gets `value`, the batch's loss before the update, `grad`, and `value_fn`, the
        loss of the same batch at other parameters (for line searches).
      data: a sampler (key) -> (xs [T, *batch, n_in], ys), such as
        `functools.partial(ej.tasks.delayed_xor(), batch=64)`; `ej.tasks.from_arrays(X, y, batch=64)`;
        batches, a pair (xs, ys) whose leaves start with [N, T, *batch], of which update u takes
        number u mod N; or any iterable of batches, such as a list, a generator or another library's
        loader, whose arrays are NumPy's, JAX's or have `__array__`. Each form may give (xs, ys, mask),
        with mask [T, *batch] bool, the steps that count, as in `ej.value_and_grad`.
      chunk: as in `ej.value_and_grad`.
      metrics: {name: function of (outputs, ys)}, of each update's batch; see `accuracy`.

    Returns:
      A `Trainer`. Its log holds, for each update, [updates]: "loss" (before the update), "rate"
      (mean activity over all units; of spiking ones, spikes a unit and step), "grad_norm" (of the
      gradient as the rule gives it), and the metrics. `run` compiles once for each number of updates.

      An iterable is read on the host, one batch an update, by one compiled update: all its batches
      have the shapes and dtypes of the first. Where it ends it is begun again. A new trainer begins
      with its first batch, whatever `state.step`: a run that is to go on from a checkpoint with what
      it would have seen needs an iterable that starts there, or another form.

    Raises:
      TypeError, ValueError: for what is no rule, optimiser, sampler or metric; when called, for
        what does not fit the network, a batch that is not as the first, an iterable that has ended
        or is to be read within `jax.jit` or `jax.vmap`.

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
    import optax

    rule_of = _drawn_rule(rule)
    checks.optimizer("optimizer", optimizer)
    first = rule if isinstance(rule, LearningRule) else rule_of(jax.random.key(0), 0)
    optimizer = feedback.fixed(optimizer, first)
    metrics = metric_functions(metrics)

    def init(params: PyTree, key: Array) -> TrainState:
        checks.instance("params", params, Mapping, "the dict that net.init gives")
        key = checks.key("key", key)
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        key = key if typed else jax.random.wrap_key_data(key)
        return TrainState(params, optimizer.init(params), key, jnp.int32(0))

    def update(state: TrainState, batch: Batch):
        params, opt_state, key, step = state
        xs, ys, mask = batch
        if mask is not None:
            checks.of_steps("mask", mask, xs.shape[:-1])
        rule = rule_of(key, step)
        (loss, aux), grads = plain_value_and_grad(rule, chunk)(params, xs, ys, batch.steps)
        value_fn = lambda p: value_and_grad(rule, chunk)(p, xs, ys, mask=mask)[0]
        changes, opt_state = optimizer.update(
            grads, opt_state, params, value=loss, grad=grads, value_fn=value_fn
        )
        params = optax.apply_updates(params, changes)
        log = {
            "loss": loss,
            "rate": _rate(jnp.concatenate(jax.tree.leaves(aux.activity), -1), mask),
            "grad_norm": jnp.sqrt(sum(jnp.sum(wide(g) ** 2) for g in jax.tree.leaves(grads))),
            **{name: metric(aux.outputs, ys) for name, metric in metrics.items()},
        }
        return TrainState(params, opt_state, key, step + 1), log

    def look(state, params, xs, ys, mask):
        return check_finite(rule_of(state.key, state.step), chunk)(params, xs, ys, mask=mask)

    run, check = (_read if is_read(data) else _drawn)(data, update, look)
    return Trainer(init, run, check)


def _drawn_rule(rule: Any) -> Callable[[Array, Any], LearningRule]:
    """(the state's key, u) -> the rule of update u. Its key is none that a batch is drawn with."""
    if isinstance(rule, LearningRule):
        return lambda key, u: rule
    wanted = "an ej.LearningRule, or a function (key) -> rule"
    try:
        inspect.signature(rule).bind(None)
    except (TypeError, ValueError):  # or a builtin, which does not tell
        raise TypeError(f"rule: got {type(rule).__name__}, wanted {wanted}") from None

    def made(key, u):
        of_update = jax.random.fold_in(jax.random.fold_in(key, u), 0x72756C65)
        return checks.instance("rule", rule(of_update), LearningRule, wanted)

    return made


def _drawn(data: Any, update: Callable, look: Callable) -> tuple[Callable, Callable]:
    """Run and check, where the key and the number of an update say what it sees."""
    draw = sampler(data)

    @functools.partial(jax.jit, static_argnames="updates")
    def _run(state, updates):
        one = lambda state, _: update(state, draw(state.key, state.step))
        return jax.lax.scan(one, state, length=updates)

    def run(state: TrainState, updates: int) -> tuple[TrainState, dict[str, Array]]:
        checks.instance("state", state, TrainState, "what this trainer's init gave")
        return _run(state, checks.size("updates", updates))

    def check(state: TrainState, ahead: int = 0) -> None:
        state = _run(state, ahead)[0] if ahead else state
        look(state, state.params, *draw(state.key, state.step))

    return run, check


def _read(data: Any, update: Callable, look: Callable) -> tuple[Callable, Callable]:
    """Run and check, where an iterable gives each update its batch."""
    following, one = reader(data), jax.jit(update)
    bad: list[tuple] = []  # the first update without a finite loss and gradient: its batch is gone

    def note(before: Any, log: dict[str, Array]) -> None:
        fine = jnp.isfinite(log["loss"]) & jnp.isfinite(log["grad_norm"])
        if not bad and not bool(fine):
            bad.append(before)

    def run(state: TrainState, updates: int) -> tuple[TrainState, dict[str, Array]]:
        checks.instance("state", state, TrainState, "what this trainer's init gave")
        checks.size("updates", updates)
        if checks.is_traced(state):
            raise TypeError(
                "data: got an iterable within jax.jit or jax.vmap, where nothing can be read, wanted "
                "a sampler, ej.tasks.from_arrays, or the pair (xs, ys) of all batches"
            )
        before, logs = None, []
        for _ in range(updates):
            batch = following()
            if logs:  # only now, so that a batch is read while an update is computed
                note(before, logs[-1])
            before = state, batch
            state, log = one(state, batch)
            logs.append(log)
        note(before, logs[-1])
        return state, jax.tree.map(lambda *x: jnp.stack(x), *logs)

    def check(state: TrainState, ahead: int = 0) -> None:
        for before, (xs, ys, mask) in bad:
            look(before, before.params, *jax.tree.map(jnp.asarray, (xs, ys)), mask)

    return run, check


def _rate(activity: Array, mask: Array | None) -> Array:
    """Mean over units and the steps that count."""
    if mask is None:
        return jnp.mean(activity)
    counts = jnp.broadcast_to(mask[..., None], activity.shape)
    return jnp.sum(jnp.where(counts, activity, 0)) / jnp.sum(counts).astype(activity.dtype)


def train(
    rule: LearningRule | Callable[[Array], LearningRule],
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
      key: of the sampler (default `jax.random.key(0)`; batches and iterables do not read it).

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


def metric_functions(metrics: Any) -> dict[str, Metric]:
    given = checks.mapping("metrics", metrics or {})
    return {name: checks.is_callable(f"metrics[{name!r}]", f) for name, f in given.items()}
