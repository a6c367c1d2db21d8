"""SnAp-n: RTRL that keeps the entries of its influence matrix within n − 1 hops, step by step.

    α_ij^{t,r} = ∂c_r^t/∂c_r^{t-1} α_ij^{t-1,r}
                 + Σ_k ∂c_r^t/∂h_k^{t-1} ∂h_k^{t-1}/∂c_k^{t-1} α_ij^{t-1,k} + ∂c_r^t/∂w_ij     Eq. 22
    a_ij^{t,r} = ∂h_r^t/∂c_r^t α_ij^{t,r}                                                  Eq. 23
    dL/dw_ij = Σ_t Σ_r ∂L/∂h_r^t a_ij^{t,r}                                                Eq. 24

for the units r, k that w_rec's connectivity leads to from j in at most n − 1 steps. A bound on where a
path is, not on how many jumps it has taken: a path may come back. SnAp-1 is the language `(i|s)*`; on
a dense network SnAp-2 is RTRL. J. Menick et al. 2021.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from eprop_jax import checks
from eprop_jax.engine import definition
from eprop_jax.engine.influence import Influence, near
from eprop_jax.engine.operators import Places
from eprop_jax.engine.recursions import Moment
from eprop_jax.network.synapses import use
from eprop_jax.network.types import Array, Cell, Gamma, LearningRule, Network, State


def snap(
    net: Network,
    loss: Callable[[Array, Any], Array],
    *,
    order: int,
    feedback: str = "symmetric",
    activity_loss: Callable[[Array], Array] | None = None,
    state_loss: Callable[[Any], Array] | None = None,
) -> LearningRule:
    """Sparse n-step approximation of RTRL: causal, approximate, exact where the entries saturate.

    Its traces follow the number of units within `order` − 1 hops, m (of the unit that has most):
    [*batch, m, lines, n] a component, where RTRL's are [*batch, n, lines, n].

    Args:
      net: the network, of one layer. Its `connectivity` says which synapses there are; without it
        every unit is one hop from every other.
      loss: loss(y [n_out], target) -> [], of one example at one step.
      order: n ≥ 1.
      feedback: "symmetric", "random" or "adaptive", as in `ej.eprop`.
      activity_loss: f [n] -> [], a loss on the window's mean activity.
      state_loss: c_j -> [], a loss on one unit's state at one step.

    Returns:
      A `LearningRule`. Chunks of any length give the same gradient. Its loss has no derivative to xs.

    Raises:
      TypeError, ValueError: for order < 1, a wrong network, loss or feedback; and, when it is called,
        for parameters, inputs or targets that do not fit.

    >>> import jax, jax.numpy as jnp, numpy as np, eprop_jax as ej
    >>> ring = np.roll(np.eye(6, dtype=bool), 1, 1) | np.roll(np.eye(6, dtype=bool), -1, 1)
    >>> net = ej.Network(ej.cells.rnn(3, 6, connectivity=ring), ej.readouts.linear(6, 2))
    >>> rule = ej.snap(net, ej.losses.squared_error, order=2)
    >>> rule.init(net.init(jax.random.key(0)), (4,)).alpha["w_in"].shape  # itself and two neighbours
    (4, 3, 3, 6)
    """
    order = checks.size("order", order)
    spec = definition.specify(f"SnAp-{order}", None, net, loss, activity_loss, state_loss, feedback)
    checks.one_layer("net", net)
    kind = near(within(net.cell, order - 1))
    start = lambda zero: SnapCarry(zero.state, kind, zero.gamma)
    return definition.of_influence(spec, Influence(start, advance))


class SnapCarry(NamedTuple):
    """What SnAp threads through time."""

    state: State
    alpha: Any
    """α: a tree like params["cell"]; each leaf is a state whose components are [*batch, m, lines, n]:
    of unit j at place 0 itself, then those within the hops"""
    gamma: Any
    """γ: the read-out's traces"""


def advance(S: SnapCarry, d: Moment):
    """One step: the equations above, in their order."""
    a_tm1 = d.dh_dc_tm1 @ S.alpha + d.dh_dw_tm1  # Eq. 23
    alpha = d.dc_dc @ S.alpha + d.dc_dh @ a_tm1 + d.dc_dw  # Eq. 22, at the places of α
    a = d.dh_dc @ alpha + d.dh_dw  # Eq. 23
    gamma = Gamma(d.dy_dy @ S.gamma.readout + d.dy_dv, d.dy_dy @ S.gamma.cell + d.dy_dh @ a)
    dL_dw = d.L @ gamma.cell + d.dL_dh @ a + d.dL_dc @ alpha  # Eq. 24, 36
    return S._replace(alpha=alpha, gamma=gamma), dL_dw, d.dL_dy @ gamma.readout


def within(cell: Cell, hops: int) -> Places:
    """Of each unit those that at most so many recurrent synapses lead to."""
    n = cell.n_units
    params = jax.eval_shape(cell.init, jax.random.key(0))
    mask = use.there(cell.synapses["w_rec"]) & ("w_rec" in params)
    reach, front = np.eye(n, dtype=bool), np.eye(n, dtype=bool)
    for _ in range(min(hops, n - 1)):
        front = (front @ mask) & ~reach
        reach = reach | front
    size = int(reach.sum(1).max())
    at, there = np.zeros((size, n), int), np.zeros((size, n), bool)
    for j in range(n):
        units = [j, *(r for r in np.flatnonzero(reach[j]) if r != j)]
        at[: len(units), j], there[: len(units), j] = units, True
    return Places(at, there)
