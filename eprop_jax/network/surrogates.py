"""Pseudo-derivatives ψ of a spike z = Θ(x), x = v − threshold: the four that NEST has.

Each takes a `height` (ψ at the threshold, except for arctan, where it is height/π) and a `width`
in the units of x, and gives a function x -> ψ(x). NEST's γ is `height`, its β is 1/`width`. Both are
numbers, which may be traced.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax import checks
from eprop_jax.network.types import Array
from eprop_jax.network.units import like

PseudoDerivative = Callable[[Array], Array]


def piecewise_linear(height: float | Array = 0.3, width: float | Array = 1.0) -> PseudoDerivative:
    """ψ(x) = height · max(0, 1 − |x|/width)  (Bellec et al. 2020).

    Args:
      height: ψ(0), in 1/units of x. Bellec et al. take 0.3/v_th.
      width: half the base, in the units of x. Bellec et al. take v_th.

    Raises:
      ValueError: if either is not a positive number.

    >>> import eprop_jax as ej
    >>> float(ej.surrogates.piecewise_linear(0.5, 2.0)(1.0))
    0.25
    """
    return _psi(lambda x, h, w: h * jnp.maximum(0.0, 1.0 - jnp.abs(x) / w), height, width)


def fast_sigmoid(height: float | Array = 0.3, width: float | Array = 1.0) -> PseudoDerivative:
    """ψ(x) = height / (1 + |x|/width)²  (Zenke and Ganguli 2018).

    Args and Raises as `piecewise_linear`.

    >>> import eprop_jax as ej
    >>> float(ej.surrogates.fast_sigmoid(1.0, 1.0)(1.0))
    0.25
    """
    return _psi(lambda x, h, w: h / (1.0 + jnp.abs(x) / w) ** 2, height, width)


def exponential(height: float | Array = 0.3, width: float | Array = 1.0) -> PseudoDerivative:
    """ψ(x) = height · exp(−|x|/width)  (Shrestha and Orchard 2018).

    Args and Raises as `piecewise_linear`.

    >>> import eprop_jax as ej
    >>> float(ej.surrogates.exponential(0.5)(0.0))
    0.5
    """
    return _psi(lambda x, h, w: h * jnp.exp(-jnp.abs(x) / w), height, width)


def arctan(height: float | Array = 0.3, width: float | Array = 1.0) -> PseudoDerivative:
    """ψ(x) = (height/π) / (1 + (π x/width)²)  (Fang et al. 2021).

    Args and Raises as `piecewise_linear`.

    >>> import math, eprop_jax as ej
    >>> round(float(ej.surrogates.arctan(math.pi)(0.0)), 6)
    1.0
    """
    return _psi(lambda x, h, w: h / np.pi / (1.0 + (np.pi * x / w) ** 2), height, width)


def spike(psi: PseudoDerivative) -> Callable[[Array], Array]:
    """z(x) = 1 where x ≥ 0, else 0; its derivative is defined to be ψ(x).

    Args:
      psi: a pseudo-derivative, from this module or your own (x -> ψ(x), elementwise).

    Raises:
      TypeError: if `psi` is no function of a number x, such as `arctan` where `arctan()` is meant.

    >>> import jax, eprop_jax as ej
    >>> z = ej.surrogates.spike(ej.surrogates.piecewise_linear(0.5))
    >>> float(z(0.0)), float(jax.grad(z)(0.0))
    (1.0, 0.5)
    """
    checks.is_callable("psi", psi)
    name = getattr(psi, "__name__", type(psi).__name__)
    if psi in (piecewise_linear, fast_sigmoid, exponential, arctan):
        raise TypeError(f"psi: got {name} itself, wanted what it returns, as {name}()")
    try:
        of_one = jax.eval_shape(psi, jax.ShapeDtypeStruct((), jnp.result_type(float)))
    except Exception as error:
        what = f"{name}, which fails for a scalar x ({checks.first_line(error)})"
        raise TypeError(f"psi: got {what}, wanted a function x -> ψ(x), elementwise") from error
    if getattr(of_one, "shape", None) != ():
        raise TypeError(f"psi: got {name}, whose ψ of a scalar is {of_one}, wanted a scalar")
    return lambda x: heaviside(x, psi(x))


@jax.custom_jvp
def heaviside(x: Array, slope: Array) -> Array:
    """1 where x ≥ 0, else 0; its derivative by x is defined to be `slope`, and by `slope` to be 0.

    The slope is an argument, not something that the derivative's rule closes over, so that it may
    depend on tracers of any kind, and its own derivatives are what they are: z'' = ψ'.
    """
    del slope
    return jnp.where(x >= 0, jnp.ones_like(x), jnp.zeros_like(x))


@heaviside.defjvp
def _(primals, tangents):
    (x, slope), (x_dot, _) = primals, tangents
    return heaviside(x, slope), like(slope, x_dot) * x_dot


def _psi(formula: Callable, height: Any, width: Any) -> PseudoDerivative:
    height, width = checks.number("height", height), checks.number("width", width)
    checks.positive("height", height)
    checks.positive("width", width)
    return lambda x: formula(x, like(height, x), like(width, x))
