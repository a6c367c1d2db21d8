"""NIR graph -> network and parameters."""

from __future__ import annotations

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax import checks
from eprop_jax.interop.nir import graph as graphs
from eprop_jax.interop.nir import maps, units
from eprop_jax.interop.nir.plan import Layer, Line, Plan, plan
from eprop_jax.interop.nir.steps import SCHEMES
from eprop_jax.network import surrogates
from eprop_jax.network.types import Cell, Network


def read(
    graph: Any,
    dt: float,
    *,
    discretise: str = "exact",
    reset: str = "value",
    surrogate: surrogates.PseudoDerivative | None = None,
    reset_gradient: bool = False,
) -> tuple[Network, dict]:
    """A NIR graph (Pedersen et al. 2024) as a network and its parameters.

    A neuron is a layer, a chain of maps that leads to it the synapses of its w_in or w_rec, an LI, I,
    Affine or Linear at the end the read-out; docs/NIR.md has the table. What leads from a node to
    itself is heard one step later, all else within the step. Constants of neurons are not trained.

    Args:
      graph: a `nir.NIRGraph`, or the path of a file that `nir.write` made.
      dt: step in seconds, as NIR's times are; other cells of this library count in ms.
      discretise: "exact", the solution for a signal that is constant over the step, or "euler".
      reset: what a spike does to v. "value": sets it to v_reset, as NIR says. "subtract": takes
        v_threshold − v_reset from it at once. "subtract_late": takes that at the next step beside the
        leak, as snnTorch and `ej.cells.lif` do.
      surrogate: ψ, a function of v − v_threshold; default `piecewise_linear(0.3/w, w)` of each unit's
        own w = |v_threshold| (1 where that is 0).
      reset_gradient: False: no gradient through the z of the reset.

    Returns:
      (net, params). net hears the Input's values, flattened, and params are in JAX's default dtype.

    Raises:
      FileNotFoundError: for a path at which there is no file.
      TypeError, ValueError: for an argument of the wrong kind, or a file that holds no graph; for what
        the graph has and the library has not, by the node's name (of nested graphs "outer.inner").

    >>> import nir, numpy as np
    >>> from eprop_jax.interop.nir import read
    >>> one = np.ones(3)
    >>> graph = nir.NIRGraph.from_list(
    ...     nir.Affine(np.ones((3, 2)), np.zeros(3)),
    ...     nir.LIF(tau=0.02 * one, r=one, v_leak=0 * one, v_threshold=one),
    ...     nir.Linear(np.ones((1, 3))), nir.LI(0.02 * one[:1], one[:1], 0 * one[:1]))
    >>> net, params = read(graph, dt=1e-3)
    >>> net
    Network(LIF 2 -> 3, LI 3 -> 1)
    >>> params["cell"]["w_in"].shape, params["readout"]["w_out"].shape
    ((2, 3), (3, 1))
    """
    checks.positive("dt", checks.number("dt", dt))
    scheme = SCHEMES[checks.one_of("discretise", discretise, SCHEMES)]
    checks.one_of("reset", reset, units.RESETS)
    checks.flag("reset_gradient", reset_gradient)
    if surrogate is not None:
        surrogates.spike(checks.is_callable("surrogate", surrogate))
    ways = units.Ways(float(dt), scheme, reset, surrogate, bool(reset_gradient))
    found = plan(graphs.flat(loaded("graph", graph)), ways.dt)
    net = network(found, ways)
    return net, parameters(found)


def loaded(name: str, graph: Any) -> Any:
    """The graph of a file, or the graph."""
    if isinstance(graph, (str, os.PathLike)):
        import nir

        if not os.path.isfile(graph):
            raise FileNotFoundError(
                f"{name}: got {str(graph)!r}, where there is no file, wanted {WANTED}"
            )
        try:
            return nir.read(os.fspath(graph), type_check=False)
        except (OSError, KeyError, AssertionError) as error:  # no HDF5, no graph, an unknown node
            got = f"{str(graph)!r}, of which the package nir reads no graph"
            raise ValueError(f"{name}: got {got}, wanted {WANTED}") from error
    if graphs.kind(graph) != "NIRGraph":
        raise TypeError(f"{name}: got {graphs.kind(graph)}, wanted {WANTED}")
    return graph


WANTED = "a nir.NIRGraph, or the path of a file that nir.write made"


def network(found: Plan, ways: units.Ways) -> Network:
    graph = found.graph
    places: dict[str, Any] = {layer.name: l for l, layer in enumerate(found.layers)}
    places[graph.source] = "x"
    cells = [_cell(found, layer, ways) for layer in found.layers]
    inputs = [tuple(places[k] for k in layer.inward.sources) for layer in found.layers]
    reads = tuple(places[k] for k in found.outward.sources)
    n_read = sum(graph.size(k) for k in found.outward.sources)
    kind, bias = _kind(found, found.outward), found.outward.biased is not None
    if found.readout:
        readout = units.readout(graph, found.readout, ways, n_read, bias, kind)
    else:
        readout = units.linear(n_read, graph.size(graph.sink), bias, kind)
    if len(cells) == 1 and inputs == [("x",)] and reads == (0,):
        return Network(cells[0], readout)
    return Network(cells, readout, inputs=inputs, reads=reads)


def _kind(found: Plan, line: Line) -> maps.Kind:
    """Matrices that stand below each other are one."""
    return maps.kind_of(found.graph, line.weighted[0] if line.weighted else None, line.sums)


def _cell(found: Plan, layer: Layer, ways: units.Ways) -> Cell:
    graph, name, back = found.graph, layer.name, layer.recurrent
    n_in = sum(graph.size(k) for k in layer.inward.sources)
    lines = {"w_in": _kind(found, layer.inward)} | ({"w_rec": _kind(found, back)} if back else {})
    bias = any(line.biased for line in (layer.inward, back) if line)
    drives: Any = (*lines, *(("bias",) if bias else ()))
    if graph.kind(name) in graphs.MAPS:
        return units.between(n_in, graph.size(name), graph.kind(name), drives, **lines)
    if layer.gated:
        drives = {"in": ("w_in", "bias"), "rec": ("w_rec", "bias")}
    return units.cell(graph, name, ways, n_in, drives, **lines)


# -- parameters ------------------------------------------------------------------------------------


def parameters(found: Plan) -> dict:
    """{"cell": …, "readout": …}, as `net.init` would draw them."""
    layers = tuple(layer_parameters(found, layer) for layer in found.layers)
    out = {"w_out": weights(found, found.outward)}
    if found.outward.biased:
        out["bias"] = bias(found, found.outward.biased)
    tree = {"cell": layers if _stacked(found) else layers[0], "readout": out}
    dtype = jnp.zeros(()).dtype
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x), dtype), tree)


def _stacked(found: Plan) -> bool:
    return len(found.layers) > 1


def layer_parameters(found: Plan, layer: Layer) -> dict:
    back = layer.recurrent
    p: dict[str, Any] = {"w_in": weights(found, layer.inward)}
    p |= {"w_rec": weights(found, back)} if back else {}
    named = {"in": layer.inward.biased, "rec": back.biased if back else None}
    biases = {gate: bias(found, name) for gate, name in named.items() if name}
    if layer.gated:
        return {"w_in": {"in": p["w_in"]}, "w_rec": {"rec": p["w_rec"]}, "bias": biases}
    (only,) = biases.values() if biases else (None,)
    return p if only is None else p | {"bias": only}


def weights(found: Plan, line: Line) -> np.ndarray:
    parts = [_weight(found.graph, name) for name in line.weighted]
    return np.concatenate(parts) if parts else np.zeros(0)


def _weight(graph: graphs.Graph, name: str) -> np.ndarray:
    node, kind = graph.nodes[name], graph.kind(name)
    if kind == "Scale":
        return units.values(graph, name)["scale"]
    return maps.to_here(kind, _finite(name, "weight", node.weight))


def bias(found: Plan, name: str) -> np.ndarray:
    """[n]; of a convolution its channels', at each place."""
    graph = found.graph
    b = _finite(name, "bias", graph.nodes[name].bias)
    return np.repeat(b, graph.size(name) // len(b))


def _finite(name: str, field: str, value: Any) -> np.ndarray:
    value = np.asarray(value, float)
    if not np.all(np.isfinite(value)):
        raise graphs.refuse(name, f"{field} with nan or inf", "finite numbers")
    return value
