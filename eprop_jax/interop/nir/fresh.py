"""A new NIR graph of a network of this library's cells.

Their decays are numbers, NIR's times are not: with "exact" τ = −dt/log α, with "euler" τ = dt/(1 − α).
A drive that a cell adds to v undamped is R = 1/(1 − α) in NIR, or 1/dt where there is no leak.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax.network import unitwise
from eprop_jax.network.types import Cell, Network, by_layer

TAU = {
    "exact": lambda alpha, dt: -dt / np.log(alpha),
    "euler": lambda alpha, dt: dt / (1 - alpha),
}


class Unit(NamedTuple):
    """A cell or a read-out as numbers, [n] in float64."""

    where: str
    dt: float
    discretise: str
    reset: str
    theta: Mapping[str, np.ndarray]
    """constants and trained values, as they are stored"""
    trained: Any
    """the names of the trained"""
    heard: Any
    """what a drive of 1 adds to each component of the state"""

    def value(self, name: str) -> np.ndarray:
        """A value that may be trained: v_th as its logarithm."""
        trained_log = name in self.trained and name == "v_th"
        return np.exp(self.theta[name]) if trained_log else self.theta[name]

    def decay(self, name: str, tau: str) -> np.ndarray:
        """α, which is trained as log(τ/dt)."""
        return np.exp(-np.exp(-self.theta[tau])) if tau in self.trained else self.theta[name]

    def time(self, name: str, tau: str) -> tuple[np.ndarray, np.ndarray]:
        """(τ in s, 1 − α)"""
        alpha = self.decay(name, tau)
        if np.any((alpha <= 0) | (alpha >= 1)):
            raise self.refuse(f"a decay {name} of {alpha}", "decays between 0 and 1")
        return TAU[self.discretise](alpha, self.dt), 1 - alpha

    def refuse(self, got: str, wanted: str) -> ValueError:
        return ValueError(f"net: got {got} in {self.where}, wanted {wanted}")


def graph(net: Network, params: dict, dt: float, discretise: str, reset: str) -> Any:
    """nir.NIRGraph, with nodes in_l, cell_l, rec_l a layer (in_l_k where several are heard)."""
    import nir

    nodes: dict[str, Any] = {"input": nir.Input({"input": np.array([net.n_in])})}
    edges: list[tuple[str, str]] = []
    size = {"x": net.n_in, **{l: cell.n_units for l, cell in enumerate(net.cells)}}
    name_of = {"x": "input", **{l: f"cell_{l}" for l in range(len(net.cells))}}

    def line(layer, line, p, sources, to, name):
        s, w = layer.synapses[line], np.asarray(p[line]) if line in p else None
        bias = np.asarray(p["bias"]) if "bias" in p and line != "w_rec" else None
        where = f"{line} of {to}"
        if w is None or not s.matrix:
            raise ValueError(f"net: got {s.name} synapses as {where}, wanted matrices (or like=)")
        w = w if s.exists is None else np.where(s.exists, w, 0)
        at = 0
        for k in sources:
            mine = name if len(sources) == 1 else f"{name}_{k}"
            part, at = w[at : at + size[k]].T.copy(), at + size[k]
            nodes[mine] = nir.Linear(part) if bias is None else nir.Affine(part, bias)
            bias, heard = None, name_of[k]
            if s.delay:
                nodes[f"{mine}_delay"] = nir.Delay(np.full(size[k], s.delay * dt))
                edges.append((heard, f"{mine}_delay"))
                heard = f"{mine}_delay"
            edges.extend([(heard, mine), (mine, to)])

    for l, (cell, p) in enumerate(zip(net.cells, by_layer(net, params["cell"]))):
        if cell.name not in NODES:
            known = ", ".join(NODES)
            raise ValueError(
                f"net: got the cell {cell.name} in layer {l}, wanted {known} (or like=)"
            )
        unit = Unit(f"layer {l}", dt, discretise, reset, *_values(cell, p))
        if "initial" in p:
            raise unit.refuse("a trained initial state", "none: NIR has no initial states")
        nodes[f"cell_{l}"] = NODES[cell.name](unit, cell, p)
        line(cell, "w_in", p, net.inputs[l], f"cell_{l}", f"in_{l}")
        if "w_rec" in p:
            line(cell, "w_rec", p, (l,), f"cell_{l}", f"rec_{l}")
    readout, p, end = net.readout, params["readout"], "output"
    if readout.name != "linear":
        if readout.name != "leaky":
            raise ValueError(
                f"net: got the read-out {readout.name}, wanted linear or leaky (or like=)"
            )
        unit = Unit("the read-out", dt, discretise, reset, *_values(unitwise.as_cell(readout), p))
        nodes["readout"], end = _leaky(unit), "readout"
        edges.append(("readout", "output"))
    nodes["output"] = nir.Output({"output": np.array([readout.n_out])})
    line(readout, "w_out", p, net.reads, end, "out")
    return nir.NIRGraph(nodes, edges)


def _values(cell: Cell, p: dict) -> tuple[dict, Any, Any]:
    """The numbers of a unit; what its drive does is tried, as no constant need say whether a decay
    scales it."""
    trained = p.get("theta", {})
    wide = lambda x: np.broadcast_to(np.asarray(x, float), (cell.n_units,)).copy()
    zero = jax.tree.map(jnp.zeros_like, cell.initial_state(p, ()))
    # The derivative, as the difference of two states has lost digits to v_leak.
    one = jnp.ones((cell.n_units,), jax.tree.leaves(p)[0].dtype)
    of_drive = lambda a: unitwise.dynamics(cell, p, zero, a)
    _, heard = jax.jvp(of_drive, (jnp.zeros_like(one),), (one,))
    heard = jax.tree.map(
        lambda x: None if x.dtype == jax.dtypes.float0 else np.asarray(x, float), heard
    )
    return {k: wide(x) for k, x in {**cell.constants, **trained}.items()}, trained, heard


def _spike(unit: Unit) -> dict[str, Any]:
    to_value = "v_reset" in unit.theta
    does = "value" if to_value else "subtract_late"
    if unit.reset != does:
        raise ValueError(
            f"reset: got {unit.reset!r}, wanted {does!r}, which is what a spike does in {unit.where}"
        )
    v_th = unit.value("v_th")
    reset = unit.theta["v_reset"] if to_value else np.zeros_like(v_th)
    return {"v_threshold": v_th, "v_reset": np.asarray(reset)}


def _lif(unit: Unit, cell: Cell, p: dict) -> Any:
    import nir

    if not isinstance(cell.initial_state(p, ()).r, tuple):
        raise unit.refuse("a refractory time", "none, which NIR's LIF does not have")
    v = unit.heard.v
    if np.all(unit.decay("alpha", "tau_m") == 1):
        return nir.IF(r=v / unit.dt, **_spike(unit))
    tau, rest = unit.time("alpha", "tau_m")
    return nir.LIF(tau=tau, r=v / rest, v_leak=np.zeros_like(tau), **_spike(unit))


def _cuba_lif(unit: Unit, cell: Cell, p: dict) -> Any:
    import nir

    if unit.discretise != "euler":
        raise ValueError(
            f"discretise: got {unit.discretise!r}, wanted 'euler': the voltage of cuba_lif in "
            f"{unit.where} hears the current of the same step"
        )
    (tau_syn, rest_syn), (tau, rest) = (
        unit.time("alpha_syn", "tau_syn"),
        unit.time("alpha", "tau_m"),
    )
    v, i = unit.heard.v, unit.heard.i
    return nir.CubaLIF(
        tau_syn=tau_syn, tau_mem=tau, r=v / i / rest, v_leak=unit.value("v_leak"), w_in=i / rest_syn,
        **_spike(unit),
    )  # fmt: skip


def _integrate_fire(unit: Unit, cell: Cell, p: dict) -> Any:
    import nir

    return nir.IF(r=unit.heard.v / unit.dt, **_spike(unit))


def _li(unit: Unit, cell: Cell, p: dict) -> Any:
    import nir

    tau, rest = unit.time("alpha", "tau_m")
    return nir.LI(tau=tau, r=unit.heard.v / rest, v_leak=unit.value("v_leak"))


def _leaky(unit: Unit) -> Any:
    import nir

    if np.all(unit.decay("kappa", "tau") == 1):
        return nir.I(r=unit.heard / unit.dt)
    tau, rest = unit.time("kappa", "tau")
    return nir.LI(tau=tau, r=unit.heard / rest, v_leak=np.zeros_like(tau))


NODES = {"lif": _lif, "cuba_lif": _cuba_lif, "integrate_fire": _integrate_fire, "li": _li}
"""By a cell's name."""
