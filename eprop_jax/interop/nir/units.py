"""NIR's neurons as cells of one unit's dynamics, and LI and I as read-outs.

    LIF, LI         τ v̇ = v_leak − v + R a            CubaLIF, CubaLI   τ_syn İ = −I + w_in a
    IF, I           v̇ = R a                                             τ_mem v̇ = v_leak − v + R I
    Threshold       z = 1 where a > threshold         z = 1 where v > v_threshold

a is the drive, of weights, recurrence and bias. v and I are 0 before the first step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from eprop_jax.export import register
from eprop_jax.interop.nir.graph import CONSTANTS, Graph, refuse
from eprop_jax.interop.nir.steps import Scheme, coefficients
from eprop_jax.network import cells, readouts, surrogates
from eprop_jax.network.types import Cell, Readout


class UnitState(NamedTuple):
    v: Any
    """voltage after this step's input, before its spike resets it"""
    i: Any = ()
    """synaptic current"""


register(UnitState(v=0.0))  # as `eprop_jax.export` does with the states of the library's cells

# After a spike (z = 1) the voltage that the next step starts from, and what it loses besides.
RESETS: dict[str, Callable] = {
    "value": lambda t, v, z: (v + z * (t["v_reset"] - v), 0.0),
    "subtract": lambda t, v, z: (v - z * (t["v_threshold"] - t["v_reset"]), 0.0),
    "subtract_late": lambda t, v, z: (v, z * (t["v_threshold"] - t["v_reset"])),
}
"""By NIR's own word v becomes v_reset. Others subtract the threshold's distance to it: at once, so that
what is left leaks, or at the next step beside the leak (snnTorch, `ej.cells.lif`)."""

SPIKING = ("LIF", "CubaLIF", "IF")
CURRENT = ("CubaLIF", "CubaLI")


class Ways(NamedTuple):
    """What the caller decides, as NIR does not."""

    dt: float
    """s"""
    scheme: Scheme
    reset: str
    surrogate: surrogates.PseudoDerivative | None
    reset_gradient: bool


def values(graph: Graph, name: str) -> dict[str, np.ndarray]:
    """What a node says of each unit, [n] in float64, by NIR's names."""
    node, n, found = graph.nodes[name], graph.size(name), {}
    for field in CONSTANTS[graph.kind(name)]:
        value = np.asarray(getattr(node, field), float).ravel()
        value = np.broadcast_to(value, (n,)).copy()
        if not np.all(np.isfinite(value)):
            raise refuse(name, f"{field} {value}", "finite numbers")
        if field.startswith("tau") and not np.all(value > 0):
            raise refuse(name, f"{field} {value}", "times above 0, in seconds")
        found[field] = value
    return found


def unit_values(graph: Graph, name: str, ways: Ways) -> dict[str, np.ndarray]:
    """A unit's constants: what the step multiplies, and the voltages of its spike."""
    p, kind = values(graph, name), graph.kind(name)
    for tau in ("tau", "tau_syn", "tau_mem"):
        if tau in p and np.any(np.abs(ways.scheme.leak(p[tau], ways.dt)[0]) > 1):
            raise refuse(name, f"{tau} {p[tau]} s at dt={ways.dt} s", "dt ≤ 2 τ, or 'exact'")
    found = coefficients(kind, p, ways.dt, ways.scheme)
    if kind == "Threshold":
        found["v_threshold"] = p["threshold"]
    if kind in SPIKING:
        found |= {"v_threshold": p["v_threshold"], "v_reset": p["v_reset"]}
    if "v_threshold" in found:
        height = np.abs(found["v_threshold"])
        found["width"] = np.where(height > 0, height, 1.0)
    return found


def cell(
    graph: Graph, name: str, ways: Ways, n_in: int, drives: Mapping | tuple, **lines: Any
) -> Cell:
    """A neuron node, as a layer."""
    kind, n, constants = graph.kind(name), graph.size(name), unit_values(graph, name, ways)
    state = UnitState(v=0.0, i=0.0 if kind in CURRENT else ())

    def dynamics(t, c, a):
        a = sum(a.values()) if isinstance(a, dict) else a
        v, lost = c.v, 0.0
        if kind in SPIKING:
            z = spike(t, c.v, ways.surrogate)
            z = z if ways.reset_gradient else jax.lax.stop_gradient(z)
            v, lost = RESETS[ways.reset](t, c.v, z)
        return UnitState(v=onward(t, v, c.i, a) - lost, i=current(t, c.i, a))

    spikes = kind in (*SPIKING, "Threshold")
    output = lambda t, c: spike(t, c.v, ways.surrogate) if spikes else c.v
    made = cells.custom(
        n_in, n, dynamics, output, state, drives=drives, constants=constants, **lines
    )
    return made._replace(name=kind)


def onward(t: Mapping, v: Any, i: Any, a: Any) -> Any:
    """v one step on, from the voltage that a reset has left; of a Threshold, the drive itself."""
    if "from_a" not in t:
        return a
    kept = v if "alpha" not in t else t["v_leak"] + t["alpha"] * (v - t["v_leak"])
    return kept + t["from_a"] * a + (t["from_i"] * i if "from_i" in t else 0.0)


def current(t: Mapping, i: Any, a: Any) -> Any:
    return t["alpha_syn"] * i + t["into_i"] * a if "into_i" in t else ()


def spike(t: Mapping, v: Any, surrogate: Any) -> Any:
    """1 where v > v_threshold, and 0 at the threshold itself, by NIR's word; its derivative is ψ."""
    x = v - t["v_threshold"]
    psi = (
        surrogates.piecewise_linear(0.3 / t["width"], t["width"])
        if surrogate is None
        else surrogate
    )
    return 1.0 - surrogates.heaviside(-x, psi(x))


def between(n_in: int, n: int, name: str, drives: tuple[str, ...], **lines: Any) -> Cell:
    """A map that is a layer of its own, h^t = a^t."""
    made = cells.custom(
        n_in, n, lambda t, c, a: a, lambda t, c: c, 0.0, drives=drives, shared=("",), **lines
    )
    return made._replace(name=name)


def readout(graph: Graph, name: str, ways: Ways, n_in: int, bias: bool, w_out: Any) -> Readout:
    """LI or I at the end."""
    constants = unit_values(graph, name, ways)
    same = all(np.ptp(constants[k]) == 0 for k in ("alpha", "from_a") if k in constants)
    made = readouts.custom(
        n_in, graph.size(name), lambda t, y, a: onward(t, y, (), a), constants=constants,
        bias=bias, shared=same, w_out=w_out,
    )  # fmt: skip
    return made._replace(name=graph.kind(name))


def linear(n_in: int, n_out: int, bias: bool, w_out: Any) -> Readout:
    return readouts.linear(n_in, n_out, bias=bias, w_out=w_out)
