"""Experiments by name: a task, a network for it, a rule and an optimiser, as the command line asks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from eprop_jax import checks, losses
from eprop_jax.cli import naming
from eprop_jax.cli.problems import PROBLEMS, TASKS
from eprop_jax.engine import signals
from eprop_jax.network import cells, readouts
from eprop_jax.network.types import Array, LearningRule, Network, PyTree
from eprop_jax.paper import taxonomy
from eprop_jax.rules import feedback
from eprop_jax.rules.by_paths import by_paths
from eprop_jax.rules.table import BY_NAME
from eprop_jax.run import training

CELLS = ("lif", "alif", "lsnn", "rnn", "leaky_rnn", "gru", "lstm")
SPIKING = ("lif", "alif", "lsnn")
RULES = naming.RULES
EXACT = ("bptt", "rtrl")
OPTIMIZERS = ("adam", "sgd")
SEEDS = 2**32
"""beyond, JAX's keys in 32 bits begin again at 0"""


class Settings(NamedTuple):
    """All that makes an experiment; plain values, so that it can stand in a JSON file."""

    task: str = "evidence-small"
    rule: str = "eprop"
    """bptt, rtrl, m-order, eprop, frozen, or paths: and a language; random and adaptive are eprop
    with that feedback"""
    feedback: str = "symmetric"
    order: int = 2
    """of rule m-order"""
    cell: str = "lsnn"
    units: int | tuple[int, ...] = 100
    """of one layer; or of a stack, the lowest layer first"""
    freeze: tuple[int, ...] | None = None
    """layers of a stack that stay as they are drawn, the lowest 0"""
    batch: int = 64
    steps: int = 1000
    optimizer: str = "adam"
    learning_rate: float = 5e-3
    clip: float = 0.0
    """largest global norm of the gradient; 0: none"""
    feedback_gain: float | None = None
    """B is drawn with standard deviation gain/√n; None: the task's own"""
    feedback_decay: float = 0.0
    """weight decay an update of adaptive feedback and of w_out with it; 0: none"""
    rate_hz: float = 10.0
    """that firing-rate regularisation wants of spiking units"""
    rate_strength: float = 0.0
    reset_gradient: bool | None = None
    """through the reset of spiking units; None: in exact rules only, as in the authors' code"""
    seed: int = 0
    every: int = 10
    """updates between looks"""


def settings(task: str, **chosen: Any) -> Settings:
    """The task's own defaults, with what is chosen in their place.

    Args:
      task: from `TASKS`.
      **chosen: fields of `Settings`; None stands for the default. `rule` is a name from `RULES`.

    Raises:
      ValueError: for a task, rule, cell, feedback or optimiser of another name, or a number out of
        range; for `freeze` that leaves no layer to train.
      TypeError: for a field that does not exist.

    >>> from eprop_jax.cli import experiments
    >>> experiments.settings("pattern", rule="bptt").learning_rate
    0.0001
    >>> experiments.settings("copy", rule="random")[1:3]
    ('eprop', 'random')
    >>> experiments.settings("copy", rule="paths:i*f*", units=(32, 16)).units
    (32, 16)
    """
    checks.one_of("task", task, TASKS)
    chosen = {name: value for name, value in chosen.items() if value is not None}
    for name in chosen:
        if name not in Settings._fields:
            raise TypeError(f"{name}: no such setting; wanted one of {', '.join(Settings._fields)}")
    given = chosen.get("rule", "eprop")
    given = taxonomy.OLD.get(given, given)
    given = naming.rule(given)
    kind = given if given in signals.KINDS else None
    if kind and chosen.get("feedback", kind) != kind:
        raise ValueError(
            f"feedback: got {chosen['feedback']!r} with rule {given!r}, wanted {kind!r}"
        )
    chosen |= {"rule": "eprop", "feedback": kind} if kind else {"rule": given}
    for name in ("units", "freeze"):  # a list, where they come from a file
        if isinstance(chosen.get(name), list):
            chosen[name] = tuple(chosen[name])
    if isinstance(chosen.get("units"), tuple) and len(chosen["units"]) == 1:
        chosen["units"] = chosen["units"][0]
    s = Settings(**{"task": task, **PROBLEMS[task].defaults, **chosen})
    checks.one_of("cell", s.cell, CELLS)
    checks.one_of("feedback", s.feedback, signals.KINDS)
    checks.one_of("optimizer", s.optimizer, OPTIMIZERS)
    for name in ("order", "batch", "steps", "every"):
        checks.size(name, getattr(s, name))
    if s.units == ():
        raise ValueError("units: got (), wanted an int >= 1, or several, one a layer")
    for l, n in enumerate(layers(s)):
        checks.size(f"units[{l}]" if stacked(s) else "units", n)
    freezes(s.freeze, len(layers(s)))
    for name in ("clip", "feedback_decay", "rate_hz", "rate_strength"):
        checks.nonnegative(name, getattr(s, name))
    if s.feedback_gain is not None:
        checks.nonnegative("feedback_gain", s.feedback_gain)
    checks.positive("learning_rate", s.learning_rate)
    if checks.steps("seed", s.seed) >= SEEDS:
        raise ValueError(f"seed: got {s.seed}, wanted an int < 2**32")
    reads = s.rule in ("eprop", "m-order") or naming.language(s.rule) is not None
    if not reads and s.feedback != "symmetric":
        raise ValueError(f"feedback: got {s.feedback!r} with rule {s.rule!r}, which reads none; wanted "
                         "'symmetric', or rule 'eprop', 'm-order' or 'paths:…'")  # fmt: skip
    if s.cell == "lsnn" and min(layers(s)) < 2:
        raise ValueError(f"units: got {s.units}, wanted >= 2 for an lsnn, half of which adapt")
    return s


def layers(s: Settings) -> tuple[int, ...]:
    """The units of each layer, the lowest first."""
    return s.units if isinstance(s.units, tuple) else (s.units,)


def stacked(s: Settings) -> bool:
    return isinstance(s.units, tuple)


def freezes(freeze: Any, n_layers: int) -> tuple[int, ...]:
    """The layers that stay as they are drawn, refused if they are none of these, or all.

    >>> from eprop_jax.cli import experiments
    >>> experiments.freezes((0,), 2), experiments.freezes(None, 1)
    ((0,), ())
    """
    if freeze is None:
        return ()
    known = isinstance(freeze, (list, tuple)) and all(l in range(n_layers) for l in freeze)
    if not known or not 0 < len(set(freeze)) < n_layers:
        got = ",".join(map(str, freeze)) if isinstance(freeze, (list, tuple)) else repr(freeze)
        raise ValueError(
            f"freeze: got {got}, wanted numbers of some layers of a stack, the lowest 0, but not of "
            f"all (it has {n_layers}): rule 'frozen' freezes all"
        )
    return tuple(freeze)


def trains_all(s: Settings) -> bool:
    """Does every layer train? Else there is no whole gradient of the cell to measure."""
    return s.rule != "frozen" and s.freeze is None


def network(s: Settings) -> Network:
    """The network of an experiment. Each layer of a stack hears the one below, within the step, and the
    read-out the last.

    >>> from eprop_jax.cli import experiments
    >>> experiments.network(experiments.settings("evidence")).cell.n_units
    100
    >>> experiments.network(experiments.settings("digits", units=(32, 16)))
    Network([gru 8 -> 32, gru 32 -> 16], linear 16 -> 10)
    """
    p, sizes = PROBLEMS[s.task], layers(s)
    below = (p.n_in, *sizes[:-1])
    reset = s.rule in EXACT if s.reset_gradient is None else s.reset_gradient
    spiking = {**p.spiking, "reset_gradient": reset}
    if s.cell == "lif":
        spiking.pop("tau_a", None)
    if s.cell in SPIKING:
        kind = {"lif": cells.lif, "alif": cells.alif, "lsnn": lsnn}[s.cell]
        stack = [kind(n_in, n, **spiking) for n_in, n in zip(below, sizes)]
    else:
        stack = [getattr(cells, s.cell)(n_in, n) for n_in, n in zip(below, sizes)]
    bare = "drives" in p.spiking  # the authors' networks have no biases
    if p.tau_out is None:
        readout = readouts.linear(sizes[-1], p.n_out, bias=not bare, gain=p.gain_out)
    else:
        readout = readouts.leaky(sizes[-1], p.n_out, tau=p.tau_out, scale_input=True, bias=not bare,
                                 gain=p.gain_out)  # fmt: skip
    return Network(stack if stacked(s) else stack[0], readout)


def lsnn(n_in: int, n_units: int, *, tau_m: float, tau_a: float, v_th: Any = 1.0, **options: Any):
    """ALIF units of which the first half does not adapt: the LSNN of Bellec et al. 2018, 2020.

    >>> from eprop_jax.cli import experiments
    >>> cell = experiments.lsnn(3, 4, tau_m=20.0, tau_a=200.0)
    >>> cell.constants["beta"].round(3).tolist()
    [0.0, 0.0, 0.174, 0.174]
    """
    adapts = np.arange(n_units) >= n_units // 2
    beta = 1.7 * (1 - np.exp(-1 / tau_a)) / (1 - np.exp(-1 / tau_m))
    return cells.alif(
        n_in, n_units, tau_m=tau_m, tau_a=tau_a, v_th=v_th, beta=adapts * beta, **options
    )


def rule(s: Settings, net: Network) -> LearningRule:
    """The rule of an experiment.

    >>> from eprop_jax.cli import experiments
    >>> s = experiments.settings("xor", rule="m-order", order=3)
    >>> experiments.rule(s, experiments.network(s)).spec.language
    'i*((e|f)i*){0,2}'
    """
    loss = PROBLEMS[s.task].loss
    activity = None
    if s.rate_strength > 0 and s.cell in SPIKING:
        activity = losses.firing_rate(s.rate_hz / 1000, s.rate_strength)
    if s.rule in EXACT:
        return BY_NAME[s.rule](net, loss, activity_loss=activity)
    if s.rule == "m-order":
        of = functools.partial(BY_NAME[s.rule], order=s.order)
        return of(net, loss, feedback=s.feedback, activity_loss=activity)
    # The read-out's gradient is exact under every rule; this one is a rule of every network.
    language = "i*f*" if s.rule == "frozen" else naming.language(s.rule)
    if language is not None:
        return by_paths(net, loss, paths=language, feedback=s.feedback, activity_loss=activity)
    return BY_NAME["eprop"](net, loss, feedback=s.feedback, activity_loss=activity)


def optimizer(s: Settings, learning_rate: Any = None) -> optax.GradientTransformation:
    """The optimiser of an experiment; `learning_rate` may be a tracer.

    Adaptive feedback and the read-out decay together (Bellec et al. 2020, the weight decay of their
    adaptive e-prop), so that B forgets where it started and comes to lie along w_out.

    >>> from eprop_jax.cli import experiments
    >>> s = experiments.settings("xor", clip=1.0)
    >>> experiments.optimizer(s).init({"w": 1.0}) is not None
    True
    """
    rate = s.learning_rate if learning_rate is None else learning_rate
    still = optax.masked(optax.set_to_zero(), functools.partial(_still, s))
    step = optax.adam(rate) if s.optimizer == "adam" else optax.sgd(rate)
    parts = [] if trains_all(s) else [still]
    parts += [optax.clip_by_global_norm(s.clip)] if s.clip else []
    parts.append(step)
    if s.feedback_decay:
        # After the step, so that both lose the same share whatever the optimiser's scaling.
        decay = optax.add_decayed_weights(-s.feedback_decay)
        parts.append(optax.masked(decay, _decaying))
    return optax.chain(*parts)


def _still(s: Settings, params: PyTree) -> PyTree:
    """True at all that stays as it was drawn."""

    def stays(path, _):
        if s.rule == "frozen":
            return path[0].key != "readout"
        return path[0].key == "cell" and path[1].idx in s.freeze

    return jax.tree.map_with_path(stays, params)


def _decaying(params: PyTree) -> PyTree:
    """True at the feedback weights and at the w_out that they follow."""
    names = lambda path: [getattr(k, "key", None) for k in path]
    return jax.tree.map_with_path(
        lambda path, _: names(path)[0] == "feedback" or names(path)[-1] == "w_out", params
    )


def key(s: Settings) -> str:
    """The name of the rule, as the commands call it.

    >>> from eprop_jax.cli import experiments
    >>> experiments.key(experiments.settings("xor", rule="random"))
    'random'
    """
    return s.feedback if s.rule == "eprop" and s.feedback != "symmetric" else s.rule


def name(s: Settings) -> str:
    """The rule, as tables and pictures call it.

    >>> from eprop_jax.cli import experiments
    >>> experiments.name(experiments.settings("xor", rule="m-order", order=3))
    'e-prop, order 3'
    """
    kind = "" if s.feedback == "symmetric" else f", {s.feedback} feedback"
    called = {
        "bptt": "BPTT", "rtrl": "RTRL", "frozen": naming.all_frozen(len(layers(s))),
        "m-order": f"e-prop, order {s.order}{kind}", "eprop": f"e-prop, {s.feedback}",
    }  # fmt: skip
    of = called.get(s.rule) or f"{naming.of_language(s.rule)}{kind}"
    return of if s.freeze is None else f"{of}, {naming.frozen(s.freeze)}"


def title(s: Settings) -> str:
    """Task and network, as pictures call them.

    >>> from eprop_jax.cli import experiments
    >>> experiments.title(experiments.settings("copy", units=(32, 16)))
    'copy, gru of 32-16 units'
    """
    return f"{s.task}, {s.cell} of {naming.sizes(layers(s))} units"


class Experiment(NamedTuple):
    """Settings, made."""

    settings: Settings
    net: Network
    rule: LearningRule
    sampler: Callable
    """(key) -> (xs, ys)"""
    test_sampler: Callable
    """the same, of what is not trained on"""
    metrics: Mapping[str, training.Metric]
    trainer: training.Trainer


def experiment(s: Settings, seed: Any = None, learning_rate: Any = None) -> Experiment:
    """Make it: network, rule, sampler and trainer.

    Args:
      s: from `settings`.
      seed, learning_rate: in place of those of `s`; they may be tracers, so that a sweep over them
        is one program.

    >>> from eprop_jax.cli import experiments
    >>> e = experiments.experiment(experiments.settings("evidence-small", units=10, batch=2))
    >>> sorted(experiments.start(e).params)
    ['cell', 'readout']
    """
    p, net = PROBLEMS[s.task], network(s)
    made = rule(s, net)
    k_task = _keys(s, seed)[0]
    task = p.task(k_task) if p.frozen else p.task()
    sampler = functools.partial(task, batch=s.batch)
    test = sampler if p.test is None else functools.partial(p.test(), batch=s.batch)
    trainer = training.trainer(made, optimizer(s, learning_rate), sampler, metrics=p.metrics)
    return Experiment(s, net, made, sampler, test, p.metrics, trainer)


def start(e: Experiment, seed: Any = None) -> training.TrainState:
    """The state before the first update: for one seed the same weights under every rule."""
    _, k_net, k_feedback, k_data = _keys(e.settings, seed)
    params = e.net.init(k_net)
    if e.settings.feedback != "symmetric":
        own = PROBLEMS[e.settings.task].feedback_gain
        gain = own if e.settings.feedback_gain is None else e.settings.feedback_gain
        params["feedback"] = feedback.init(k_feedback, e.net, gain)
    return e.trainer.init(params, k_data)


def _keys(s: Settings, seed: Any) -> Array:
    return jax.random.split(jax.random.key(s.seed if seed is None else seed), 4)
