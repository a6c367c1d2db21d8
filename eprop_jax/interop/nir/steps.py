"""NIR's equations over one step of dt, by two schemes.

    exact   the solution for a signal that stays the same over the step
    euler   x^t = x^{t-1} + dt · ẋ, a node's equations in the order in which NIR writes them: the
            voltage of CubaLIF and CubaLI hears the current of the same step

A spike is the signal 1 for one step. Times are NIR's, in seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Values = dict[str, np.ndarray]


def exact_leak(tau, dt):
    """τ ẋ = −x + u: (α, 1 − α) of x^t = α x^{t-1} + (1 − α) u^t."""
    return np.exp(-dt / tau), -np.expm1(-dt / tau)


def euler_leak(tau, dt):
    return 1 - dt / tau, dt / tau


def exact_current(p: Values, dt: float):
    """What I^{t-1} and S^t do to v^t: from the solution of both equations,

        v^t = … + R P I^{t-1} + R w_in (1 − α − P) S^t,  P = τ_syn/(τ_syn − τ_mem) (α_syn − α)
            = α (dt/τ_mem) (exp(δ) − 1)/δ,  δ = dt (1/τ_mem − 1/τ_syn),

    (Rotter and Diesmann 1999), which is α dt/τ_mem where both time constants are one.
    """
    alpha, rest = exact_leak(p["tau_mem"], dt)
    delta = dt / p["tau_mem"] - dt / p["tau_syn"]
    safe = np.where(delta == 0, 1.0, delta)
    P = alpha * dt / p["tau_mem"] * np.where(delta == 0, 1.0, np.expm1(delta) / safe)
    return p["r"] * P, p["r"] * p["w_in"] * (rest - P)


def euler_current(p: Values, dt: float):
    (keep, take), (_, rest) = euler_leak(p["tau_syn"], dt), euler_leak(p["tau_mem"], dt)
    return p["r"] * rest * keep, p["r"] * rest * take * p["w_in"]


class Scheme(NamedTuple):
    leak: Callable
    current: Callable


SCHEMES = {
    "exact": Scheme(exact_leak, exact_current),
    "euler": Scheme(euler_leak, euler_current),
}


def coefficients(kind: str, p: Values, dt: float, scheme: Scheme) -> Values:
    """What a unit's step multiplies: alpha and v_leak of v; from_i and from_a what the current and the
    drive add to v; alpha_syn and into_i of the current."""
    if kind in ("LIF", "LI"):
        alpha, rest = scheme.leak(p["tau"], dt)
        return {"alpha": alpha, "from_a": rest * p["r"], "v_leak": p["v_leak"]}
    if kind in ("IF", "I"):
        return {"from_a": dt * p["r"]}
    if kind in ("CubaLIF", "CubaLI"):
        alpha_syn, rest_syn = scheme.leak(p["tau_syn"], dt)
        from_i, from_a = scheme.current(p, dt)
        return {
            "alpha": scheme.leak(p["tau_mem"], dt)[0], "v_leak": p["v_leak"],
            "alpha_syn": alpha_syn, "into_i": rest_syn * p["w_in"],
            "from_i": from_i, "from_a": from_a,
        }  # fmt: skip
    return {}
