"""e-prop: the explicit recurrence is cut, and what is left is causal and local.

    ε_ij^t = ∂c_j^t/∂c_j^{t-1} ε_ij^{t-1} + ∂c_j^t/∂w_ij           Eq. 8   implicit variable
    e_ij^t = ∂h_j^t/∂c_j^t ε_ij^t                                  Eq. 9   eligibility trace
    γ_ij^{t,k} = ∂y_k^t/∂y_k^{t-1} γ_ij^{t-1,k} + ∂y_k^t/∂h_j^t e_ij^t     Eq. 34
    dL/dw_ij ≈ Σ_t Σ_k ∂L/∂y_k^t γ_ij^{t,k}                        Eq. 25, 36

With a leaky read-out γ_ij^{t,k} = w_jk F_κ(e_ij^t) (Eq. 39), one filtered trace for all k, and the
sum is Σ_t L_j^t F_κ(e_ij^t) (Eq. 40). G. Martín-Sánchez et al. 2022; Bellec et al. 2020.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from eprop_jax.engine import definition, layers, over
from eprop_jax.engine.adjoint import LOCAL
from eprop_jax.engine.influence import Influence, Zero
from eprop_jax.engine.recursions import Moment
from eprop_jax.network.types import Array, Gamma, LearningRule, Network, State


def eprop(
    net: Network,
    loss: Callable[[Array, Any], Array],
    *,
    feedback: str = "symmetric",
    activity_loss: Callable[[Array], Array] | None = None,
    state_loss: Callable[[Any], Array] | None = None,
) -> LearningRule:
    """E-prop (Eq. 25, with the read-outs of appendix B): causal, local, approximate.

    Exact where there is no explicit recurrence. The read-out's own gradient is always exact.
    `step` takes chunks of any length, and any sequence of chunks gives the same total gradient.

    Args:
      net: the network.
      loss: loss(y [n_out], target) -> [], of one example at one step.
      feedback: "symmetric": learning signals through w_out. "random": through fixed weights
        params["feedback"] [n, n_out] (`ej.feedback.init`), whose gradient is zero by definition.
        "adaptive": through params["feedback"], which gets the same gradient as w_out.
      activity_loss: f [n] -> [], a loss on the window's mean activity, such as
        `ej.losses.firing_rate`. The window is what `step` is given.
      state_loss: c_j -> [], a loss on one unit's state at one step, such as `ej.losses.voltage`;
        it is summed over units and steps.

    Returns:
      A `LearningRule`. Its carry holds ε and γ: [*batch, lines, n] a component, constant in T.

    Raises:
      TypeError, ValueError: for a wrong network, loss or feedback; and, when it is called, for
        parameters, inputs or targets that do not fit.

    >>> import jax, jax.numpy as jnp, eprop_jax as ej
    >>> net = ej.Network(ej.cells.lif(3, 5), ej.readouts.leaky(5, 2))
    >>> rule = ej.eprop(net, ej.losses.squared_error)
    >>> params = net.init(jax.random.key(0))
    >>> carry = rule.init(params, batch_shape=(4,))
    >>> carry, out = rule.step(params, carry, jnp.ones((1, 4, 3)), jnp.ones((1, 4, 2)))
    >>> out.grads["cell"]["w_rec"].shape
    (5, 5)
    """
    spec = definition.specify("e-prop", "i*", net, loss, activity_loss, state_loss, feedback)
    if net.stacked:
        return layers.of_layers(spec)
    return definition.of_influence(spec._replace(moves=LOCAL), INFLUENCE)


class EpropCarry(NamedTuple):
    """What e-prop threads through time."""

    state: State
    epsilon: Any
    """ε (Eq. 7): paths through the unit itself. A tree like params["cell"]; each leaf is a state whose
    components are [*batch, lines, n]."""
    gamma: Any
    """γ: the read-out's traces"""


def start(zero: Zero) -> EpropCarry:
    return EpropCarry(zero.state, zero.local, zero.gamma)


def advance(S: EpropCarry, d: Moment):
    """One step: the equations above, in their order."""
    epsilon = d.dc_dc @ S.epsilon + d.dc_dw  # Eq. 8
    e = d.dh_dc @ epsilon + d.dh_dw  # Eq. 9
    gamma = d.dy_dy @ S.gamma.cell + d.dy_dh @ e  # Eq. 34
    gamma_out = d.dy_dy @ S.gamma.readout + d.dy_dv  # Eq. 8, of the read-out's own parameters v
    dL_dw = d.L @ gamma + d.dL_dh @ e + d.dL_dc @ epsilon  # Eq. 25, 36, 40
    dL_dv = d.dL_dy @ gamma_out
    return S._replace(epsilon=epsilon, gamma=Gamma(gamma_out, gamma)), dL_dw, dL_dv


INFLUENCE = Influence(start, advance, local=True, over=over.local)
