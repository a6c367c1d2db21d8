"""RTRL: every path is carried forward. Causal and exact, but neither local nor cheap.

    α_ij^{t,r} = ∂c_r^t/∂c_r^{t-1} α_ij^{t-1,r}
                 + Σ_k ∂c_r^t/∂h_k^{t-1} ∂h_k^{t-1}/∂c_k^{t-1} α_ij^{t-1,k} + ∂c_r^t/∂w_ij     Eq. 22
    a_ij^{t,r} = ∂h_r^t/∂c_r^t α_ij^{t,r}                                                  Eq. 23
    dL/dw_ij = Σ_t Σ_r ∂L/∂h_r^t a_ij^{t,r}                                                Eq. 24

With a read-out, ∂L/∂h becomes the read-out variable of Eq. 34, over all r. The last term of Eq. 22
is zero for r ≠ j. Williams and Zipser 1989.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from eprop_jax.engine import definition, layers, over
from eprop_jax.engine.adjoint import EVERY
from eprop_jax.engine.influence import Influence, Zero
from eprop_jax.engine.recursions import Moment
from eprop_jax.network.types import Array, Gamma, LearningRule, Network, State


def rtrl(
    net: Network,
    loss: Callable[[Array, Any], Array],
    *,
    activity_loss: Callable[[Array], Array] | None = None,
    state_loss: Callable[[Any], Array] | None = None,
) -> LearningRule:
    """Real-time recurrent learning (Eq. 22-24): the exact gradient, causally.

    Memory is O(n) times e-prop's: one trace a synapse and unit. `step` takes chunks of any length;
    longer chunks are far cheaper (O(n³) a step at K ≈ n, against O(n⁴) at K = 1).

    Args:
      net: the network.
      loss: loss(y [n_out], target) -> [], of one example at one step.
      activity_loss: f [n] -> [], a loss on the window's mean activity.
      state_loss: c_j -> [], a loss on one unit's state at one step, such as `ej.losses.voltage`;
        it is summed over units and steps.

    Returns:
      A `LearningRule`. Its carry holds α: [*batch, n, lines, n] a component, and γ.

    Raises:
      TypeError, ValueError: for a wrong network or loss; and, when it is called, for parameters,
        inputs or targets that do not fit.

    >>> import jax, jax.numpy as jnp, eprop_jax as ej
    >>> net = ej.Network(ej.cells.rnn(3, 5), ej.readouts.linear(5, 2))
    >>> rule = ej.rtrl(net, ej.losses.squared_error)
    >>> carry = rule.init(net.init(jax.random.key(0)), batch_shape=(4,))
    >>> carry.alpha["w_rec"].shape
    (4, 5, 5, 5)
    """
    spec = definition.specify("RTRL", "(i|e|f)*", net, loss, activity_loss, state_loss)
    if net.stacked:
        return layers.of_layers(spec)
    return definition.of_influence(spec._replace(moves=EVERY), INFLUENCE)


class RtrlCarry(NamedTuple):
    """What RTRL threads through time."""

    state: State
    alpha: Any
    """α (Eq. 21): all paths. A tree like params["cell"]; each leaf is a state whose components are
    [*batch, n, lines, n]; the first n is the unit r where the paths end."""
    gamma: Any
    """γ: the read-out's traces"""


def start(zero: Zero) -> RtrlCarry:
    return RtrlCarry(zero.state, zero.ends, zero.gamma)


def advance(S: RtrlCarry, d: Moment):
    """One step: the equations above, in their order."""
    a_tm1 = d.dh_dc_tm1 @ S.alpha + d.dh_dw_tm1  # Eq. 23
    alpha = d.dc_dc @ S.alpha + d.dc_dh @ a_tm1 + d.dc_dw  # Eq. 22
    a = d.dh_dc @ alpha + d.dh_dw  # Eq. 23
    gamma = d.dy_dy @ S.gamma.cell + d.dy_dh @ a  # Eq. 34
    gamma_out = d.dy_dy @ S.gamma.readout + d.dy_dv
    dL_dw = d.L @ gamma + d.dL_dh @ a + d.dL_dc @ alpha  # Eq. 24, 36
    dL_dv = d.dL_dy @ gamma_out
    return S._replace(alpha=alpha, gamma=Gamma(gamma_out, gamma)), dL_dw, dL_dv


INFLUENCE = Influence(start, advance, over=over.every)
