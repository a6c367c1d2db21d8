"""A rule of a stack, or of a language that the engine of one layer has not."""

from __future__ import annotations

import functools
from typing import Any

from eprop_jax.engine import definition, paths
from eprop_jax.engine.layers import chunk, connected
from eprop_jax.engine.layers.plan import Plan, plan, traces
from eprop_jax.network.types import LearningRule, PyTree, RuleSpec, State


def of_layers(spec: RuleSpec, traced: bool = True) -> LearningRule:
    """The rule that keeps the paths of `spec.language`, by the adjoint over layers × co-states.
    `traced`: does it carry traces from chunk to chunk?

    Raises:
      TypeError, ValueError: for what is no language; when it is first used, if from some parameter no
        kept path leads to the loss.
    """
    paths.compile(definition.language_of(spec))
    known = {}

    def plan_of(params: PyTree) -> Plan:
        """Which follows from the structure alone."""
        if "plan" not in known:
            known["plan"] = plan(spec, params)
        return known["plan"]

    def begun(spec: RuleSpec, params: dict, state: State, batch: int) -> Any:
        of = functools.partial(traces, plan_of(params)) if traced else definition.without_traces
        return of(spec, params, state, batch)

    spec = spec._replace(costates=lambda params: plan_of(params).nodes)
    gradient = functools.partial(chunk.gradient, plan_of, traced)
    refuse = functools.partial(connected.refuse_unconnected, spec)
    return definition.build(spec, begun, gradient, traced, refuse)
