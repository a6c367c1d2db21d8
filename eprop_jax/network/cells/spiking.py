"""Spiking units: LIF and ALIF."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax import checks
from eprop_jax.network import surrogates
from eprop_jax.network.cells.custom import custom, initial_of
from eprop_jax.network.types import Cell
from eprop_jax.network.units import Units, floating


class SpikingState(NamedTuple):
    v: Any
    """membrane voltage, after this step's input and before its spike is subtracted"""
    a: Any = ()
    """adaptation variable (ALIF)"""
    r: Any = ()
    """steps of refractoriness left (int32; no gradient, no trace)"""


def lif(n_in: int, n_units: int, **options) -> Cell:
    """Leaky integrate-and-fire units: `alif` without adaptation. Takes the same arguments but for
    `beta`, `tau_a` and `rho`.

    v^t = α v^{t-1} + a^t − v_th z^{t-1},  z^t = Θ(v^t − v_th), h = z.

    Implicit: the leak and the reset of the unit's own spike. Explicit: everything through W_rec.

    Raises:
      TypeError, ValueError: as `alif`.

    >>> import eprop_jax as ej
    >>> ej.cells.lif(n_in=3, n_units=4, tau_m=30.0, v_th=0.03).n_units
    4
    """
    unknown = {"beta", "tau_a", "rho"} & options.keys()
    if unknown:
        raise TypeError(f"{min(unknown)}: lif has no adaptation, wanted ej.cells.alif")
    return _spiking(n_in, n_units, adaptive=False, **options)


def alif(
    n_in: int,
    n_units: int,
    *,
    tau_m: Any = None,
    tau_a: Any = None,
    alpha: Any = None,
    rho: Any = None,
    beta: Any = None,
    v_th: Any = 1.0,
    dt: float = 1.0,
    refractory: int = 0,
    scale_input: bool = False,
    reset_gradient: bool = False,
    surrogate: surrogates.PseudoDerivative | None = None,
    trainable: tuple[str, ...] = (),
    **options,
) -> Cell:
    """Adaptive leaky integrate-and-fire units (the LSNN of Bellec et al. 2018, 2020).

    v^t = α v^{t-1} + a^t − v_th z^{t-1}
    a^t = ρ a^{t-1} + z^{t-1}
    z^t = Θ(v^t − A^t), A^t = v_th + β a^t; h = z; its derivative is `surrogate`(v^t − A^t), and
    zero while the unit is refractory. Without a leak (τ_m = ∞, α = 1) v sums its input up.

    Implicit: the leaks, the unit's own spike into its adaptation, and its reset. Explicit:
    everything through W_rec, the self-connection w_jj included.

    Args:
      n_in, n_units: sizes.
      tau_m, tau_a: time constants of voltage and adaptation in ms, numbers or [n] (defaults 20 and
        200), up to inf; α = exp(−dt/τ_m), ρ = exp(−dt/τ_a). Like the next five they may be traced.
      alpha, rho: the decay factors themselves in [0, 1], instead of the time constants.
      beta: adaptation strength β, a number or [n] (0 for units that do not adapt); default
        1.7 (1−ρ)/(1−α) v_th, the ratio that Bellec et al. take; without a leak there is none.
      v_th: threshold, in the units of v, a number or [n].
      dt: step in ms.
      refractory: n_ref; after a spike at t, no spike and ψ = 0 at t+1 … t+n_ref−1 (NEST's count).
      scale_input: True multiplies the drive by (1−α), for α < 1.
      reset_gradient: False: no gradient through −v_th z^{t-1} (Bellec et al., NEST).
      surrogate: ψ, a function of v − A; default `piecewise_linear(0.3/v_th, v_th)`, of each unit's
        own v_th, as it is at the time where it is trained.
      trainable: from ("tau_m", "tau_a", "beta", "v_th", "initial", "initial.v", "initial.a"). τ is
        stored as log(τ/dt) and v_th as its logarithm, so that both stay positive; the initial state as
        in `custom`.
      **options: `connectivity`, `self_connections`, `gain_in`, `gain_rec`, `w_in`, `w_rec` as in
        `custom`.

    Raises:
      TypeError, ValueError: as `custom`, and for τ ≤ 0, a decay outside [0, 1], v_th ≤ 0; for no
        leak where it is trained, `scale_input` or β's default; when parameters are drawn or first
        used, for a decay that rounds to 1 in their dtype.

    >>> import jax, eprop_jax as ej
    >>> cell = ej.cells.alif(n_in=3, n_units=4, tau_a=200.0, trainable=("tau_a",))
    >>> sorted(cell.init(jax.random.key(0))["theta"])
    ['tau_a']
    """
    return _spiking(
        n_in, n_units, adaptive=True, tau_m=tau_m, tau_a=tau_a, alpha=alpha, rho=rho, beta=beta,
        v_th=v_th, dt=dt, refractory=refractory, scale_input=scale_input,
        reset_gradient=reset_gradient, surrogate=surrogate, trainable=trainable, **options,
    )  # fmt: skip


def _spiking(
    n_in, n_units, *, adaptive, tau_m=None, tau_a=None, alpha=None, rho=None, beta=None, v_th=1.0,
    dt=1.0, refractory=0, scale_input=False, reset_gradient=False, surrogate=None, trainable=(),
    **options,
):  # fmt: skip
    n = checks.size("n_units", n_units)
    n_ref = checks.fits("refractory", checks.steps("refractory", refractory), np.int32)
    checks.flag("scale_input", scale_input)
    checks.flag("reset_gradient", reset_gradient)
    own = ("tau_a", "beta") if adaptive else ()
    state = SpikingState(v=0.0, a=0.0 if adaptive else (), r=0 if n_ref else ())
    unit = Units(n, dt, trainable, ("tau_m", "v_th", *own), initial_of(state))
    alpha_of = unit.decay("tau_m", "alpha", tau_m, alpha, "alpha")
    rest_of = unit.rest("tau_m", "alpha") if scale_input else None
    threshold = unit.positive("v_th", v_th)
    if adaptive:
        rho_of = unit.decay("tau_a", "rho", tau_a, rho, "rho", 200.0)
        beta_of = unit.real("beta", _usual_beta(unit) if beta is None else beta)
    of_own = None if surrogate is None else surrogates.spike(surrogate)

    def spike(theta, x):
        if of_own is not None:
            return of_own(x)
        v = threshold(theta)
        return surrogates.heaviside(x, surrogates.piecewise_linear(0.3 / v, v)(x))

    def output(theta, c):
        barrier = threshold(theta) + (beta_of(theta) * c.a if adaptive else 0.0)
        z = spike(theta, c.v - barrier)
        return jnp.where(c.r == 0, z, jnp.zeros_like(z)) if n_ref else z

    def dynamics(theta, c, drive):
        z = output(theta, c)
        reset = threshold(theta) * z
        reset = reset if reset_gradient else jax.lax.stop_gradient(reset)
        gain = rest_of(theta) if scale_input else 1.0
        return SpikingState(
            v=alpha_of(theta) * c.v + gain * drive - reset,
            a=rho_of(theta) * c.a + z if adaptive else (),
            r=jnp.maximum(jnp.where(z > 0, n_ref, c.r) - 1, 0) if n_ref else (),
        )

    cell = custom(
        n_in, n, dynamics, output, state, theta=unit.theta, constants=unit.constants,
        shared=("v",) if unit.is_one("alpha") and not reset_gradient else (),
        trainable=unit.initial, **options,
    )  # fmt: skip
    return unit.finish(cell, "alif" if adaptive else "lif")


def _usual_beta(unit: Units) -> Any:
    """1.7 (1−ρ)/(1−α) v_th."""
    fast, slow = unit.decays["alpha"], unit.decays["rho"]
    for d in (fast, slow):
        if not checks.is_traced(d.rest) and np.any(d.rest == 0):
            raise ValueError(f"beta: has no default where {d.name} is {d.given}, wanted its value")
    slow, fast, v_th = floating(slow.rest, fast.rest, unit.values["v_th"])
    return 1.7 * slow / fast * v_th
