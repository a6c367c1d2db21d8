"""UORO: RTRL's influence matrix as one random outer product, unbiased. Memory as e-prop's.

What the network carries is s^t = (c^t, y^t), and its influence ∂s^t/∂w is held as s̃^t ⊗ w̃^t, whose mean
is RTRL's. With signs ν drawn afresh at every step, J = ∂s^t/∂s^{t-1} and F = ∂s^t/∂w (direct):

    s̃^t = ρ₀ J s̃^{t-1} + ρ₁ ν
    w̃^t = w̃^{t-1} / ρ₀ + νᵀF / ρ₁                   E[ν νᵀ] = 1, so that E[s̃^t ⊗ w̃^t] = ∂s^t/∂w
    dL/dw = Σ_t ∂L/∂s^t J s̃^{t-1} w̃^{t-1} + ∂L/∂s^t F     what is direct needs no estimate

ρ₀ = √(|w̃| / |J s̃|) and ρ₁ = √(|νᵀF| / |ν|) make the two factors of each product equally long: the least
variance. C. Tallec and Y. Ollivier, Unbiased Online Recurrent Optimization (2017).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax import checks
from eprop_jax.engine import definition
from eprop_jax.engine.influence import Influence, Zero
from eprop_jax.engine.maybe import total
from eprop_jax.engine.operators import CoState, Covector, Ends, PerExample
from eprop_jax.engine.recursions import Moment
from eprop_jax.network import unitwise
from eprop_jax.network.types import Array, LearningRule, Maybe, Network, State


def uoro(
    net: Network,
    loss: Callable[[Array, Any], Array],
    *,
    key: Array,
    feedback: str = "symmetric",
    activity_loss: Callable[[Array], Array] | None = None,
    state_loss: Callable[[Any], Array] | None = None,
) -> LearningRule:
    """Unbiased online recurrent optimisation: RTRL in the mean, with traces of e-prop's size.

    Args:
      net: the network, of one layer.
      loss: loss(y [n_out], target) -> [], of one example at one step.
      key: a PRNG key. Every example draws its own signs, from a key of its own in the carry. `init`
        gives the same keys each time, and so do whole sequences: for fresh signs put others into the
        carry, `carry._replace(key=jax.random.split(key, batch))`, or make the rule of another key
        (which may be traced).
      feedback: "symmetric", "random" or "adaptive", as in `ej.eprop`.
      activity_loss: f [n] -> [], a loss on the window's mean activity.
      state_loss: c_j -> [], a loss on one unit's state at one step.

    Returns:
      A `LearningRule`. Its carry holds s̃ (a number a component and unit, and a read-out unit), w̃ (one a
      parameter) and the key, of each example. Chunks of any length give the same gradient for the same
      key. Its loss has no derivative to xs.

    Raises:
      TypeError, ValueError: for a wrong network, loss, key or feedback; and, when it is called, for
        parameters, inputs or targets that do not fit.

    >>> import jax, jax.numpy as jnp, eprop_jax as ej
    >>> net = ej.Network(ej.cells.rnn(3, 5), ej.readouts.linear(5, 2))
    >>> params, xs, ys = net.init(jax.random.key(0)), jnp.ones((7, 4, 3)), jnp.ones((7, 4, 2))
    >>> def gradient(key):
    ...     return ej.value_and_grad(ej.uoro(net, ej.losses.squared_error, key=key))(params, xs, ys)[1]
    >>> grads = jax.vmap(gradient)(jax.random.split(jax.random.key(1), 100))
    >>> grads["cell"]["w_rec"].shape
    (100, 5, 5)
    """
    spec = definition.specify("UORO", None, net, loss, activity_loss, state_loss, feedback)
    checks.one_layer("net", net)
    key = checks.key("key", key)
    return definition.of_influence(spec, Influence(lambda zero: start(zero, key), advance))


class UoroCarry(NamedTuple):
    """What UORO threads through time."""

    state: State
    s_c: tuple[Array, ...]
    """s̃ of c, by component: [*batch, n]"""
    s_y: Array
    """s̃ of y: [*batch, n_out]"""
    w: Any
    """w̃: a tree like params["cell"], [*batch, …]"""
    gamma_out: Any
    """∂y/∂(the read-out's own parameters), exact"""
    key: Array
    """[*batch] keys"""


def start(zero: Zero, key: Array) -> UoroCarry:
    if "initial" in zero.params["cell"]:
        raise ValueError(
            "params['cell']['initial']: got a trained initial state, wanted none for UORO, whose s̃ and "
            "w̃ start at zero"
        )
    c, y = tuple(unitwise.floats(zero.state.c)), zero.state.y
    w = zero.each_line((y.shape[0],))
    keys = jax.random.split(key, y.shape[0])
    return UoroCarry(
        zero.state, jax.tree.map(jnp.zeros_like, c), jnp.zeros_like(y), w, zero.readout, keys
    )


def advance(S: UoroCarry, d: Moment):
    """One step: the equations above, in their order."""
    n, n_out = S.s_c[0].shape[-1], S.s_y.shape[-1]
    s_c, s_y = Ends((S.s_c,), n), Ends(((S.s_y,),), n_out)
    w = PerExample(tuple(jax.tree.leaves(S.w)))
    Js_c = d.dc_dc @ s_c + d.dc_dh @ (d.dh_dc_tm1 @ s_c)
    Js_h = d.dh_dc @ Js_c
    Js_y = d.dy_dy @ s_y + d.dy_dh @ Js_h
    along: Any = total(
        inner(d.dL_dy, Js_y), inner(d.dL_dh, Js_h), inner(d.dL_dc, Js_c)
    )  # ∂L/∂s J s̃
    direct = influence(d, CoState(d.dL_dc.parts), CoState(d.dL_dh.parts), CoState(d.dL_dy.parts))
    dL_dw = (scaled(along, w) + direct).summed()
    gamma_out = d.dy_dy @ S.gamma_out + d.dy_dv

    Js = (*filled(Js_c.leaves[0], S.s_c), *filled(Js_y.leaves[0], (S.s_y,)))
    keys, nu = signs(S.key, Js)
    nuF = influence(d, CoState(nu[:-1]), CoState((None,)), CoState(nu[-1:]))
    rho_0, rho_1 = ratio(w.leaves, Js), ratio(nuF.leaves, nu)
    *s_c, s_y = (along_batch(rho_0, x) + along_batch(rho_1, v) for x, v in zip(Js, nu))
    w = scaled(1 / rho_0, w) + scaled(1 / rho_1, nuF)
    w = jax.tree.structure(S.w).unflatten(w.leaves)
    S = S._replace(s_c=tuple(s_c), s_y=s_y, w=w, gamma_out=gamma_out, key=keys)
    return S, dL_dw, d.dL_dy @ gamma_out


def influence(d: Moment, x_c: CoState, x_h: CoState, x_y: CoState) -> PerExample:
    """xᵀF: through y and h to c, and from there to what the parameters reach at this step."""
    x_h = x_h + d.dy_dh.T @ x_y
    x_c = x_c + d.dh_dc.T @ x_h
    return (x_c @ d.dc_dw + (d.dc_dh.T @ x_c) @ d.dh_dw_tm1 + x_h @ d.dh_dw).lines()


def inner(x: Covector, s: Ends) -> Maybe:
    """⟨x, s⟩ of each example, [B]."""
    pairs = zip(x.parts, s.leaves[0], strict=True)
    return total(*((a * b).sum(-1) for a, b in pairs if a is not None and b is not None))


def signs(keys: Array, like: tuple[Array, ...]) -> tuple[Array, tuple[Array, ...]]:
    """The next keys, and ν: a sign for every number in the state, drawn by each example's own key."""

    def draw(key, *x):
        key, *each = jax.random.split(key, 1 + len(x))
        return key, tuple(jax.random.rademacher(k, v.shape, v.dtype) for k, v in zip(each, x))

    return jax.vmap(draw)(keys, *like)


def ratio(over: Any, under: Any) -> Array:
    """√(|over| / |under|) of each example; 1 where either is zero."""

    def norm(leaves):
        return sum(jnp.sum(x**2, range(1, x.ndim)) for x in leaves if x is not None) ** 0.5

    a, b = norm(over), norm(under)
    there = (a > 0) & (b > 0)
    return jnp.sqrt(jnp.where(there, a, 1) / jnp.where(there, b, 1))


def along_batch(factor: Array, x: Array) -> Array:
    return factor.reshape(-1, *(1,) * (x.ndim - 1)) * x


def scaled(factor: Array, x: PerExample) -> PerExample:
    return PerExample(tuple(None if v is None else along_batch(factor, v) for v in x.leaves))


def filled(parts: tuple, like: tuple[Array, ...]) -> tuple[Array, ...]:
    """Zeros for what no path reaches."""
    return tuple(jnp.zeros_like(x) if p is None else p for p, x in zip(parts, like))
