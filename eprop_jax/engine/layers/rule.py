"""A rule of a stack, or of a language that no other engine runs: whole sequences."""

from __future__ import annotations

import functools
from typing import Any

from eprop_jax import rules
from eprop_jax.base import LearningRule, PyTree, RuleSpec, State
from eprop_jax.engine import paths
from eprop_jax.engine.layers import connected, descend


def of_layers(spec: RuleSpec, language: str) -> LearningRule:
    """The rule that keeps the paths of `language`, by the layered adjoint.

    Raises:
      TypeError, ValueError: for what is no language; when it is first used, if from some parameter no
        kept path leads to the loss.
    """
    paths.compile(language)
    spec, known = spec._replace(language=language), {}

    def nodes_of(params: PyTree) -> tuple[paths.CoState, ...]:
        """The co-states, which follow from the structure alone."""
        if "nodes" not in known:
            known["nodes"] = connected.costates(spec, params)
        return known["nodes"]

    rule = rules.build(spec, no_traces, functools.partial(descend.gradient, nodes_of))

    def init(params: PyTree, batch_shape: Any = ()):
        raise ValueError(f"rule.init: {rules.whole_alone(spec)}")

    def step(params: PyTree, carry: Any, xs: Any, ys: Any, *, mask: Any = None):
        raise ValueError(f"rule.step: {rules.whole_alone(spec)}")

    return rule._replace(init=init, step=step)


def no_traces(spec: RuleSpec, params: dict, state: State, batch: int) -> dict:
    """None; what no kept path connects to the loss is refused here, once a form of the parameters."""
    connected.refuse_unconnected(spec, params)
    return {}
