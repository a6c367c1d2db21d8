"""Units made of a synaptic current, a membrane and a threshold: each cell takes the parts that it has.

What a spike does to the voltage is one of two things. By subtraction, as in `lif`: v_th is taken from
v^t, beside the leak. To a value: v_reset stands in the place of v^{t-1}, and leaks as any voltage.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from eprop_jax import checks
from eprop_jax.network import surrogates
from eprop_jax.network.cells.custom import custom, initial_of
from eprop_jax.network.types import Cell
from eprop_jax.network.units import Units


class CurrentState(NamedTuple):
    v: Any
    """membrane voltage, after this step's input and before its spike resets it"""
    i: Any = ()
    """synaptic current"""


def cuba_lif(
    n_in: int,
    n_units: int,
    *,
    tau_syn: Any = None,
    tau_m: Any = None,
    alpha_syn: Any = None,
    alpha: Any = None,
    r: Any = 1.0,
    v_leak: Any = 0.0,
    v_th: Any = 1.0,
    v_reset: Any = None,
    dt: float = 1.0,
    scale_input: bool = False,
    reset_gradient: bool = False,
    surrogate: surrogates.PseudoDerivative | None = None,
    trainable: tuple[str, ...] = (),
    **options,
) -> Cell:
    """Current-based LIF units (Zenke and Ganguli 2018; NIR's CubaLIF, Pedersen et al. 2024).

    I^t = α_s I^{t-1} + a^t,
    v^t = v_leak + α (v^{t-1} − v_leak) + r I^t − v_th z^{t-1},  z^t = Θ(v^t − v_th), h = z.
    With v_reset, a spike sets v^{t-1} to it in place of the subtraction.

    Implicit: the current's decay, its way into the voltage, the leak, and the reset by the unit's own
    spike. Explicit: everything through W_rec.

    Args:
      n_in, n_units: sizes.
      tau_syn, tau_m: time constants in ms of current and membrane, numbers or [n] (default 5 and 20),
        which may be traced; α_s = exp(−dt/τ_syn), α = exp(−dt/τ_m).
      alpha_syn, alpha: α_s and α themselves, instead.
      r: resistance, of v in units of I; a number or [n].
      v_leak: where the voltage leaks to, in the units of v.
      v_th: threshold, in the units of v, positive.
      v_reset: None, reset by subtraction of v_th; or the voltage after a spike, a number or [n].
      dt: step in ms.
      scale_input: True multiplies a^t by (1−α_s) and r I^t by (1−α), for both below 1: then a constant
        drive a leads to the current a and to the voltage v_leak + r a.
      reset_gradient: False: no gradient through −v_th z^{t-1}, or the z of a reset to v_reset.
      surrogate: ψ, a function of v − v_th; default `piecewise_linear(0.3/v_th, v_th)`.
      trainable: from ("tau_syn", "tau_m", "v_leak", "v_th", "initial", "initial.v", "initial.i"). τ is
        stored as log(τ/dt) and v_th as its logarithm; the initial state as in `custom`.
      **options: `connectivity`, `self_connections`, `gain_in`, `gain_rec`, `w_in`, `w_rec` as in
        `custom`.

    Raises:
      TypeError, ValueError: as `alif`.

    >>> import jax, eprop_jax as ej
    >>> cell = ej.cells.cuba_lif(n_in=3, n_units=4, tau_syn=5.0, trainable=("tau_syn",))
    >>> sorted(cell.init(jax.random.key(0))["theta"])
    ['tau_syn']
    """
    known = ("tau_syn", "tau_m", "v_leak", "v_th")
    state = CurrentState(v=0.0, i=0.0)
    unit = Units(n_units, dt, trainable, known, initial_of(state))
    checks.flag("scale_input", scale_input)
    decay_of = unit.decay("tau_syn", "alpha_syn", tau_syn, alpha_syn, "alpha_syn", 5.0)
    rest_of = unit.rest("tau_syn", "alpha_syn") if scale_input else None
    charge = _membrane(unit, tau_m, alpha, r, v_leak, scale_input)
    spikes = _spikes(unit, v_th, v_reset, reset_gradient, surrogate)

    def dynamics(theta, c, a):
        i = decay_of(theta) * c.i + (a if rest_of is None else rest_of(theta) * a)
        return CurrentState(v=spikes.reset(theta, c.v, lambda v: charge(theta, v, i)), i=i)

    cell = custom(
        n_in, n_units, dynamics, spikes.output, state, theta=unit.theta, constants=unit.constants,
        shared=("i",) if unit.is_one("alpha_syn") else (), trainable=unit.initial, **options,
    )  # fmt: skip
    return unit.finish(cell, "cuba_lif")


def integrate_fire(
    n_in: int,
    n_units: int,
    *,
    r: Any = 1.0,
    v_th: Any = 1.0,
    v_reset: Any = None,
    reset_gradient: bool = False,
    surrogate: surrogates.PseudoDerivative | None = None,
    trainable: tuple[str, ...] = (),
    **options,
) -> Cell:
    """Integrate-and-fire units without a leak (Lapicque 1907 without his leak; NIR's IF).

    v^t = v^{t-1} + r a^t − v_th z^{t-1},  z^t = Θ(v^t − v_th), h = z.
    With v_reset, a spike sets v^{t-1} to it in place of the subtraction.

    Implicit: the voltage, which stays, and the reset by the unit's own spike. Explicit: everything
    through W_rec.

    Args:
      n_in, n_units: sizes.
      r: of v in units of the drive of one step; a number or [n].
      v_th: threshold, in the units of v, positive.
      v_reset: None, reset by subtraction of v_th; or the voltage after a spike, a number or [n].
      reset_gradient: False: no gradient through −v_th z^{t-1}, or the z of a reset to v_reset.
      surrogate: ψ, a function of v − v_th; default `piecewise_linear(0.3/v_th, v_th)`.
      trainable: from ("v_th", "initial", "initial.v"). v_th is stored as its logarithm; the initial
        state as in `custom`.
      **options: `connectivity`, `self_connections`, `gain_in`, `gain_rec`, `w_in`, `w_rec` as in
        `custom`.

    Raises:
      TypeError, ValueError: as `custom`, and for v_th ≤ 0.

    >>> import eprop_jax as ej
    >>> ej.cells.integrate_fire(n_in=3, n_units=4, v_reset=0.0)
    integrate_fire 3 -> 4
    """
    state = CurrentState(v=0.0)
    unit = Units(n_units, 1.0, trainable, ("v_th",), initial_of(state))
    r_of = unit.real("r", r)
    spikes = _spikes(unit, v_th, v_reset, reset_gradient, surrogate)

    def dynamics(theta, c, a):
        return CurrentState(v=spikes.reset(theta, c.v, lambda v: v + r_of(theta) * a))

    same = unit.is_one("r") and v_reset is None and not reset_gradient
    cell = custom(
        n_in, n_units, dynamics, spikes.output, state, theta=unit.theta, constants=unit.constants,
        shared=("v",) if same else (), trainable=unit.initial, **options,
    )  # fmt: skip
    return unit.finish(cell, "integrate_fire")


def li(
    n_in: int,
    n_units: int,
    *,
    tau_m: Any = None,
    alpha: Any = None,
    r: Any = 1.0,
    v_leak: Any = 0.0,
    dt: float = 1.0,
    scale_input: bool = False,
    trainable: tuple[str, ...] = (),
    **options,
) -> Cell:
    """Leaky integrators that tell their voltage and do not spike (NIR's LI). As the read-out of a
    network they are `ej.readouts.leaky`; this is the layer, which others may hear.

    v^t = v_leak + α (v^{t-1} − v_leak) + r a^t, h = v.

    Implicit: the leak. Explicit: everything through W_rec.

    Args:
      n_in, n_units: sizes.
      tau_m: time constant in ms, a number or [n] (default 20), which may be traced; α = exp(−dt/τ_m).
      alpha: α itself, instead.
      r: resistance, of v in units of the drive; a number or [n].
      v_leak: where the voltage leaks to, in the units of v.
      dt: step in ms.
      scale_input: True multiplies r a^t by (1−α), for α < 1.
      trainable: from ("tau_m", "v_leak", "initial", "initial.v"). τ is stored as log(τ/dt); the
        initial state as in `custom`.
      **options: `connectivity`, `self_connections`, `gain_in`, `gain_rec`, `w_in`, `w_rec` as in
        `custom`.

    Raises:
      TypeError, ValueError: as `custom`, and for τ ≤ 0 or a decay outside [0, 1]; for no leak where it
        is trained or scales the drive; when parameters are drawn or first used, for a decay that
        rounds to 1 in their dtype.

    >>> import eprop_jax as ej
    >>> ej.cells.li(n_in=3, n_units=4, tau_m=30.0)
    li 3 -> 4
    """
    state = CurrentState(v=0.0)
    unit = Units(n_units, dt, trainable, ("tau_m", "v_leak"), initial_of(state))
    checks.flag("scale_input", scale_input)
    charge = _membrane(unit, tau_m, alpha, r, v_leak, scale_input)
    cell = custom(
        n_in, n_units, lambda theta, c, a: CurrentState(v=charge(theta, c.v, a)),
        lambda theta, c: c.v, state, theta=unit.theta, constants=unit.constants,
        shared=("v",) if unit.is_one("alpha") and unit.is_one("r") else (),
        trainable=unit.initial, **options,
    )  # fmt: skip
    return unit.finish(cell, "li")


def _membrane(unit: Units, tau_m, alpha, r, v_leak, scaled) -> Callable:
    """(theta, v, I) -> v_leak + α (v − v_leak) + r I, or (1−α) r I."""
    alpha_of = unit.decay("tau_m", "alpha", tau_m, alpha, "alpha")
    rest_of = unit.rest("tau_m", "alpha") if scaled else None
    r_of, leak_of = unit.real("r", r), unit.real("v_leak", v_leak)

    def charge(theta, v, i):
        gain = r_of(theta) if rest_of is None else rest_of(theta) * r_of(theta)
        return leak_of(theta) + alpha_of(theta) * (v - leak_of(theta)) + gain * i

    return charge


class _Spikes(NamedTuple):
    output: Callable
    """(theta, c) -> z = Θ(v − v_th)"""
    reset: Callable
    """(theta, v^{t-1}, v -> the voltage one step on) -> v^t"""


def _spikes(unit: Units, v_th, v_reset, reset_gradient, surrogate) -> _Spikes:
    checks.flag("reset_gradient", reset_gradient)
    threshold = unit.positive("v_th", v_th)
    reset_of = None if v_reset is None else unit.real("v_reset", v_reset)
    of_own = None if surrogate is None else surrogates.spike(surrogate)

    def spike(theta, v):
        th = threshold(theta)
        if of_own is not None:
            return of_own(v - th)
        return surrogates.heaviside(v - th, surrogates.piecewise_linear(0.3 / th, th)(v - th))

    def reset(theta, v, onward):
        z = spike(theta, v)
        z = z if reset_gradient else jax.lax.stop_gradient(z)
        if reset_of is None:
            taken = threshold(theta) * z
            return onward(v) - (taken if reset_gradient else jax.lax.stop_gradient(taken))
        return onward(v + z * (reset_of(theta) - v))

    return _Spikes(lambda theta, c: spike(theta, c.v), reset)
