"""Pseudo-derivatives ψ of a spike z = Θ(x), x = v − threshold: the four that NEST has.

Each takes a `height` (ψ at the threshold, except for arctan, where it is height/π) and a `width`
in the units of x, and gives a function x -> ψ(x). NEST's γ is `height`, its β is 1/`width`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax import checks
from eprop_jax.base import Array

PseudoDerivative = Callable[[Array], Array]


def piecewise_linear(height: float = 0.3, width: float = 1.0) -> PseudoDerivative:
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
    _positive(height, width)
    return lambda x: height * jnp.maximum(0.0, 1.0 - jnp.abs(x) / width)


def fast_sigmoid(height: float = 0.3, width: float = 1.0) -> PseudoDerivative:
    """ψ(x) = height / (1 + |x|/width)²  (Zenke and Ganguli 2018).

    Args and Raises as `piecewise_linear`.

    >>> import eprop_jax as ej
    >>> float(ej.surrogates.fast_sigmoid(1.0, 1.0)(1.0))
    0.25
    """
    _positive(height, width)
    return lambda x: height / (1.0 + jnp.abs(x) / width) ** 2


def exponential(height: float = 0.3, width: float = 1.0) -> PseudoDerivative:
    """ψ(x) = height · exp(−|x|/width)  (Shrestha and Orchard 2018).

    Args and Raises as `piecewise_linear`.

    >>> import eprop_jax as ej
    >>> float(ej.surrogates.exponential(0.5)(0.0))
    0.5
    """
    _positive(height, width)
    return lambda x: height * jnp.exp(-jnp.abs(x) / width)


def arctan(height: float = 0.3, width: float = 1.0) -> PseudoDerivative:
    """ψ(x) = (height/π) / (1 + (π x/width)²)  (Fang et al. 2021).

    Args and Raises as `piecewise_linear`.

    >>> import math, eprop_jax as ej
    >>> round(float(ej.surrogates.arctan(math.pi)(0.0)), 6)
    1.0
    """
    _positive(height, width)
    return lambda x: height / np.pi / (1.0 + (np.pi * x / width) ** 2)


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

    @jax.custom_jvp
    def z(x):
        return jnp.where(x >= 0, jnp.ones_like(x), jnp.zeros_like(x))

    @z.defjvp
    def _(primals, tangents):
        (x,), (x_dot,) = primals, tangents
        return z(x), psi(x) * x_dot

    return z


def _positive(height, width):
    checks.positive("height", checks.number("height", height))
    checks.positive("width", checks.number("width", width))
