"""Experiments by name: a task, a network for it, a rule and an optimiser, as the command line asks.

The defaults of `pattern` and `evidence` are the setups published with G. Bellec et al., *A solution
to the learning dilemma for recurrent networks of spiking neurons*, Nature Communications 11:3625,
2020, read from the authors' code (github.com/IGITUGraz/eligibility_propagation). All others are this
library's choice.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from eprop_jax import checks, losses, tasks
from eprop_jax.engine import signals
from eprop_jax.network import cells, readouts
from eprop_jax.network.types import Array, LearningRule, Network, PyTree
from eprop_jax.paper import taxonomy
from eprop_jax.rules import feedback
from eprop_jax.rules.bptt import bptt
from eprop_jax.rules.eprop import eprop
from eprop_jax.rules.m_order import m_order_eprop
from eprop_jax.rules.rtrl import rtrl
from eprop_jax.run import training

CELLS = ("lif", "alif", "lsnn", "rnn", "leaky_rnn", "gru", "lstm")
SPIKING = ("lif", "alif", "lsnn")
RULES = taxonomy.KEYS
EXACT = ("bptt", "rtrl")
OPTIMIZERS = ("adam", "sgd")
SEEDS = 2**32
"""beyond, JAX's keys in 32 bits begin again at 0"""
NAMING = losses.masked(losses.softmax_cross_entropy)


class Settings(NamedTuple):
    """All that makes an experiment; plain values, so that it can stand in a JSON file."""

    task: str = "evidence-small"
    rule: str = "eprop"
    """bptt, rtrl, m-order, eprop or frozen: random and adaptive are eprop with that feedback"""
    feedback: str = "symmetric"
    order: int = 2
    """of rule m-order"""
    cell: str = "lsnn"
    units: int = 100
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


class Problem(NamedTuple):
    """A task, and what a network for it has to fit."""

    task: Callable[..., Callable]
    """() -> task, or (key) -> task if `frozen`"""
    n_in: int
    n_out: int
    loss: Callable
    metrics: Mapping[str, training.Metric]
    goal: float
    """training stops when the metric, on test batches, is below"""
    tau_out: float | None
    """None: a linear read-out"""
    spiking: dict[str, Any]
    """options of spiking units"""
    feedback_gain: float
    gain_out: float
    defaults: dict[str, Any]
    """of `Settings`"""
    test_batches: int = 1
    test: Callable[..., Callable] | None = None
    """the task of examples that are not trained on; None: fresh ones of `task`"""
    frozen: bool = False
    """does `task` take the key of a pattern that stays the same throughout?"""


ERROR = {"error": lambda outputs, ys: 1 - training.accuracy(outputs, ys)}
STEP_ERROR = {"error": lambda outputs, ys: 1 - training.step_accuracy(outputs, ys)}
NMSE = {"nmse": training.normalised_mse}
PUBLISHED = {"drives": ("w_in", "w_rec"), "self_connections": False}

EVIDENCE = Problem(
    tasks.evidence_accumulation, 40, 2, NAMING, ERROR, 0.07, 20.0,
    {"tau_m": 20.0, "tau_a": 2000.0, "v_th": 0.6, "refractory": 5, **PUBLISHED},
    feedback_gain=10.0, gain_out=1.4,  # standard deviations 1 and .14, as the authors draw them
    defaults={"cell": "lsnn", "rate_strength": 2.0, "steps": 1500}, test_batches=8,
)  # fmt: skip
PROBLEMS = {
    "evidence": EVIDENCE,
    "evidence-small": EVIDENCE._replace(  # a third of the length
        task=functools.partial(tasks.evidence_accumulation, n_cues=3, delay=150.0),
        goal=0.1,
        defaults={**EVIDENCE.defaults, "steps": 400},
    ),
    "pattern": Problem(
        tasks.pattern_generation, 100, 1, losses.squared_error, NMSE, 0.0, 30.0,
        {"tau_m": 30.0, "v_th": 0.03, "scale_input": True, **PUBLISHED},
        feedback_gain=2.0, gain_out=1.0,  # the authors draw B with gain 1
        defaults={"cell": "lif", "batch": 1, "steps": 2000, "optimizer": "sgd",
                  "learning_rate": 1e-4, "rate_strength": 300.0, "every": 50},
        frozen=True,
    ),
    "store-recall": Problem(
        functools.partial(tasks.store_recall, symbol=50.0, mean_delay=2.0), 100, 2, NAMING, STEP_ERROR,
        0.05, 20.0, {"tau_m": 20.0, "tau_a": 400.0, "v_th": 0.6, "refractory": 5},
        feedback_gain=10.0, gain_out=1.4, defaults={"rate_strength": 2.0},
    ),
    "xor": Problem(
        functools.partial(tasks.delayed_xor, delay=100.0), 40, 2, NAMING, ERROR,
        0.02, 20.0, {"tau_m": 20.0, "tau_a": 200.0, "v_th": 0.6, "refractory": 5},
        feedback_gain=10.0, gain_out=1.4, defaults={"rate_strength": 2.0},
    ),
    "copy": Problem(
        functools.partial(tasks.copy_memory, n_symbols=4, length=3, delay=10), 6, 4, NAMING, STEP_ERROR,
        0.01, None, {"tau_m": 5.0, "tau_a": 20.0}, 8.0, 1.0,
        defaults={"cell": "gru", "units": 64},
    ),
    "digits": Problem(
        tasks.sequential_digits, 8, 10, NAMING, ERROR, 0.0, None,
        {"tau_m": 5.0, "tau_a": 20.0, "refractory": 2, "gain_in": 2.0}, 8.0, 1.0,
        defaults={"cell": "gru", "units": 64, "learning_rate": 1e-2},
        test=functools.partial(tasks.sequential_digits, part="test"), test_batches=4,
    ),
    "pixels": Problem(
        functools.partial(tasks.sequential_digits, "pixel"), 1, 10, NAMING, ERROR,
        0.0, None, {"tau_m": 20.0, "tau_a": 100.0, "gain_in": 2.0}, 8.0, 1.0,
        defaults={"cell": "gru", "units": 64},
        test=functools.partial(tasks.sequential_digits, "pixel", part="test"), test_batches=4,
    ),
    "vowels": Problem(
        tasks.vowel_speakers, 12, 9, NAMING, ERROR, 0.0, None,
        {"tau_m": 5.0, "tau_a": 20.0}, 8.0, 1.0,
        defaults={"cell": "gru", "units": 64, "batch": 32},
        test=functools.partial(tasks.vowel_speakers, part="test"), test_batches=4,
    ),
}  # fmt: skip
TASKS = tuple(PROBLEMS)


def settings(task: str, **chosen: Any) -> Settings:
    """The task's own defaults, with what is chosen in their place.

    Args:
      task: from `TASKS`.
      **chosen: fields of `Settings`; None stands for the default. `rule` is a name from `RULES`.

    Raises:
      ValueError: for a task, rule, cell, feedback or optimiser of another name, or a number out of
        range.
      TypeError: for a field that does not exist.

    >>> from eprop_jax.cli import experiments
    >>> experiments.settings("pattern", rule="bptt").learning_rate
    0.0001
    >>> experiments.settings("copy", rule="random")[1:3]
    ('eprop', 'random')
    """
    checks.one_of("task", task, TASKS)
    chosen = {name: value for name, value in chosen.items() if value is not None}
    for name in chosen:
        if name not in Settings._fields:
            raise TypeError(f"{name}: no such setting; wanted one of {', '.join(Settings._fields)}")
    given = chosen.get("rule", "eprop")
    given = taxonomy.OLD.get(given, given)
    checks.one_of("rule", given, RULES)
    kind = given if given in signals.KINDS else None
    if kind and chosen.get("feedback", kind) != kind:
        raise ValueError(
            f"feedback: got {chosen['feedback']!r} with rule {given!r}, wanted {kind!r}"
        )
    chosen |= {"rule": "eprop", "feedback": kind} if kind else {"rule": given}
    s = Settings(**{"task": task, **PROBLEMS[task].defaults, **chosen})
    checks.one_of("cell", s.cell, CELLS)
    checks.one_of("feedback", s.feedback, signals.KINDS)
    checks.one_of("optimizer", s.optimizer, OPTIMIZERS)
    for name in ("order", "units", "batch", "steps", "every"):
        checks.size(name, getattr(s, name))
    for name in ("clip", "feedback_decay", "rate_hz", "rate_strength"):
        checks.nonnegative(name, getattr(s, name))
    if s.feedback_gain is not None:
        checks.nonnegative("feedback_gain", s.feedback_gain)
    checks.positive("learning_rate", s.learning_rate)
    if checks.steps("seed", s.seed) >= SEEDS:
        raise ValueError(f"seed: got {s.seed}, wanted an int < 2**32")
    if s.rule not in ("eprop", "m-order") and s.feedback != "symmetric":
        raise ValueError(f"feedback: got {s.feedback!r} with rule {s.rule!r}, which reads none; wanted "
                         "'symmetric', or rule 'eprop' or 'm-order'")  # fmt: skip
    if s.cell == "lsnn" and s.units < 2:
        raise ValueError(f"units: got {s.units}, wanted >= 2 for an lsnn, half of which adapt")
    return s


def network(s: Settings) -> Network:
    """The network of an experiment.

    >>> from eprop_jax.cli import experiments
    >>> experiments.network(experiments.settings("evidence")).cell.n_units
    100
    """
    p = PROBLEMS[s.task]
    reset = s.rule in EXACT if s.reset_gradient is None else s.reset_gradient
    spiking = {**p.spiking, "reset_gradient": reset}
    if s.cell == "lif":
        spiking.pop("tau_a", None)
    if s.cell in SPIKING:
        cell = {"lif": cells.lif, "alif": cells.alif, "lsnn": lsnn}[s.cell](
            p.n_in, s.units, **spiking
        )
    else:
        cell = getattr(cells, s.cell)(p.n_in, s.units)
    bare = "drives" in p.spiking  # the authors' networks have no biases
    if p.tau_out is None:
        readout = readouts.linear(s.units, p.n_out, bias=not bare, gain=p.gain_out)
    else:
        readout = readouts.leaky(s.units, p.n_out, tau=p.tau_out, scale_input=True, bias=not bare,
                                 gain=p.gain_out)  # fmt: skip
    return Network(cell, readout)


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
    if s.rule == "bptt":
        return bptt(net, loss, activity_loss=activity)
    if s.rule == "rtrl":
        return rtrl(net, loss, activity_loss=activity)
    if s.rule == "m-order":
        return m_order_eprop(net, loss, order=s.order, feedback=s.feedback, activity_loss=activity)
    return eprop(net, loss, feedback=s.feedback, activity_loss=activity)


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
    still = [optax.masked(optax.set_to_zero(), _but_readout)] if s.rule == "frozen" else []
    step = optax.adam(rate) if s.optimizer == "adam" else optax.sgd(rate)
    parts = still + ([optax.clip_by_global_norm(s.clip)] if s.clip else [])
    parts.append(step)
    if s.feedback_decay:
        # After the step, so that both lose the same share whatever the optimiser's scaling.
        decay = optax.add_decayed_weights(-s.feedback_decay)
        parts.append(optax.masked(decay, _decaying))
    return optax.chain(*parts)


def _but_readout(params: PyTree) -> PyTree:
    """True at all that a frozen layer keeps as it is."""
    return jax.tree.map_with_path(lambda path, _: path[0].key != "readout", params)


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
    if s.rule == "m-order":
        kind = "" if s.feedback == "symmetric" else f", {s.feedback} feedback"
        return f"e-prop, order {s.order}{kind}"
    names = {"bptt": "BPTT", "rtrl": "RTRL", "frozen": "frozen layer"}
    return names.get(s.rule, f"e-prop, {s.feedback}")


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
