"""BPTT: the exact gradient, backward in time. Neither causal nor local.

    dL/dh_j^t = ∂L/∂h_j^t + Σ_k dL/dc_k^{t+1} ∂c_k^{t+1}/∂h_j^t          Eq. 2   explicit recurrence
    dL/dc_j^t = dL/dh_j^t ∂h_j^t/∂c_j^t + dL/dc_j^{t+1} ∂c_j^{t+1}/∂c_j^t  Eq. 3   implicit recurrence
    dL/dw_ij = Σ_t dL/dc_j^t ∂c_j^t/∂w_ij                                  Eq. 4

The backward sweep is `adjoint.sweep`, which is these lines for a chunk; Eq. 4 is one
product over time and batch. Werbos 1990.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from eprop_jax.engine import definition, layers
from eprop_jax.engine.adjoint import EVERY
from eprop_jax.network.types import Array, LearningRule, Network


def bptt(
    net: Network,
    loss: Callable[[Array, Any], Array],
    *,
    activity_loss: Callable[[Array], Array] | None = None,
    state_loss: Callable[[Any], Array] | None = None,
) -> LearningRule:
    """Backpropagation through time (Eq. 2-4).

    A step call differentiates its own chunk and treats the state before it as a constant. The
    whole sequence in one call is the exact gradient; *shorter chunks are truncated BPTT*, whose
    gradient depends on where the chunks end.

    Args:
      net: the network.
      loss: loss(y [n_out], target) -> [], of one example at one step.
      activity_loss: f [n] -> [], a loss on the window's mean activity.
      state_loss: c_j -> [], a loss on one unit's state at one step, such as `ej.losses.voltage`;
        it is summed over units and steps.

    Returns:
      A `LearningRule`. Its carry holds the network's state and no trace.

    Raises:
      TypeError, ValueError: for a wrong network or loss; and, when it is called, for parameters,
        inputs or targets that do not fit.

    >>> import jax, jax.numpy as jnp, eprop_jax as ej
    >>> net = ej.Network(ej.cells.rnn(3, 5), ej.readouts.linear(5, 2))
    >>> rule = ej.bptt(net, ej.losses.squared_error)
    >>> loss, grads = ej.value_and_grad(rule)(
    ...     net.init(jax.random.key(0)), jnp.ones((7, 4, 3)), jnp.ones((7, 4, 2)))
    >>> grads["readout"]["w_out"].shape
    (5, 2)
    """
    spec = definition.specify("BPTT", "(i|e|f)*", net, loss, activity_loss, state_loss)
    if net.stacked:
        return layers.of_layers(spec, traced=False)
    return definition.of_influence(spec._replace(moves=EVERY), None)
