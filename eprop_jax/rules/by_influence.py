"""A rule of your own, from the equations of one step.

docs/WRITE_A_RULE.md writes one. What such a rule keeps no language tells, so that it has no gradient
to inputs, and whole sequences run by its traces too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from eprop_jax import checks
from eprop_jax.engine import definition
from eprop_jax.engine.influence import Influence
from eprop_jax.network.types import Array, LearningRule, Network


def by_influence(
    net: Network,
    loss: Callable[[Array, Any], Array],
    influence: Influence,
    *,
    name: str,
    feedback: str = "symmetric",
    activity_loss: Callable[[Array], Array] | None = None,
    state_loss: Callable[[Any], Array] | None = None,
) -> LearningRule:
    """A rule of one layer by its traces: how they start, and how one step moves them.

    Args:
      net: the network.
      loss: loss(y [n_out], target) -> [], of one example at one step.
      influence: an `ej.Influence`, the rule's traces and its equations.
      name: what to call it.
      feedback: "symmetric", "random" or "adaptive", as in `ej.eprop`; d.L and d.dy_dh follow it.
      activity_loss: f [n] -> [], a loss on the window's mean activity; it meets d.dL_dh.
      state_loss: c_j -> [], a loss on one unit's state at one step; it meets d.dL_dc.

    Returns:
      A `LearningRule` whose `step` takes chunks of any length, by `influence.advance` step by step,
      with mask, resets, random feedback and the rest. It has no `whole`, and its loss no derivative to
      xs.

    Raises:
      TypeError, ValueError: for a wrong network, loss or influence; when it is first used, for what
        `start` or `advance` give, and where the gradient has nothing for some parameter.

    The shortest: what a synapse sees at this very step (`f*` in the language of paths).

    >>> import typing, jax, jax.numpy as jnp, eprop_jax as ej
    >>> class Carry(typing.NamedTuple):
    ...     state: ej.State
    ...     gamma: typing.Any
    >>> def advance(S, d):
    ...     e = d.dh_dc @ d.dc_dw + d.dh_dw
    ...     gamma = d.dy_dy @ S.gamma.cell + d.dy_dh @ e
    ...     gamma_out = d.dy_dy @ S.gamma.readout + d.dy_dv
    ...     dL_dw = d.L @ gamma + d.dL_dh @ e + d.dL_dc @ d.dc_dw
    ...     S = S._replace(gamma=S.gamma._replace(cell=gamma, readout=gamma_out))
    ...     return S, dL_dw, d.dL_dy @ gamma_out
    >>> influence = ej.Influence(lambda zero: Carry(zero.state, zero.gamma), advance, local=True)
    >>> net = ej.Network(ej.cells.gru(3, 5), ej.readouts.leaky(5, 2))
    >>> rule = ej.by_influence(net, ej.losses.squared_error, influence, name="this step")
    >>> like = ej.by_paths(net, ej.losses.squared_error, paths="f*")
    >>> params, xs, ys = net.init(jax.random.key(0)), jnp.ones((7, 4, 3)), jnp.ones((7, 4, 2))
    >>> grads, wanted = (ej.value_and_grad(x)(params, xs, ys)[1] for x in (rule, like))
    >>> bool(jnp.allclose(grads["cell"]["w_rec"]["z"], wanted["cell"]["w_rec"]["z"], atol=1e-5))
    True
    """
    spec = definition.specify(name, None, net, loss, activity_loss, state_loss, feedback)
    checks.one_layer("net", net)
    checks.instance("influence", influence, Influence, "an ej.Influence(start, advance)")
    checks.is_callable("influence.start", influence.start)
    checks.is_callable("influence.advance", influence.advance)
    checks.instance("name", name, str, "a str")
    return definition.of_influence(spec, influence)
