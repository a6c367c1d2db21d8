"""The networks of the suite: each cell and read-out beside its reference."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import reference as ref

import eprop_jax as ej


class CellCase(NamedTuple):
    make: Callable  # (n_in, n) -> ej.Cell
    reference: Callable  # (n) -> ref.Unit
    theta_in_output: bool = False


class ReadoutCase(NamedTuple):
    make: Callable  # (n, n_out) -> ej.Readout
    reference: Callable
    y_0: float = 0.0


def psi(x):
    return ref.arctan(x, 1.0, 0.5)


# Settings with which units spike often and their recurrence matters.
SPIKING = dict(
    v_th=0.3, tau_m=5.0, gain_in=2.0, gain_rec=2.0, surrogate=ej.surrogates.arctan(1.0, 0.5)
)
ALPHA, RHO = float(np.exp(-1 / 5)), float(np.exp(-1 / 8))


def spiking(adaptive=False, **options):
    """LIF or ALIF, and the same options in the reference's words."""
    extra = dict(tau_a=8.0, beta=options.pop("beta", 0.2)) if adaptive else {}
    trained = options.get("trainable", ())

    def make(n_in, n):
        cell = ej.cells.alif if adaptive else ej.cells.lif
        return cell(n_in, n, **SPIKING, **_for_units(extra, n), **options)

    def reference(n):
        beta = _for_units(extra, n).get("beta", 0.0)
        return ref.alif(
            ALPHA,
            RHO if adaptive else None,
            beta,
            0.3,
            n_ref=options.get("refractory", 0),
            scale=options.get("scale_input", False),
            reset_gradient=options.get("reset_gradient", False),
            psi=psi,
        )

    return CellCase(make, reference, "v_th" in trained or "beta" in trained)


def _for_units(options, n):
    return {k: v(n) if callable(v) else v for k, v in options.items()}


def mixed(n):
    return np.where(np.arange(n) % 2 == 0, 0.0, 0.4)


def without_tau(options):
    return {k: v for k, v in options.items() if k != "tau_m"}


# So driven that they spike within a few steps.
WIDE = ej.surrogates.arctan(0.05, 30.0)
ADEX = dict(
    C=200.0, g=20.0, E=-62.0, VT=-50.0, D=5.0, tau=6.0, a=40.0, b=300.0, back=-55.0, peak=-35.0
)  # fmt: skip
FAST = dict(a=0.1, b=0.25, c=-55.0, d=4.0)


def wide(x):
    return ref.arctan(x, 0.05, 30.0)


def adex(trained):
    k = ADEX
    return CellCase(
        lambda n_in, n: ej.cells.adex(
            n_in, n, c_m=k["C"], g_l=k["g"], e_l=k["E"], v_t=k["VT"], delta_t=k["D"], tau_w=k["tau"],
            a=k["a"], b=k["b"], v_reset=k["back"], v_peak=k["peak"], dt=0.5, current=12000.0,
            gain_rec=2.0, surrogate=WIDE, trainable=trained,
        ),
        lambda n: ref.adex(k, wide, dt=0.5, scale=12000.0),
    )  # fmt: skip


def izhikevich(trained, reset_gradient):
    return CellCase(
        lambda n_in, n: ej.cells.izhikevich(
            n_in, n, **FAST, current=60.0, gain_rec=2.0, surrogate=WIDE, trainable=trained,
            reset_gradient=reset_gradient,
        ),
        lambda n: ref.izhikevich(FAST, wide, scale=60.0, reset_gradient=reset_gradient),
    )  # fmt: skip


CELLS = {
    "rnn": CellCase(lambda n_in, n: ej.cells.rnn(n_in, n, gain_rec=1.5), lambda n: ref.rnn()),
    "leaky_rnn": CellCase(
        lambda n_in, n: ej.cells.leaky_rnn(n_in, n, decay=0.6, gain_rec=2.0),
        lambda n: ref.leaky_rnn(0.6),
    ),
    "lif": spiking(),
    "alif": spiking(adaptive=True),
    "lstm": CellCase(lambda n_in, n: ej.cells.lstm(n_in, n, gain_rec=2.0), lambda n: ref.lstm()),
    "gru": CellCase(lambda n_in, n: ej.cells.gru(n_in, n, gain_rec=2.0), lambda n: ref.gru()),
    "linear_recurrence": CellCase(
        lambda n_in, n: ej.cells.linear_recurrence(n_in, n, decay=0.9, frequency=0.4),
        lambda n: ref.linear_recurrence(0.9, 0.4),
    ),
    "cuba_lif": CellCase(
        lambda n_in, n: ej.cells.cuba_lif(n_in, n, tau_syn=8.0, **SPIKING),
        lambda n: ref.currents(ALPHA, RHO, v_th=0.3, psi=psi),
    ),
    "integrate_fire": CellCase(
        lambda n_in, n: ej.cells.integrate_fire(n_in, n, **without_tau(SPIKING)),
        lambda n: ref.currents(1.0, v_th=0.3, psi=psi),
    ),
    "li": CellCase(
        lambda n_in, n: ej.cells.li(n_in, n, alpha=0.6, r=0.5, v_leak=0.2, gain_rec=1.5),
        lambda n: ref.currents(0.6, r=0.5, v_leak=0.2),
    ),
}
VARIANTS = {
    "leaky_rnn, tau trained": CellCase(
        lambda n_in, n: ej.cells.leaky_rnn(
            n_in, n, tau=np.linspace(2.0, 9.0, n), gain_rec=2.0, trainable=("tau",)
        ),
        lambda n: ref.leaky_rnn(None),
    ),
    "linear_recurrence, λ trained": CellCase(
        lambda n_in, n: ej.cells.linear_recurrence(
            n_in, n, frequency=0.4, trainable=("decay", "frequency")
        ),
        lambda n: ref.linear_recurrence(None, None),
    ),
    "lru": CellCase(lambda n_in, n: ej.cells.lru(n_in, n, r_min=0.3), lambda n: ref.lru()),
    "adex": adex(()),
    "adex, all trained": adex(("tau_w", "a", "b", "v_t", "delta_t")),
    "izhikevich": izhikevich((), False),
    "izhikevich, all trained": izhikevich(("a", "b", "c", "d"), True),
    "lif, reset gradient": spiking(reset_gradient=True),
    "lif, refractory": spiking(refractory=3),
    "alif, reset gradient": spiking(adaptive=True, reset_gradient=True),
    "alif, mixed beta": spiking(adaptive=True, beta=mixed),
    "alif, all trained": spiking(
        adaptive=True,
        refractory=2,
        scale_input=True,
        reset_gradient=True,
        trainable=("tau_m", "tau_a", "beta", "v_th"),
    ),
    "cuba_lif, all trained, reset to a value": CellCase(
        lambda n_in, n: ej.cells.cuba_lif(
            n_in, n, tau_syn=8.0, r=np.linspace(1.0, 2.0, n), v_leak=0.1, v_reset=-0.2,
            scale_input=True, reset_gradient=True,
            trainable=("tau_syn", "tau_m", "v_leak", "v_th"), **SPIKING,
        ),
        lambda n: ref.currents(
            ALPHA, RHO, np.linspace(1.0, 2.0, n), 0.1, 0.3, -0.2, True, True, psi
        ),
        theta_in_output=True,
    ),
    "integrate_fire, reset to a value": CellCase(
        lambda n_in, n: ej.cells.integrate_fire(n_in, n, v_reset=0.1, **without_tau(SPIKING)),
        lambda n: ref.currents(1.0, v_th=0.3, v_reset=0.1, psi=psi),
    ),
}  # fmt: skip
READOUTS = {
    "linear": ReadoutCase(lambda n, n_out: ej.readouts.linear(n, n_out), ref.linear),
    "leaky": ReadoutCase(lambda n, n_out: ej.readouts.leaky(n, n_out, kappa=0.7), ref.leaky(0.7)),
    "custom": ReadoutCase(
        lambda n, n_out: ej.readouts.custom(
            n, n_out, lambda phi, y, a: jnp.tanh(phi["g"] * y + a), y_0=0.1, theta={"g": 0.5}
        ),
        lambda p, y, a: jnp.tanh(p["theta"]["g"] * y + a),
        0.1,
    ),
    "leaky, tau trained": ReadoutCase(
        lambda n, n_out: ej.readouts.leaky(
            n, n_out, tau=3.0, scale_input=True, bias=False, trainable=("tau",)
        ),
        ref.leaky(None, scale=True),
    ),
}


class Problem(NamedTuple):
    """A network, its parameters and data, and the reference's answer."""

    net: ej.Network
    params: Any
    xs: jax.Array
    ys: jax.Array
    cell: CellCase
    readout: ReadoutCase

    def reference(self, loss=ref.squared_error, params=None, xs=None, ys=None, **options):
        """(loss, grads) of the cell and the read-out."""
        params = self.params if params is None else params
        return ref.gradient(
            self.cell.reference(self.net.cell.n_units),
            self.readout.reference,
            {k: params[k] for k in ("cell", "readout")},
            self.xs if xs is None else xs,
            self.ys if ys is None else ys,
            loss,
            y_0=self.readout.y_0,
            **options,
        )

    @property
    def exact_order(self):
        """The order that cuts nothing. h⁰ depends on a θ that `output` reads: one jump more."""
        return len(self.xs) + self.cell.theta_in_output


def problem(cell, readout, *, n=3, n_in=2, n_out=2, T=4, batch=(2,), seed=0) -> Problem:
    """A random network of this kind, none of whose parameters is zero."""
    cell, readout = (CELLS | VARIANTS)[cell], READOUTS[readout]
    net = ej.Network(cell.make(n_in, n), readout.make(n, n_out))
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape))

    params = net.init(jax.random.key(seed))
    params = jax.tree.map(lambda p: p + 0.1 * normal(*p.shape), params)
    return Problem(net, params, normal(T, *batch, n_in), normal(T, *batch, n_out), cell, readout)


def without_recurrence(params):
    """The same parameters with W_rec = 0."""
    cell = params["cell"]
    if "w_rec" in cell:
        cell = {**cell, "w_rec": jax.tree.map(jnp.zeros_like, cell["w_rec"])}
    return {**params, "cell": cell}
