"""The neurons. Each is a few lines of one unit's dynamics; the library does the rest.

What a cell puts inside `dynamics` is its *implicit* recurrence (every rule keeps it); what reaches
it through `w_rec`, its own output included, is *explicit* (e-prop cuts it). Each docstring says
which is which. Weights are [pre, post]; n units, n_in inputs; time constants share dt's unit (ms).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax import checks, surrogates
from eprop_jax.base import Array, Cell

LINES = ("w_in", "w_rec", "bias")


def custom(
    n_in: int,
    n_units: int,
    dynamics: Callable[[dict, Any, Any], Any],
    output: Callable[[dict, Any], Array],
    state: Any,
    *,
    drives: Mapping[str, tuple[str, ...]] | tuple[str, ...] = LINES,
    theta: Mapping[str, Any] | None = None,
    constants: Mapping[str, Any] | None = None,
    connectivity: Any = None,
    self_connections: bool = True,
    gain_in: float = 1.0,
    gain_rec: float = 1.0,
) -> Cell:
    """Your own neuron: write one unit, get every learning rule.

    Args:
      n_in, n_units: sizes.
      dynamics: (theta_j, c_j^{t-1}, a_j^t) -> c_j^t for one unit; all leaves are scalars. `a_j` is
        the drive Σ_i pre_i w_ij, or a dict of drives.
      output: (theta_j, c_j^t) -> h_j^t for one unit, a scalar.
      state: the initial state of one unit, a pytree of numbers such as `State(v=0.0, a=0.0)`. An
        int is a component without gradient and without trace (a counter).
      drives: which lines make up the drive, from ("w_in", "w_rec", "bias"); or a dict of drives,
        {name: lines}, for a cell with gates.
      theta: {name: initial value, a number or [n]}: per-unit parameters, trained by every rule.
      constants: {name: a number or [n]}: per-unit values that are not trained. `dynamics` and
        `output` find both in `theta_j`.
      connectivity: bool [n, n], which recurrent synapses [pre, post] exist; None: all.
      self_connections: False removes the diagonal of `w_rec`.
      gain_in, gain_rec: initial weights are normal with standard deviation gain/√fan_in.

    Raises:
      TypeError, ValueError: for an argument of the wrong kind, shape or name.

    >>> import jax, jax.numpy as jnp, eprop_jax as ej
    >>> cell = ej.cells.custom(
    ...     n_in=3, n_units=4, state=0.0, theta={"decay": 0.9},
    ...     dynamics=lambda theta, c, a: theta["decay"] * c + a,
    ...     output=lambda theta, c: jnp.tanh(c))
    >>> jax.tree.map(jnp.shape, cell.init(jax.random.key(0)))
    {'bias': (4,), 'theta': {'decay': (4,)}, 'w_in': (3, 4), 'w_rec': (4, 4)}
    """
    n_in, n = checks.size("n_in", n_in), checks.size("n_units", n_units)
    checks.is_callable("dynamics", dynamics)
    checks.is_callable("output", output)
    checks.nonnegative("gain_in", gain_in)
    checks.nonnegative("gain_rec", gain_rec)
    gated = isinstance(drives, Mapping)
    for name, lines in (drives if gated else {"": drives}).items():
        checks.names(f"drives[{name!r}]" if gated else "drives", lines, LINES)
    theta = {k: checks.per_unit(f"theta[{k!r}]", v, n) for k, v in (theta or {}).items()}
    constants = {k: checks.per_unit(f"constants[{k!r}]", v, n) for k, v in (constants or {}).items()}
    both = sorted(theta.keys() & constants.keys())
    if both:
        raise ValueError(f"theta, constants: {both} stand in both; a value is trained or it is not")
    mask = None if connectivity is None else checks.mask("connectivity", connectivity, n)
    if not self_connections:
        mask = (np.ones((n, n), bool) if mask is None else mask) & ~np.eye(n, dtype=bool)

    def init(key):
        def weights(line, key):
            if line == "bias":
                return jnp.zeros(n)
            fan_in, gain = (n_in, gain_in) if line == "w_in" else (n, gain_rec)
            w = jax.random.normal(key, (fan_in, n)) * (gain / fan_in**0.5)
            return w if line == "w_in" or mask is None else jnp.where(mask, w, 0.0)

        params = {}
        for line, k_line in zip(LINES, jax.random.split(key, len(LINES))):
            if gated:
                names = [name for name, lines in drives.items() if line in lines]
                keys = jax.random.split(k_line, max(len(names), 1))
                gates = {name: weights(line, k) for name, k in zip(names, keys)}
                params |= {line: gates} if gates else {}
            elif line in drives:
                params[line] = weights(line, k_line)
        if theta:
            params["theta"] = {k: jnp.asarray(v, params["w_in"].dtype) if "w_in" in params else
                               jnp.asarray(v, float) for k, v in theta.items()}
        return params

    def initial_state(params, batch_shape):
        dtype = compute_dtype(params)

        def full(value):
            integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
            return jnp.full((*batch_shape, n), value, jnp.int32 if integer else dtype)

        return jax.tree.map(full, state)

    return Cell(init, initial_state, dynamics, output, constants, n_in, n, mask)


def compute_dtype(params) -> Any:
    """The dtype of states and traces: the parameters', but at least float32."""
    return jnp.promote_types(jax.tree.leaves(params)[0].dtype, jnp.float32)


# -- rate cells -----------------------------------------------------------------------------------


def rnn(
    n_in: int, n_units: int, *, activation: Callable[[Array], Array] = jnp.tanh, **options
) -> Cell:
    """Elman network: c^t = W_in x^t + W_rec h^{t-1} + b, h^t = φ(c^t).

    All recurrence is explicit: there is no implicit path, so D = 0 and e-prop sees one step.

    Args:
      n_in, n_units: sizes.
      activation: φ, elementwise.
      **options: `connectivity`, `self_connections`, `gain_in`, `gain_rec` as in `custom`.

    Raises:
      TypeError, ValueError: as `custom`.

    >>> import eprop_jax as ej
    >>> ej.cells.rnn(n_in=3, n_units=4).n_units
    4
    """
    checks.is_callable("activation", activation)
    return custom(
        n_in, n_units, lambda theta, c, a: a, lambda theta, c: activation(c), 0.0, **options
    )


def leaky_rnn(
    n_in: int,
    n_units: int,
    *,
    tau: Any = 20.0,
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
      tau: time constant in ms, a number or [n]; α = exp(−dt/τ).
      decay: α itself, instead of `tau`.
      dt: step in ms.
      activation: φ, elementwise.
      trainable: ("tau",) trains τ per unit, stored as log(τ/dt), so that it stays positive.
      **options: `connectivity`, `self_connections`, `gain_in`, `gain_rec` as in `custom`.

    Raises:
      TypeError, ValueError: as `custom`, and for τ ≤ 0 or a decay outside [0, 1).

    >>> import jax, eprop_jax as ej
    >>> cell = ej.cells.leaky_rnn(n_in=3, n_units=4, tau=10.0, trainable=("tau",))
    >>> float(cell.init(jax.random.key(0))["theta"]["tau"][0])  # log(10)
    2.3025851249694824
    """
    unit = _Units(n_units, dt, trainable, ("tau",))
    alpha = unit.decay("tau", "alpha", tau, decay, "decay")
    checks.is_callable("activation", activation)

    def dynamics(theta, c, a):
        return alpha(theta) * c + (1 - alpha(theta)) * a

    return custom(
        n_in,
        n_units,
        dynamics,
        lambda theta, c: activation(c),
        0.0,
        theta=unit.theta,
        constants=unit.constants,
        **options,
    )


class LSTMState(NamedTuple):
    s: Any
    """cell state"""
    o: Any
    """output gate: part of the state, so that h = o·tanh(s) is a function of c alone"""


def lstm(n_in: int, n_units: int, *, forget_bias: float = 1.0, **options) -> Cell:
    """LSTM (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000).

    s^t = σ(a_f + forget_bias) s^{t-1} + σ(a_i) tanh(a_g),  o^t = σ(a_o),  h^t = o^t tanh(s^t).

    Implicit: s^{t-1} → s^t. Explicit: h^{t-1} into the four gates i, f, g, o.

    Args:
      n_in, n_units: sizes.
      forget_bias: added to the forget gate's drive.
      **options: `connectivity`, `self_connections`, `gain_in`, `gain_rec` as in `custom`.

    Raises:
      TypeError, ValueError: as `custom`.

    >>> import jax, eprop_jax as ej
    >>> sorted(ej.cells.lstm(n_in=3, n_units=4).init(jax.random.key(0))["w_rec"])
    ['f', 'g', 'i', 'o']
    """
    checks.finite("forget_bias", forget_bias)

    def dynamics(theta, c, a):
        s = jax.nn.sigmoid(a["f"] + forget_bias) * c.s + jax.nn.sigmoid(a["i"]) * jnp.tanh(a["g"])
        return LSTMState(s=s, o=jax.nn.sigmoid(a["o"]))

    return custom(
        n_in,
        n_units,
        dynamics,
        lambda theta, c: c.o * jnp.tanh(c.s),
        LSTMState(s=0.0, o=0.0),
        drives={gate: LINES for gate in "ifgo"},
        **options,
    )


def gru(n_in: int, n_units: int, **options) -> Cell:
    """GRU, reset-after form (cuDNN's; Cho et al. 2014), which is unit-local.

    r = σ(a_r), z = σ(a_z), n = tanh(a_n + r·a_hn), h^t = (1−z) n + z h^{t-1};
    a_n holds the input's part (W x + b) and a_hn the recurrent part (U h + b) of the candidate.

    Implicit: z h^{t-1}. Explicit: h^{t-1} into r, z and hn.

    Args:
      n_in, n_units: sizes.
      **options: `connectivity`, `self_connections`, `gain_in`, `gain_rec` as in `custom`.

    Raises:
      TypeError, ValueError: as `custom`.

    >>> import jax, eprop_jax as ej
    >>> params = ej.cells.gru(n_in=3, n_units=4).init(jax.random.key(0))
    >>> sorted(params["w_in"]), sorted(params["w_rec"])
    (['n', 'r', 'z'], ['hn', 'r', 'z'])
    """

    def dynamics(theta, h, a):
        z = jax.nn.sigmoid(a["z"])
        return (1 - z) * jnp.tanh(a["n"] + jax.nn.sigmoid(a["r"]) * a["hn"]) + z * h

    return custom(
        n_in,
        n_units,
        dynamics,
        lambda theta, h: h,
        0.0,
        drives={"r": LINES, "z": LINES, "n": ("w_in", "bias"), "hn": ("w_rec", "bias")},
        **options,
    )


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
) -> Cell:
    """Diagonal linear recurrence, s^t = λ s^{t-1} + a^t with λ = decay · exp(i·frequency), h = Re s.

    All recurrence is implicit (there is no `w_rec`), so e-prop is exact here.

    Args:
      n_in, n_units: sizes.
      decay: |λ| in [0, 1), a number or [n]; default: spread evenly from 0.5 to 0.99.
      frequency: the phase of λ in radians a step, a number or [n].
      trainable: from ("decay", "frequency"); the decay is stored as log(−1/log|λ|), which keeps
        |λ| in (0, 1).
      gain_in: as in `custom`.

    Raises:
      TypeError, ValueError: as `custom`, and for a decay outside [0, 1).

    >>> import jax, eprop_jax as ej
    >>> sorted(ej.cells.linear_recurrence(n_in=3, n_units=4).init(jax.random.key(0)))
    ['bias', 'w_in']
    """
    n = checks.size("n_units", n_units)
    decay = np.linspace(0.5, 0.99, n) if decay is None else decay
    unit = _Units(n, 1.0, trainable, ("decay", "frequency"))
    radius = unit.decay("decay", "radius", None, decay, "decay")
    phase = unit.real("frequency", frequency)

    def dynamics(theta, c, a):
        re, im = radius(theta) * jnp.cos(phase(theta)), radius(theta) * jnp.sin(phase(theta))
        return ComplexState(re=re * c.re - im * c.im + a, im=im * c.re + re * c.im)

    return custom(
        n_in,
        n_units,
        dynamics,
        lambda theta, c: c.re,
        ComplexState(re=0.0, im=0.0),
        drives=("w_in", "bias"),
        theta=unit.theta,
        constants=unit.constants,
        gain_in=gain_in,
    )


# -- spiking cells --------------------------------------------------------------------------------


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
        raise TypeError(f"{min(unknown)}: lif has no adaptation; use ej.cells.alif")
    return _spiking(n_in, n_units, adaptive=False, **options)


def alif(
    n_in: int,
    n_units: int,
    *,
    tau_m: Any = 20.0,
    tau_a: Any = 200.0,
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
    zero while the unit is refractory.

    Implicit: the leaks, the unit's own spike into its adaptation, and its reset. Explicit:
    everything through W_rec, the self-connection w_jj included.

    Args:
      n_in, n_units: sizes.
      tau_m, tau_a: time constants of voltage and adaptation in ms, numbers or [n]; α = exp(−dt/τ_m),
        ρ = exp(−dt/τ_a).
      alpha, rho: the decay factors themselves, instead of the time constants.
      beta: adaptation strength β, a number or [n] (0 for units that do not adapt); default
        1.7 (1−ρ)/(1−α) v_th, the ratio that Bellec et al. take.
      v_th: threshold, in the units of v, a number or [n].
      dt: step in ms.
      refractory: n_ref; after a spike at t, no spike and ψ = 0 at t+1 … t+n_ref−1 (NEST's count).
      scale_input: True multiplies the drive by (1−α).
      reset_gradient: False: no gradient through −v_th z^{t-1} (Bellec et al., NEST).
      surrogate: ψ, a function of v − A; default `piecewise_linear(0.3/v_th, v_th)`.
      trainable: from ("tau_m", "tau_a", "beta", "v_th"). τ is stored as log(τ/dt) and v_th as its
        logarithm, so that both stay positive.
      **options: `connectivity`, `self_connections`, `gain_in`, `gain_rec` as in `custom`.

    Raises:
      TypeError, ValueError: as `custom`, and for τ ≤ 0, a decay outside [0, 1), v_th ≤ 0.

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
    n_in, n_units, *, adaptive, tau_m=20.0, tau_a=200.0, alpha=None, rho=None, beta=None, v_th=1.0,
    dt=1.0, refractory=0, scale_input=False, reset_gradient=False, surrogate=None, trainable=(),
    **options,
):  # fmt: skip
    n = checks.size("n_units", n_units)
    n_ref = checks.steps("refractory", refractory)
    unit = _Units(n, dt, trainable, ("tau_m", "v_th") + (("tau_a", "beta") if adaptive else ()))
    alpha_of = unit.decay("tau_m", "alpha", tau_m, alpha, "alpha")
    threshold = unit.positive("v_th", v_th)
    if adaptive:
        rho_of = unit.decay("tau_a", "rho", tau_a, rho, "rho")
        if beta is None:
            decays = [np.exp(-dt / np.asarray(t)) if d is None else np.asarray(d)
                      for t, d in ((tau_m, alpha), (tau_a, rho))]  # fmt: skip
            beta = 1.7 * (1 - decays[1]) / (1 - decays[0]) * np.asarray(v_th)
        beta_of = unit.real("beta", beta)
    if surrogate is None:
        v_0 = float(np.mean(v_th))
        surrogate = surrogates.piecewise_linear(0.3 / v_0, v_0)
    spike = surrogates.spike(surrogate)

    def output(theta, c):
        barrier = threshold(theta) + (beta_of(theta) * c.a if adaptive else 0.0)
        z = spike(c.v - barrier)
        return jnp.where(c.r == 0, z, jnp.zeros_like(z)) if n_ref else z

    def dynamics(theta, c, drive):
        z = output(theta, c)
        reset = threshold(theta) * z
        reset = reset if reset_gradient else jax.lax.stop_gradient(reset)
        gain = 1 - alpha_of(theta) if scale_input else 1.0
        return SpikingState(
            v=alpha_of(theta) * c.v + gain * drive - reset,
            a=rho_of(theta) * c.a + z if adaptive else (),
            r=jnp.maximum(jnp.where(z > 0, n_ref, c.r) - 1, 0) if n_ref else (),
        )

    state = SpikingState(v=0.0, a=0.0 if adaptive else (), r=0 if n_ref else ())
    return custom(
        n_in, n, dynamics, output, state, theta=unit.theta, constants=unit.constants, **options
    )


# -- per-unit values, trained or not --------------------------------------------------------------


class _Units:
    """Collects a cell's per-unit values while it is built: each becomes a constant, or an entry of
    theta in a form whose whole real line is allowed; what is returned reads it from theta_j."""

    def __init__(self, n: int, dt: float, trainable, allowed):
        self.n, self.dt = checks.size("n_units", n), checks.positive("dt", dt)
        self.trainable = checks.names("trainable", trainable, allowed)
        self.theta: dict[str, np.ndarray] = {}
        self.constants: dict[str, np.ndarray] = {}

    def decay(self, name, symbol, tau, factor, factor_name):
        """exp(−dt/τ). Trained: as u = log(τ/dt), so that exp(−exp(−u)) lies in (0, 1)."""
        if factor is None:
            tau = checks.positive(name, checks.per_unit(name, tau, self.n))
            factor = np.exp(-self.dt / np.asarray(tau, float))
        else:
            factor = checks.decay(factor_name, checks.per_unit(factor_name, factor, self.n))
        if name not in self.trainable:
            self.constants[symbol] = np.asarray(factor, float)
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
