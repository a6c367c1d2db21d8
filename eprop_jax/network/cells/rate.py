"""Rate units: Elman, leaky, and the diagonal linear recurrences."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax import checks
from eprop_jax.network.cells.custom import custom, initial_of
from eprop_jax.network.synapses import Kind
from eprop_jax.network.types import Array, Cell
from eprop_jax.network.units import Units
from eprop_jax.network.unitwise import driven


def activated(activation, theta, c):
    """h^t = φ(c^t)"""
    return activation(c)


def rnn(
    n_in: int, n_units: int, *, activation: Callable[[Array], Array] = jnp.tanh, **options
) -> Cell:
    """Elman network: c^t = W_in x^t + W_rec h^{t-1} + b, h^t = φ(c^t).

    All recurrence is explicit: there is no implicit path, so D = 0 and e-prop sees one step.

    Args:
      n_in, n_units: sizes.
      activation: φ, elementwise.
      **options: `connectivity`, `self_connections`, `gain_in`, `gain_rec`, `w_in`, `w_rec` as in
        `custom`.

    Raises:
      TypeError, ValueError: as `custom`.

    >>> import eprop_jax as ej
    >>> ej.cells.rnn(n_in=3, n_units=4).n_units
    4
    """
    checks.is_callable("activation", activation)
    return custom(
        n_in, n_units, driven, functools.partial(activated, activation), 0.0, shared=("",),
        **options,
    )._replace(name="rnn")  # fmt: skip


def stateless(
    n_in: int, n_units: int, *, activation: Callable[[Array], Array] = jax.nn.relu, **options
) -> Cell:
    """A layer without time, h^t = φ(W_in x^t + b): dense, convolutional or whatever its synapses are,
    between recurrent ones.

    There is no recurrence at all: of a language of paths its units have the edges f alone.

    Args:
      n_in, n_units: sizes.
      activation: φ, elementwise.
      **options: `gain_in`, `w_in` as in `custom`.

    Raises:
      TypeError, ValueError: as `custom`.

    >>> import jax, eprop_jax as ej
    >>> pooled = ej.synapses.pooled(ej.synapses.dense(), shape=(4, 4, 1), size=2)
    >>> sorted(ej.cells.stateless(16, 8, w_in=pooled).init(jax.random.key(0)))
    ['bias', 'w_in']
    """
    checks.is_callable("activation", activation)
    return custom(
        n_in, n_units, driven, functools.partial(activated, activation), 0.0,
        drives=("w_in", "bias"), shared=("",), **options,
    )._replace(name="stateless")  # fmt: skip


def leaky_rnn(
    n_in: int,
    n_units: int,
    *,
    tau: Any = None,
    decay: Any = None,
    dt: float = 1.0,
    activation: Callable[[Array], Array] = jnp.tanh,
    trainable: tuple[str, ...] = (),
    **options,
) -> Cell:
    """Leaky rate units: c^t = α c^{t-1} + (1−α) a^t, h^t = φ(c^t).

    Implicit: the leak. Explicit: everything through W_rec.

    Args:
      n_in, n_units: sizes.
      tau: time constant in ms, a number or [n] (default 20), which may be traced; α = exp(−dt/τ).
      decay: α itself, instead of `tau`.
      dt: step in ms.
      activation: φ, elementwise.
      trainable: from ("tau", "initial"). τ per unit is stored as log(τ/dt), so that it stays positive;
        the initial state as in `custom`.
      **options: `connectivity`, `self_connections`, `gain_in`, `gain_rec`, `w_in`, `w_rec` as in
        `custom`.

    Raises:
      TypeError, ValueError: as `custom`, and for τ ≤ 0 or a decay outside [0, 1); without a leak
        (τ = ∞, decay 1) no drive would arrive. When parameters are drawn or first used, for a decay
        that rounds to 1 in their dtype.

    >>> import jax, eprop_jax as ej
    >>> cell = ej.cells.leaky_rnn(n_in=3, n_units=4, tau=10.0, trainable=("tau",))
    >>> float(cell.init(jax.random.key(0))["theta"]["tau"][0])  # log(10)
    2.3025851249694824
    """
    unit = Units(n_units, dt, trainable, ("tau",), initial_of(0.0))
    alpha = unit.decay("tau", "alpha", tau, decay, "decay")
    rest = unit.rest("tau", "alpha")
    checks.is_callable("activation", activation)

    def dynamics(theta, c, a):
        return alpha(theta) * c + rest(theta) * a

    cell = custom(
        n_in,
        n_units,
        dynamics,
        lambda theta, c: activation(c),
        0.0,
        theta=unit.theta,
        constants=unit.constants,
        shared=("",) if unit.is_one("alpha") else (),
        trainable=unit.initial,
        **options,
    )
    return unit.finish(cell, "leaky_rnn")


class ComplexState(NamedTuple):
    re: Any
    im: Any


def linear_recurrence(
    n_in: int,
    n_units: int,
    *,
    decay: Any = None,
    frequency: Any = 0.0,
    trainable: tuple[str, ...] = (),
    gain_in: float = 1.0,
    w_in: Kind | None = None,
) -> Cell:
    """Diagonal linear recurrence, s^t = λ s^{t-1} + a^t with λ = decay · exp(i·frequency), h = Re s.

    All recurrence is implicit (there is no `w_rec`), so e-prop is exact here.

    Args:
      n_in, n_units: sizes.
      decay: |λ| in [0, 1], a number or [n], which may be traced; default: spread evenly from 0.5 to
        0.99. 1 is an undamped oscillator, or an integrator at frequency 0.
      frequency: the phase of λ in radians a step, a number or [n].
      trainable: from ("decay", "frequency", "initial", "initial.re", "initial.im"); the decay is
        stored as log(−1/log|λ|), which keeps |λ| in (0, 1); the initial state as in `custom`.
      gain_in, w_in: as in `custom`.

    Raises:
      TypeError, ValueError: as `custom`, and for a decay outside [0, 1], or in (0, 1) where it is
        trained; when parameters are drawn or first used, for one that rounds to 1 in their dtype.

    >>> import jax, eprop_jax as ej
    >>> sorted(ej.cells.linear_recurrence(n_in=3, n_units=4).init(jax.random.key(0)))
    ['bias', 'w_in']
    """
    n = checks.size("n_units", n_units)
    decay = np.linspace(0.5, 0.99, n) if decay is None else decay
    unit = Units(n, 1.0, trainable, ("decay", "frequency"), initial_of(ComplexState(0.0, 0.0)))
    radius = unit.decay("decay", "radius", None, decay, "decay")
    phase = unit.real("frequency", frequency)

    def dynamics(theta, c, a):
        s = _rotated(c, radius(theta), phase(theta))
        return ComplexState(re=s.re + a, im=s.im)

    cell = custom(
        n_in,
        n_units,
        dynamics,
        lambda theta, c: c.re,
        ComplexState(re=0.0, im=0.0),
        drives=("w_in", "bias"),
        theta=unit.theta,
        constants=unit.constants,
        gain_in=gain_in,
        w_in=w_in,
        trainable=unit.initial,
    )
    return unit.finish(cell, "linear_recurrence")


def lru(
    n_in: int,
    n_units: int,
    *,
    decay: Any = None,
    frequency: Any = None,
    r_min: float = 0.0,
    r_max: float = 1.0,
    max_phase: float = 2 * np.pi,
    trainable: tuple[str, ...] = ("decay", "frequency", "gamma"),
    gain_in: float = 1.0,
    w_in: Kind | None = None,
) -> Cell:
    """Linear recurrent units (Orvieto et al. 2023): `linear_recurrence` whose input is complex and
    normalised, and whose λ begins on a ring.

    s^t = λ s^{t-1} + γ (a_re^t + i a_im^t),  λ = exp(−exp(ν) + i θ),  h = Re s.

    All recurrence is implicit (there is no `w_rec`), so e-prop is exact here. The paper reads Re(C s)
    with a complex C; here the weights of the input have the phase, those of what hears h are real.

    Args:
      n_in, n_units: sizes.
      decay: |λ| in (0, 1), a number or [n]; default: |λ|² evenly spread from r_min² to r_max², which is
        how it is distributed where λ is drawn uniformly from the ring.
      frequency: θ, the phase of λ in radians a step, a number or [n]; default: spread over
        [0, max_phase) by the golden ratio, so that neighbours in |λ| differ in phase.
      r_min, r_max, max_phase: of the ring, 0 <= r_min < r_max <= 1. The paper draws λ at random there.
      trainable: from ("decay", "frequency", "gamma", "initial", "initial.re", "initial.im"); the first
        three by default, as in the paper. The decay is stored as −ν = log(−1/log|λ|), which keeps
        |λ| in (0, 1), γ as its logarithm; it begins at √(1 − |λ|²).
      gain_in: initial weights are normal with standard deviation gain/√(2 n_in), "re" and "im" each.
      w_in: as in `custom`.

    Raises:
      TypeError, ValueError: as `custom`, and for a decay outside (0, 1) or numbers that are no ring;
        when parameters are drawn or first used, for a decay that rounds to 1 in their dtype.

    >>> import jax, eprop_jax as ej
    >>> params = ej.cells.lru(n_in=3, n_units=4, r_min=0.9, r_max=0.999).init(jax.random.key(0))
    >>> jax.tree.map(lambda x: x.shape, params["w_in"]), sorted(params["theta"])
    ({'im': (3, 4), 're': (3, 4)}, ['decay', 'frequency', 'gamma'])
    """
    n = checks.size("n_units", n_units)
    low, high, turn = (
        checks.nonnegative(name, checks.number(name, x))
        for name, x in (("r_min", r_min), ("r_max", r_max), ("max_phase", max_phase))
    )
    if not low < high <= 1:
        raise ValueError(f"r_min, r_max: got {low}, {high}, wanted 0 <= r_min < r_max <= 1")
    if decay is None:
        decay = np.sqrt(low**2 + (high**2 - low**2) * (np.arange(n) + 0.5) / n)
    if frequency is None:
        frequency = turn * np.mod(np.arange(n) * (np.sqrt(5) - 1) / 2, 1.0)
    names = ("decay", "frequency", "gamma")
    unit = Units(n, 1.0, trainable, names, initial_of(ComplexState(0.0, 0.0)))
    radius = unit.decay("decay", "radius", None, decay, "decay")
    unit.rest("decay", "radius")  # refuses |λ| = 1, whose γ would be 0
    phase = unit.real("frequency", frequency)
    d = unit.decays["radius"]
    gamma = unit.positive("gamma", (d.rest * (1.0 + d.factor)) ** 0.5)

    def dynamics(theta, c, a):
        s, g = _rotated(c, radius(theta), phase(theta)), gamma(theta)
        return ComplexState(re=s.re + g * a["re"], im=s.im + g * a["im"])

    cell = custom(
        n_in,
        n_units,
        dynamics,
        lambda theta, c: c.re,
        ComplexState(re=0.0, im=0.0),
        drives={"re": ("w_in", "bias"), "im": ("w_in", "bias")},
        theta=unit.theta,
        constants=unit.constants,
        gain_in=checks.nonnegative("gain_in", checks.number("gain_in", gain_in)) / 2**0.5,
        w_in=w_in,
        trainable=unit.initial,
    )
    return unit.finish(cell, "lru")


def _rotated(c: ComplexState, radius: Any, phase: Any) -> ComplexState:
    """λ s, with λ = radius · exp(i·phase)."""
    re, im = radius * jnp.cos(phase), radius * jnp.sin(phase)
    return ComplexState(re=re * c.re - im * c.im, im=im * c.re + re * c.im)
