"""Any language of paths as a learning rule.

A path leads from a parameter, through the unrolled network, to the loss, and is spelt by its edges:
i (a unit's own dynamics), e (a recurrent synapse; s, of a unit to itself), f (a synapse to a layer
above, within the step). A rule keeps the paths of a regular expression, and its gradient is the sum
over them of the products of their edges: `(i|e|f)*` is BPTT, `i*` e-prop (Eq. 25), `i*f*` e-prop in
every layer with credit that climbs the stack within the step. `ej.paths.NAMED` has more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from eprop_jax.engine import definition, layers
from eprop_jax.engine import paths as languages
from eprop_jax.network.types import Array, LearningRule, Network, RuleSpec
from eprop_jax.rules import table


def by_paths(
    net: Network,
    loss: Callable[[Array, Any], Array],
    *,
    paths: str,
    feedback: str = "symmetric",
    activity_loss: Any = None,
    state_loss: Any = None,
) -> LearningRule:
    """The rule that keeps the paths of a language, on one layer or a stack.

    Whole sequences cost one BPTT a live state of its automaton, and no trace. `step` takes chunks of
    any length; its traces are those that the language needs (`ej.paths.report`). On one layer a
    language that comes to e-prop's there, to that of some order m, or to all paths is run by the
    very engine of `ej.eprop`, `ej.m_order_eprop` or `ej.rtrl`.

    Args:
      net: the network.
      loss: loss(y [n_out], target) -> [], of one example at one step.
      paths: a regular expression over `i e s f`, see `ej.paths.compile`.
      feedback: "symmetric": learning signals through w_out, for the layers that the read-out hears.
        "random", "adaptive": through params["feedback"] (`ej.feedback.init`), of a stack one B
        [n_l, n_out] a layer, by which *every* layer stands at the read-out. Random B has a gradient
        of zero by definition; adaptive B_l gets Σ_t h_l^t ⊗ ∂L/∂a_out^t: w_out's own gradient where
        layer l is read, and where it is not, the one that it would have.
      activity_loss: f [n] -> [], a loss on the window's mean activity; of a stack, of every layer,
        or a tuple, one a layer (None: none there).
      state_loss: c_j -> [], a loss on one unit's state at one step, likewise.

    Returns:
      A `LearningRule`.

    Raises:
      TypeError, ValueError: for a wrong network, loss, feedback or language; when it is first used,
        for a parameter that no kept path connects to the loss, with what would reach it; and for
        parameters, inputs or targets that do not fit.

    >>> import jax, jax.numpy as jnp, eprop_jax as ej
    >>> net = ej.Network([ej.cells.alif(3, 6), ej.cells.gru(6, 5)], ej.readouts.linear(5, 2))
    >>> rule = ej.by_paths(net, ej.losses.squared_error, paths="i*f*")
    >>> rule
    LearningRule(paths i*f*, Network([alif 3 -> 6, gru 6 -> 5], linear 5 -> 2))
    >>> loss, grads = ej.value_and_grad(rule)(
    ...     net.init(jax.random.key(0)), jnp.ones((7, 4, 3)), jnp.ones((7, 4, 2)))
    >>> grads["cell"][0]["w_rec"].shape
    (6, 6)
    """
    spec = definition.specify(
        f"paths {paths}", paths, net, loss, activity_loss, state_loss, feedback
    )
    languages.compile(paths)
    found = None if net.stacked else landed(spec)
    return layers.of_layers(spec) if found is None else found


def landed(spec: RuleSpec) -> LearningRule | None:
    """The engine of one layer, if this language comes to one of its own there."""
    params = jax.eval_shape(spec.network.init, jax.random.key(0))
    definition.check_unit(spec.network, params)
    own = layers.costates(spec, params)
    same = lambda language: layers.costates(spec._replace(language=language), params) == own
    found = (x for x in table.own(len(own)) if same(x.language))
    of = next(found, None)
    return of and definition.of_influence(spec._replace(moves=of.moves), of.influence)
