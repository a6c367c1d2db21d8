"""The tasks by name, each with what a network for it has to fit.

The defaults of `pattern` and `evidence` are the setups published with G. Bellec et al., *A solution
to the learning dilemma for recurrent networks of spiking neurons*, Nature Communications 11:3625,
2020, read from the authors' code (github.com/IGITUGraz/eligibility_propagation). All others are this
library's choice.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from eprop_jax import losses, tasks
from eprop_jax.run import training

NAMING = losses.masked(losses.softmax_cross_entropy)


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
    named: str | None = "last"
    """where a sequence's answer is read, as `ej.predict` has it; None: at each step"""
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
        named=None, frozen=True,
    ),
    "store-recall": Problem(
        functools.partial(tasks.store_recall, symbol=50.0, mean_delay=2.0), 100, 2, NAMING, STEP_ERROR,
        0.05, 20.0, {"tau_m": 20.0, "tau_a": 400.0, "v_th": 0.6, "refractory": 5},
        feedback_gain=10.0, gain_out=1.4, defaults={"rate_strength": 2.0}, named=None,
    ),
    "xor": Problem(
        functools.partial(tasks.delayed_xor, delay=100.0), 40, 2, NAMING, ERROR,
        0.02, 20.0, {"tau_m": 20.0, "tau_a": 200.0, "v_th": 0.6, "refractory": 5},
        feedback_gain=10.0, gain_out=1.4, defaults={"rate_strength": 2.0},
    ),
    "copy": Problem(
        functools.partial(tasks.copy_memory, n_symbols=4, length=3, delay=10), 6, 4, NAMING, STEP_ERROR,
        0.01, None, {"tau_m": 5.0, "tau_a": 20.0}, 8.0, 1.0,
        defaults={"cell": "gru", "units": 64}, named=None,
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
        named="throughout",
    ),
}  # fmt: skip
TASKS = tuple(PROBLEMS)
