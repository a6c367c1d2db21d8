"""A layer's per-unit values while it is built: constants, or trained in an unbounded form."""

from __future__ import annotations

from typing import Any

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


class Units:
    """Collects the values: each becomes a constant, or an entry of theta in a form whose whole real
    line is allowed. What each method returns reads the value back from theta_j."""

    def __init__(self, n: int, dt: float, trainable, allowed):
        self.n, self.dt = checks.size("n_units", n), checks.positive("dt", checks.number("dt", dt))
        self.trainable = checks.names("trainable", trainable, allowed)
        self.theta: dict[str, np.ndarray] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.factors: dict[str, np.ndarray] = {}
        """decay factors by symbol, trained or not"""

    def decay(self, name, symbol, tau, factor, factor_name, default=20.0):
        """exp(−dt/τ). Trained: as u = log(τ/dt), so that exp(−exp(−u)) lies in (0, 1)."""
        if tau is not None and factor is not None:
            raise ValueError(f"{name}, {factor_name}: got both, wanted one of them")
        if factor is None:
            tau = default if tau is None else tau
            tau = checks.positive(name, checks.per_unit(name, tau, self.n))
            factor = np.exp(-self.dt / np.asarray(tau, float))
            if np.any(np.float32(factor) >= 1):
                raise ValueError(f"{name}: got {tau}, wanted less: its decay factor rounds to 1")
        else:
            factor = checks.decay(factor_name, checks.per_unit(factor_name, factor, self.n))
        self.factors[symbol] = np.asarray(factor, float)
        if name not in self.trainable:
            self.constants[symbol] = self.factors[symbol]
            return lambda theta: theta[symbol]
        checks.positive(f"{factor_name} (trainable)", factor)
        self.theta[name] = np.log(-1.0 / np.log(factor))
        return lambda theta: jnp.exp(-jnp.exp(-theta[name]))

    def positive(self, name, value):
        value = np.asarray(checks.positive(name, checks.per_unit(name, value, self.n)), float)
        if name not in self.trainable:
            self.constants[name] = value
            return lambda theta: theta[name]
        self.theta[name] = np.log(value)
        return lambda theta: jnp.exp(theta[name])

    def real(self, name, value):
        value = np.asarray(checks.finite(name, checks.per_unit(name, value, self.n)), float)
        (self.theta if name in self.trainable else self.constants)[name] = value
        return lambda theta: theta[name]
