"""m-order e-prop: paths with at most m − 1 explicit jumps. Between e-prop (m = 1) and RTRL (m ≥ T).

The paper's explicit variable follows one chain of units, k_s, …, k_1, j (Eq. 15):

    β_ij^t(k, k', …, j) = ∂c_k^t/∂c_k^{t-1} β_ij^{t-1}(k, k', …, j)
                          + ∂c_k^t/∂h_k'^{t-1} ∂h_k'^{t-1}/∂c_k'^{t-1} β_ij^{t-1}(k', …, j)

Chains are exponentially many, but only their ends meet the loss. Summed over all chains with s
jumps that end at r, β⁽ˢ⁾_ij^{t,r} obeys the same line (it is linear):

    β⁽ˢ⁾_ij^{t,r} = ∂c_r^t/∂c_r^{t-1} β⁽ˢ⁾_ij^{t-1,r} + Σ_k ∂c_r^t/∂h_k^{t-1} b⁽ˢ⁻¹⁾_ij^{t-1,k}
    b⁽ˢ⁾_ij^{t,r} = ∂h_r^t/∂c_r^t β⁽ˢ⁾_ij^{t,r}              Eq. 16;  β⁽⁰⁾ = ε at r = j, b⁽⁰⁾ = e
    dL/dw_ij ≈ Σ_t Σ_r ∂L/∂h_r^t Σ_{s<m} b⁽ˢ⁾_ij^{t,r}       Eq. 19-20, cut at m − 1 jumps (section 4)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from eprop_jax import checks
from eprop_jax.engine import definition, layers, over, paths
from eprop_jax.engine.adjoint import chain
from eprop_jax.engine.influence import Influence
from eprop_jax.engine.recursions import Moment
from eprop_jax.network.types import Array, Gamma, LearningRule, Network, State


def m_order_eprop(
    net: Network,
    loss: Callable[[Array, Any], Array],
    *,
    order: int,
    feedback: str = "symmetric",
    activity_loss: Callable[[Array], Array] | None = None,
    state_loss: Callable[[Any], Array] | None = None,
) -> LearningRule:
    """m-order e-prop (section 4): order 1 is e-prop, order ≥ T is the exact gradient (order ≥ T + 1
    for a trained parameter that `output` reads, such as a threshold: h^0 depends on it already).

    Each further order keeps one more explicit jump h^{t-1} → c^t, and reaches synapses one hop
    further from the read-out. Over a whole sequence it costs less than m times BPTT and no trace; run
    causally, chunk by chunk, it holds m − 1 traces of RTRL's size.

    Args:
      net: the network.
      loss: loss(y [n_out], target) -> [], of one example at one step.
      order: m ≥ 1.
      feedback: "symmetric", "random" or "adaptive", as in `eprop`; it replaces w_out at the end of
        every path.
      activity_loss: f [n] -> [], a loss on the window's mean activity.
      state_loss: c_j -> [], a loss on one unit's state at one step, such as `ej.losses.voltage`;
        it is summed over units and steps.

    Returns:
      A `LearningRule`. Its carry holds ε, β⁽¹⁾ … β⁽ᵐ⁻¹⁾ and γ.

    Raises:
      TypeError, ValueError: for order < 1, a wrong network, loss or feedback; and, when it is
        called, for parameters, inputs or targets that do not fit.

    >>> import jax, jax.numpy as jnp, eprop_jax as ej
    >>> net = ej.Network(ej.cells.gru(3, 5), ej.readouts.linear(5, 2))
    >>> rule = ej.m_order_eprop(net, ej.losses.squared_error, order=3)
    >>> loss, grads = ej.value_and_grad(rule)(
    ...     net.init(jax.random.key(0)), jnp.ones((7, 4, 3)), jnp.ones((7, 4, 2)))
    >>> grads["cell"]["w_rec"]["z"].shape
    (5, 5)
    """
    order = checks.size("order", order)
    spec = definition.specify(
        f"order {order}", paths.order(order), net, loss, activity_loss, state_loss, feedback
    )
    if net.stacked:
        return layers.of_layers(spec)
    return definition.of_influence(spec._replace(moves=chain(order)), influence(order))


class OrderCarry(NamedTuple):
    """What order m threads through time."""

    state: State
    epsilon: Any
    """ε (Eq. 7), as e-prop's"""
    beta: tuple
    """β (Eq. 14) summed over all chains with s = 1 … m−1 explicit jumps: a tuple of trees like ε's,
    components [*batch, n, lines, n]; the first n is the unit r where the chain ends."""
    gamma: Any
    """γ: the read-out's traces"""


def influence(order: int) -> Influence:
    """Order 1 has no β, and is e-prop."""
    start = lambda zero: OrderCarry(
        zero.state, zero.local, (zero.beyond,) * (order - 1), zero.gamma
    )
    return Influence(start, advance, order == 1, over.local if order == 1 else over.graded)


def advance(S: OrderCarry, d: Moment):
    """One step: the equations above, in their order."""
    e_tm1 = d.dh_dc_tm1 @ S.epsilon + d.dh_dw_tm1  # Eq. 9
    b_tm1 = [e_tm1, *(d.dh_dc_tm1 @ beta for beta in S.beta)]  # Eq. 16
    epsilon = d.dc_dc @ S.epsilon + d.dc_dw  # Eq. 8
    beta = [d.dc_dc @ beta + d.dc_dh @ b for beta, b in zip(S.beta, b_tm1)]  # Eq. 15
    e = d.dh_dc @ epsilon + d.dh_dw  # Eq. 9
    b: Any = sum((d.dh_dc @ x for x in beta), e)  # Eq. 16, and the sum over s
    all_c: Any = sum(beta, epsilon)  # what the state loss meets
    gamma = d.dy_dy @ S.gamma.cell + d.dy_dh @ b  # Eq. 34
    gamma_out = d.dy_dy @ S.gamma.readout + d.dy_dv
    dL_dw = d.L @ gamma + d.dL_dh @ b + d.dL_dc @ all_c  # Eq. 19-20, 36
    dL_dv = d.dL_dy @ gamma_out
    S = S._replace(epsilon=epsilon, beta=tuple(beta), gamma=Gamma(gamma_out, gamma))
    return S, dL_dw, dL_dv
