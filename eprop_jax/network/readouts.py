"""Read-outs: units with an implicit recurrence at most, and never an explicit one (appendix B).

The drive of read-out unit k is a_k^t = Σ_j h_j^t w^out_jk + b_k: it sees the outputs of the same
step. Weights are [pre, post] = [n, n_out].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from eprop_jax import checks
from eprop_jax.network import traced
from eprop_jax.network.synapses import Kind
from eprop_jax.network.synapses.use import line
from eprop_jax.network.types import Array, Readout
from eprop_jax.network.units import Units, compute_dtype
from eprop_jax.network.unitwise import driven


def custom(
    n_units: int,
    n_out: int,
    dynamics: Callable[[dict, Array, Array], Array],
    *,
    y_0: float = 0.0,
    theta: Mapping[str, Any] | None = None,
    constants: Mapping[str, Any] | None = None,
    bias: bool = True,
    gain: float = 1.0,
    shared: bool = False,
    w_out: Kind | None = None,
) -> Readout:
    """Any differentiable read-out dynamics of one unit (Eq. 30-36).

    Args:
      n_units, n_out: the layer's units, the read-out's units.
      dynamics: (phi_k, y_k^{t-1}, a_k^t) -> y_k^t, all scalars.
      y_0: initial value of y.
      theta: {name: a number or [n_out]}: trained per-unit parameters, found in `phi_k`.
      constants: the same, not trained; integers in int32. Numbers here may be traced.
      bias: False leaves the bias out.
      gain: initial weights are normal with standard deviation gain/√n_units.
      shared: promise that ∂y^t/∂y^{t-1} and ∂y^t/∂a^t are one number for all units and examples;
        e-prop then keeps one filtered trace (Eq. 39) in place of one a read-out unit (Eq. 33).
      w_out: the kind of its synapses, from `ej.synapses`; None: dense.

    Raises:
      TypeError, ValueError: for an argument of the wrong kind or shape.

    >>> import jax, jax.numpy as jnp, eprop_jax as ej
    >>> readout = ej.readouts.custom(4, 2, lambda phi, y, a: jnp.tanh(0.5 * y + a))
    >>> jax.tree.map(jnp.shape, readout.init(jax.random.key(0)))
    {'bias': (2,), 'w_out': (4, 2)}
    """
    n, n_out = checks.size("n_units", n_units), checks.size("n_out", n_out)
    checks.is_callable("dynamics", dynamics)
    traced.forget(dynamics)
    y_0 = checks.number("y_0", y_0)
    checks.flag("bias", bias)
    checks.flag("shared", shared)
    gain = checks.nonnegative("gain", checks.number("gain", gain))
    theta = {
        k: checks.per_unit(f"theta[{k!r}]", v, n_out)
        for k, v in checks.mapping("theta", theta or {}).items()
    }
    constants = {
        k: checks.fits(
            f"constants[{k!r}]", checks.per_unit(f"constants[{k!r}]", v, n_out), np.int32
        )
        for k, v in checks.mapping("constants", constants or {}).items()
    }
    if shared and theta:
        raise ValueError(
            f"shared: got True with trained {sorted(theta)}, which differ by unit; wanted False"
        )

    synapses = line("w_out", w_out, n, n_out)
    if synapses.delay:
        raise ValueError(f"w_out: got {synapses.name} synapses, wanted a kind without delays")

    def init(key):
        params: dict = {"w_out": synapses.init(checks.key("key", key), gain)}
        dtype = params["w_out"].dtype
        if bias:
            params["bias"] = jnp.zeros(n_out, dtype)
        if theta:
            params["theta"] = {
                k: jnp.broadcast_to(jnp.asarray(v, dtype), (n_out,)) for k, v in theta.items()
            }
        return params

    def initial_state(params, batch_shape):
        return jnp.full((*batch_shape, n_out), y_0, compute_dtype(params))

    lines = {"w_out": synapses}
    return Readout(init, initial_state, dynamics, constants, n, n_out, lines, shared)


def linear(
    n_units: int,
    n_out: int,
    *,
    bias: bool = True,
    gain: float = 1.0,
    w_out: Kind | None = None,
) -> Readout:
    """y_k^t = Σ_j w_jk h_j^t + b_k: no recurrence (Eq. 28-29).

    Args:
      n_units, n_out: the layer's units, the read-out's units.
      bias, gain, w_out: as in `custom`.

    Raises:
      TypeError, ValueError: as `custom`.

    >>> import eprop_jax as ej
    >>> ej.readouts.linear(n_units=4, n_out=2).n_out
    2
    """
    readout = custom(n_units, n_out, driven, bias=bias, gain=gain, shared=True, w_out=w_out)
    return readout._replace(name="linear")


def leaky(
    n_units: int,
    n_out: int,
    *,
    tau: Any = None,
    kappa: Any = None,
    dt: float = 1.0,
    scale_input: bool = False,
    trainable: tuple[str, ...] = (),
    bias: bool = True,
    gain: float = 1.0,
    w_out: Kind | None = None,
) -> Readout:
    """y_k^t = κ y_k^{t-1} + Σ_j w_jk h_j^t + b_k (Eq. 37).

    Args:
      n_units, n_out: the layer's units, the read-out's units.
      tau: time constant in ms, a number or [n_out] (default 20), which may be traced;
        κ = exp(−dt/τ). inf is an integrator, κ = 1.
      kappa: κ itself in [0, 1], instead of `tau`.
      dt: step in ms.
      scale_input: True multiplies the drive by (1−κ) (NEST, Bellec et al. 2020), for κ < 1.
      trainable: ("tau",) trains τ per read-out unit, stored as log(τ/dt).
      bias, gain, w_out: as in `custom`.

    Raises:
      TypeError, ValueError: as `custom`, and for τ ≤ 0, κ outside [0, 1], or κ = 1 where it is
        trained or scales the drive; when parameters are drawn or first used, for a κ that rounds to
        1 in their dtype.

    >>> import eprop_jax as ej
    >>> ej.readouts.leaky(n_units=4, n_out=2, tau=20.0).shared
    True
    """
    checks.flag("scale_input", scale_input)
    unit = Units(n_out, dt, trainable, ("tau",))
    kappa_of = unit.decay("tau", "kappa", tau, kappa, "kappa")
    rest_of = unit.rest("tau", "kappa") if scale_input else None

    def dynamics(phi, y, a):
        k = kappa_of(phi)
        return k * y + (rest_of(phi) * a if scale_input else a)

    readout = custom(
        n_units,
        n_out,
        dynamics,
        theta=unit.theta,
        constants=unit.constants,
        bias=bias,
        gain=gain,
        shared=unit.is_one("kappa"),
        w_out=w_out,
    )
    return unit.finish(readout, "leaky")
