"""A layer's per-unit values while it is built: constants, or trained in an unbounded form.

What is known is computed on the host, in float64; what is traced, by JAX, and is not checked.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax import checks


def compute_dtype(params) -> Any:
    """The dtype of states and traces: the parameters', but at least float32."""
    dtype = jax.tree.leaves(params)[0].dtype
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)


def wide(x):
    """An array in its own compute dtype: squares of float16 overflow from 256 on."""
    return x.astype(compute_dtype(x)) if jnp.issubdtype(x.dtype, jnp.floating) else x


def floating(*values) -> list:
    """In float64 on the host; in JAX's default dtype where any of them is traced."""
    if checks.is_traced(values):
        return [jnp.asarray(value, float) for value in values]
    return [np.asarray(value, float) for value in values]


def like(value, x):
    """In the dtype of x: a hyper-parameter, traced or not, has no say in the dtype of a result."""
    dtype = jnp.result_type(x)
    return jnp.asarray(value, dtype if jnp.issubdtype(dtype, jnp.floating) else float)


class Decay(NamedTuple):
    """A decay factor, and what it was given as."""

    name: str
    given: Any
    factor: Any
    """[n], or [] where traced"""
    rest: Any
    """1 − factor, in as many digits: exp(−dt/τ) of a long τ has lost them"""


class Units:
    """Collects the values: each becomes a constant, or an entry of theta in a form whose whole real
    line is allowed. What each method returns reads the value back from theta_j."""

    def __init__(self, n: int, dt: Any, trainable, allowed, initial=()):
        self.n, self.dt = checks.size("n_units", n), checks.number("dt", dt)
        checks.positive("dt", dt)
        known = (*allowed, *initial)
        self.trainable = checks.names("trainable", trainable, known)
        self.initial = tuple(name for name in self.trainable if name in initial)
        """what `ej.cells.custom` trains"""
        self.theta: dict[str, Any] = {}
        self.constants: dict[str, Any] = {}
        self.values: dict[str, Any] = {}
        """as given, trained or not"""
        self.decays: dict[str, Decay] = {}
        """by symbol, trained or not"""

    def decay(self, name, symbol, tau, factor, factor_name, default=20.0):
        """exp(−dt/τ), 1 for τ = ∞: no leak. Trained: as u = log(τ/dt), so that exp(−exp(−u)) lies in
        (0, 1)."""
        if tau is not None and factor is not None:
            raise ValueError(f"{name}, {factor_name}: got both, wanted one of them")
        if factor is None:
            d = self._of_time_constant(name, default if tau is None else tau)
        else:
            (given,) = floating(checks.per_unit(factor_name, factor, self.n))
            checks.decay(factor_name, given)
            d = Decay(factor_name, factor, given, 1 - given)
        self.decays[symbol] = d
        if name not in self.trainable:
            self.constants[symbol] = d.factor
            return lambda theta: theta[symbol]
        checks.positive(f"{factor_name} (trainable)", d.factor)
        self._refuse_none_left(d, f"{name} (trainable) is stored as log({name}/dt)")
        m = jnp if checks.is_traced(d.rest) else np
        self.theta[name] = -m.log(-m.log1p(-d.rest))
        return lambda theta: jnp.exp(-jnp.exp(-theta[name]))

    def _of_time_constant(self, name, given) -> Decay:
        tau, dt = floating(checks.per_unit(name, given, self.n), self.dt)
        if checks.is_traced(tau):
            return Decay(name, given, jnp.exp(-dt / tau), -jnp.expm1(-dt / tau))
        if not np.all(tau > 0):
            raise ValueError(f"{name}: got {given}, wanted positive, or inf for no leak")
        d = Decay(name, given, np.exp(-dt / tau), -np.expm1(-dt / tau))
        self._refuse_rounded(d, np.dtype(float))
        return d

    def rest(self, name, symbol):
        """1 − decay, which multiplies a drive: formed before it is rounded to the parameters' dtype,
        as the difference of two numbers near 1 has few digits."""
        d = self.decays[symbol]
        self._refuse_none_left(d, f"the drive is multiplied by 1 − {symbol}")
        if name in self.trainable:
            return lambda theta: -jnp.expm1(-jnp.exp(-theta[name]))
        self.constants[f"one_minus_{symbol}"] = d.rest
        return lambda theta: theta[f"one_minus_{symbol}"]

    def is_one(self, symbol) -> bool:
        """Is this one constant number for all units?"""
        return symbol in self.constants and checks.same_for_all(self.constants[symbol])

    def positive(self, name, value):
        (value,) = floating(checks.positive(name, checks.per_unit(name, value, self.n)))
        self.values[name] = value
        if name not in self.trainable:
            self.constants[name] = value
            return lambda theta: theta[name]
        self.theta[name] = (jnp.log if checks.is_traced(value) else np.log)(value)
        return lambda theta: jnp.exp(theta[name])

    def real(self, name, value):
        (value,) = floating(checks.finite(name, checks.per_unit(name, value, self.n)))
        self.values[name] = value
        (self.theta if name in self.trainable else self.constants)[name] = value
        return lambda theta: theta[name]

    def finish(self, layer, name: str):
        """The cell or read-out under its name. Parameters of a dtype in which one of its decays would
        round to 1 are refused, where they are drawn and where a rule first meets them."""

        def refuse(params):
            for d in self.decays.values():
                self._refuse_rounded(d, compute_dtype(params))
            return params

        return layer._replace(
            init=lambda key: refuse(layer.init(key)),
            initial_state=lambda params, batch: layer.initial_state(refuse(params), batch),
            name=name,
        )

    @staticmethod
    def _refuse_rounded(d: Decay, dtype) -> None:
        if checks.is_traced(d.factor):
            return
        if np.any((d.rest > 0) & (d.factor.astype(dtype) >= 1)):
            raise ValueError(
                f"{d.name}: got {d.given}, a decay factor that rounds to 1 in {dtype}; wanted less, "
                "wider parameters, or no leak at all (a factor of 1, a time constant of inf)"
            )

    @staticmethod
    def _refuse_none_left(d: Decay, why: str) -> None:
        if not checks.is_traced(d.rest) and np.any(d.rest == 0):
            raise ValueError(f"{d.name}: got {d.given}, no leak at all, wanted less: {why}")
