"""Spiking units whose voltage is in mV: the adaptive exponential unit and Izhikevich's."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax import checks
from eprop_jax.network import surrogates
from eprop_jax.network.cells.custom import custom, initial_of
from eprop_jax.network.types import Cell
from eprop_jax.network.units import Units


class AdExState(NamedTuple):
    v: Any
    """membrane voltage in mV, after this step's input and before its spike's reset"""
    w: Any
    """adaptation current in pA"""


def adex(
    n_in: int,
    n_units: int,
    *,
    c_m: Any = 281.0,
    g_l: Any = 30.0,
    e_l: Any = -70.6,
    v_t: Any = -50.4,
    delta_t: Any = 2.0,
    tau_w: Any = 144.0,
    a: Any = 4.0,
    b: Any = 80.5,
    v_reset: Any = None,
    v_peak: Any = 20.0,
    dt: float = 0.1,
    current: Any = 1.0,
    reset_gradient: bool = False,
    surrogate: surrogates.PseudoDerivative | None = None,
    trainable: tuple[str, ...] = (),
    **options,
) -> Cell:
    """Adaptive exponential integrate-and-fire units (Brette and Gerstner 2005), by forward Euler.

    C dv/dt = −g_L (v − E_L) + g_L Δ_T exp((v − V_T)/Δ_T) − w + I
    τ_w dw/dt = a (v − E_L) − w
    z^t = Θ(v^t − v_peak); h = z; after a spike v ← v_reset and w ← w + b, as the next step begins.

    I = `current` · a_j, the drive in pA. The exponent is clipped where one step's exponential current
    alone would lift v by v_peak − v_reset: from there the next step spikes with the clip and without
    it, and neither v nor ∂v^t/∂v^{t−1} can overflow.

    Implicit: v and w of the unit, its reset and its adaptation. Explicit: everything through W_rec.

    Args:
      n_in, n_units: sizes.
      c_m: capacitance C in pF; g_l: leak g_L in nS; e_l: E_L in mV, where v starts; v_t: V_T in mV;
        delta_t: slope factor Δ_T in mV; tau_w: τ_w in ms; a in nS; b in pA; v_reset in mV (default
        E_L); v_peak in mV. Numbers or [n], which may be traced; the defaults are the paper's.
      dt: step in ms. The exponential wants 0.1 or so.
      current: pA for a drive of 1, a number or [n]; with some hundreds of them weights stay near 1.
      reset_gradient: True: the gradient passes through the spike in v ← v + z (v_reset − v), too. That
        in w ← w + b z it always does.
      surrogate: ψ, a function of v − v_peak in mV; default `piecewise_linear(0.3/d, d)`, with
        d = v_peak − v_reset of each unit (Bellec et al. 2020 take the distance from rest to threshold).
      trainable: from ("tau_w", "a", "b", "v_t", "delta_t", "initial", "initial.v", "initial.w"). τ_w
        and Δ_T are stored as their logarithms, the initial state as in `custom`.
      **options: `connectivity`, `self_connections`, `gain_in`, `gain_rec`, `w_in`, `w_rec` as in
        `custom`.

    Raises:
      TypeError, ValueError: as `custom`; for C, g_L, Δ_T, τ_w or `current` that is not positive; for a
        v_peak that is not above V_T and v_reset.

    >>> import jax, eprop_jax as ej
    >>> cell = ej.cells.adex(n_in=3, n_units=4, current=500.0, trainable=("tau_w", "b"))
    >>> theta = cell.init(jax.random.key(0))["theta"]
    >>> float(theta["b"][0]), round(float(theta["tau_w"][0]), 3)          # pA, log 144
    (80.5, 4.97)
    """
    n = checks.size("n_units", n_units)
    checks.flag("reset_gradient", reset_gradient)
    state, trained = AdExState(v=0.0, w=0.0), ("tau_w", "a", "b", "v_t", "delta_t")
    unit = Units(n, dt, trainable, trained, initial_of(state))
    C, g, slope, tau, scale = (
        unit.positive(*given)
        for given in (
            ("c_m", c_m), ("g_l", g_l), ("delta_t", delta_t), ("tau_w", tau_w), ("current", current)
        )
    )  # fmt: skip
    rest, threshold, of_v, of_spike, back, peak = (
        unit.real(*given)
        for given in (
            ("e_l", e_l), ("v_t", v_t), ("a", a), ("b", b),
            ("v_reset", e_l if v_reset is None else v_reset), ("v_peak", v_peak),
        )
    )  # fmt: skip
    _above("v_peak", unit, "v_t", "v_reset")
    spike = _spike(surrogate, lambda theta: peak(theta) - back(theta))

    def output(theta, c):
        return spike(theta, c.v - peak(theta))

    def dynamics(theta, c, drive):
        z = output(theta, c)
        v = _reset(c.v, back(theta), z, reset_gradient)
        w = c.w + of_spike(theta) * z
        own = g(theta) * slope(theta)
        highest = jnp.log((peak(theta) - back(theta)) * C(theta) / (own * unit.dt))
        x = (v - threshold(theta)) / slope(theta)
        rise = own * jnp.exp(jnp.minimum(x, jax.lax.stop_gradient(highest)))
        into_v = rise - g(theta) * (v - rest(theta)) - w + scale(theta) * drive
        into_w = of_v(theta) * (v - rest(theta)) - w
        return AdExState(v + unit.dt / C(theta) * into_v, w + unit.dt / tau(theta) * into_w)

    cell = custom(
        n_in, n, dynamics, output, state, theta=unit.theta, constants=unit.constants,
        trainable=unit.initial, **options,
    )  # fmt: skip
    return _starting(unit.finish(cell, "adex"), {"v": unit.values["e_l"]})


class IzhikevichState(NamedTuple):
    v: Any
    """membrane voltage in mV, after this step's input and before its spike's reset"""
    u: Any
    """recovery variable, in mV/ms"""


def izhikevich(
    n_in: int,
    n_units: int,
    *,
    a: Any = 0.02,
    b: Any = 0.2,
    c: Any = -65.0,
    d: Any = 8.0,
    v_peak: Any = 30.0,
    dt: float = 1.0,
    substeps: int = 2,
    current: Any = 1.0,
    reset_gradient: bool = False,
    surrogate: surrogates.PseudoDerivative | None = None,
    trainable: tuple[str, ...] = (),
    **options,
) -> Cell:
    """Izhikevich's simple model (Izhikevich 2003), by forward Euler.

    dv/dt = 0.04 v² + 5 v + 140 − u + I
    du/dt = a (b v − u)
    z^t = Θ(v^t − v_peak); h = z; after a spike v ← c and u ← u + d, as the next step begins.

    I = `current` · a_j, in mV/ms. Within a step v moves in `substeps` parts, at one u, and u after it,
    as in the paper's program (two parts of 0.5 ms). Once v has reached v_peak it is held until the
    reset, so that it cannot overflow; that program lets it go on to the end of the step.

    Implicit: v and u of the unit and its reset. Explicit: everything through W_rec.

    Args:
      n_in, n_units: sizes.
      a: rate of recovery in 1/ms; b: its sensitivity to v, in 1/ms; c: v after a spike in mV; d: what a
        spike adds to u, in mV/ms; v_peak in mV. Numbers or [n], which may be traced. The defaults are
        regular spiking; fast spiking is a = 0.1, d = 2, chattering c = −50, d = 2, intrinsically
        bursting c = −55, d = 4, low-threshold spiking b = 0.25, d = 2.
      dt: step in ms.
      substeps: parts of a step for v.
      current: mV/ms for a drive of 1, a number or [n].
      reset_gradient: True: the gradient passes through the spike in v ← v + z (c − v), too. That in
        u ← u + d z it always does.
      surrogate: ψ, a function of v − v_peak in mV; default `piecewise_linear(0.3/w, w)`, with
        w = v_peak − c of each unit.
      trainable: from ("a", "b", "c", "d", "initial", "initial.v", "initial.u"). a is stored as its
        logarithm, the initial state as in `custom`.
      **options: `connectivity`, `self_connections`, `gain_in`, `gain_rec`, `w_in`, `w_rec` as in
        `custom`.

    v starts at −65 mV and u at b v (of b as it is given), as in the paper's program.

    Raises:
      TypeError, ValueError: as `custom`; for an a or `current` that is not positive; for a v_peak that
        is not above c.

    >>> import jax, jax.numpy as jnp, eprop_jax as ej
    >>> cell = ej.cells.izhikevich(n_in=1, n_units=2, c=[-65.0, -50.0], d=[8.0, 2.0])
    >>> net = ej.Network(cell, ej.readouts.linear(2, 1))
    >>> params = net.init(jax.random.key(0))
    >>> params["cell"]["w_in"] = jnp.full((1, 2), 10.0)         # I = 10: regular spiking, chattering
    >>> spikes = net.apply(params, jnp.ones((200, 1))).activity
    >>> [int(x) for x in spikes.sum(0)]                         # in 200 ms
    [5, 16]
    """
    n, parts = checks.size("n_units", n_units), checks.size("substeps", substeps)
    checks.flag("reset_gradient", reset_gradient)
    state = IzhikevichState(v=-65.0, u=0.0)
    unit = Units(n, dt, trainable, ("a", "b", "c", "d"), initial_of(state))
    rate, scale = unit.positive("a", a), unit.positive("current", current)
    of_v, back, of_spike, peak = (
        unit.real(*given) for given in (("b", b), ("c", c), ("d", d), ("v_peak", v_peak))
    )
    _above("v_peak", unit, "c")
    spike = _spike(surrogate, lambda theta: peak(theta) - back(theta))

    def output(theta, s):
        return spike(theta, s.v - peak(theta))

    def dynamics(theta, s, drive):
        z = output(theta, s)
        v = _reset(s.v, back(theta), z, reset_gradient)
        u = s.u + of_spike(theta) * z
        for _ in range(parts):
            into_v = 0.04 * v * v + 5.0 * v + 140.0 - u + scale(theta) * drive
            v = jnp.where(v < peak(theta), v + unit.dt / parts * into_v, v)
        return IzhikevichState(v=v, u=u + unit.dt * rate(theta) * (of_v(theta) * v - u))

    cell = custom(
        n_in, n, dynamics, output, state, theta=unit.theta, constants=unit.constants,
        trainable=unit.initial, **options,
    )  # fmt: skip
    return _starting(unit.finish(cell, "izhikevich"), {"u": unit.values["b"] * state.v})


def _above(name: str, unit: Units, *others: str) -> None:
    for other in others:
        high, low = unit.values[name], unit.values[other]
        if not checks.is_traced((high, low)) and not np.all(high > low):
            raise ValueError(f"{name}: got {high}, wanted more than {other}, {low}")


def _spike(surrogate, distance):
    """(theta, x) -> z; without a `surrogate` of the user's, with that of each unit's own distance from
    reset to peak."""
    if surrogate is not None:
        of_x = surrogates.spike(surrogate)
        return lambda theta, x: of_x(x)

    def of_unit(theta, x):
        width = distance(theta)
        return surrogates.heaviside(x, surrogates.piecewise_linear(0.3 / width, width)(x))

    return of_unit


def _reset(v, back, z, gradient: bool):
    """v, or where there was a spike its reset: by value, so that nothing of v is left."""
    z = z if gradient else jax.lax.stop_gradient(z)
    return (1.0 - z) * v + z * back


def _starting(cell: Cell, values: dict[str, Any]) -> Cell:
    """The cell, some of whose components start at values of each unit's own, [n]."""

    def init(key):
        params = cell.init(key)
        own = {k: v for k, v in values.items() if k in params.get("initial", {})}
        if not own:
            return params
        like = params["initial"]
        own = {k: jnp.broadcast_to(jnp.asarray(v, like[k].dtype), like[k].shape)
               for k, v in own.items()}  # fmt: skip
        return {**params, "initial": {**like, **own}}

    def initial_state(params, batch_shape):
        c, trained = cell.initial_state(params, batch_shape), params.get("initial", {})
        put = {k: jnp.broadcast_to(jnp.asarray(v, getattr(c, k).dtype), getattr(c, k).shape)
               for k, v in values.items() if k not in trained}  # fmt: skip
        return c._replace(**put)

    return cell._replace(init=init, initial_state=initial_state)
