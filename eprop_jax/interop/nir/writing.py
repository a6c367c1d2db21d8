"""Network and parameters -> NIR graph: into the graph that they were read from, or a new one."""

from __future__ import annotations

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax import checks
from eprop_jax.interop.nir import fresh, maps
from eprop_jax.interop.nir import graph as graphs
from eprop_jax.interop.nir.plan import Line, Plan, plan
from eprop_jax.interop.nir.reading import loaded, parameters
from eprop_jax.interop.nir.steps import SCHEMES
from eprop_jax.interop.nir.units import RESETS
from eprop_jax.network.types import Network, by_layer, feedback_like


def write(
    net: Network,
    params: dict,
    dt: float,
    *,
    like: Any = None,
    discretise: str = "exact",
    reset: str = "value",
) -> Any:
    """A NIR graph of a network, which `nir.write` puts into a file.

    Args:
      net, params: the network and its parameters.
      dt: step in seconds, as NIR's times are: of a network whose cells count in ms a thousandth of
        their dt.
      like: the graph (or its file) that `read` made the network of: the same nodes, edges and
        metadata come back with the weights that params hold. None: a new graph, of networks of
        `ej.cells.lif`, `cuba_lif`, `integrate_fire` and `li`, with `ej.readouts.linear` or `leaky`.
      discretise: of a new graph, the scheme by which its constants give this network's decays at dt;
        "euler" alone has the voltage of `cuba_lif`, which hears the current of the same step.
      reset: of a new graph, what a spike does in the network, as in `read`: "value" where there is a
        v_reset, else "subtract_late". NIR does not keep it, so it has to be said, here and to who
        reads the graph.

    Returns:
      A `nir.NIRGraph`, whose arrays are NumPy's.

    Raises:
      TypeError, ValueError: for what does not belong together, and for what NIR has not, by layer.

    >>> import jax, eprop_jax as ej
    >>> from eprop_jax.interop.nir import read, write
    >>> net = ej.Network(ej.cells.lif(2, 3, dt=1.0), ej.readouts.leaky(3, 1))
    >>> params = net.init(jax.random.key(0))
    >>> graph = write(net, params, dt=1e-3, reset="subtract_late")
    >>> sorted(type(node).__name__ for node in graph.nodes.values())
    ['Affine', 'Affine', 'Input', 'LI', 'LIF', 'Linear', 'Output']
    >>> same, weights = read(graph, dt=1e-3, reset="subtract_late")
    >>> bool((weights["cell"]["w_rec"] == params["cell"]["w_rec"]).all())
    True
    """
    checks.instance("net", net, Network, "an ej.Network")
    expected = jax.eval_shape(lambda: net.init(jax.random.key(0)))
    checks.parameters(params, expected, feedback_like(net), False, "nir.write")
    if checks.is_traced(params):
        raise TypeError("params: got tracers, wanted values that are known when this is called")
    checks.positive("dt", checks.number("dt", dt))
    checks.one_of("discretise", discretise, SCHEMES)
    checks.one_of("reset", reset, RESETS)
    if like is None:
        return fresh.graph(net, params, float(dt), discretise, reset)
    given = copy.deepcopy(loaded("like", like))
    found = plan(graphs.flat(given), float(dt))
    wanted = jax.eval_shape(lambda: parameters(found))
    got = {k: params[k] for k in ("cell", "readout")}
    if jax.tree.map(jnp.shape, got) != jax.tree.map(jnp.shape, wanted):
        raise ValueError(
            f"like: is a graph with the parameters {shapes(wanted)}, wanted the one that net was read "
            f"from, with {shapes(got)}"
        )
    for layer, p in zip(found.layers, by_layer(net, params["cell"])):
        gates = {"in": layer.inward, "rec": layer.recurrent}
        for (gate, line), name in zip(gates.items(), ("w_in", "w_rec")):
            if line:
                of = lambda x, gate=gate: x[gate] if isinstance(x, dict) else x
                put(found, line, of(p[name]), of(p["bias"]) if line.biased else None)
    out = params["readout"]
    put(found, found.outward, out["w_out"], out.get("bias"))
    return given


def shapes(tree: Any) -> str:
    at = jax.tree.leaves_with_path(tree)
    return ", ".join(f"{jax.tree_util.keystr(k)} {list(jnp.shape(x))}" for k, x in at)


def put(found: Plan, line: Line, w: Any, bias: Any) -> None:
    """A line's weights into their nodes."""
    graph, rows, at = found.graph, np.asarray(w), 0
    for name in line.weighted:
        node, kind = graph.nodes[name], graph.kind(name)
        if kind == "Scale":
            one = np.size(node.scale) == 1 and np.ptp(rows) == 0
            here = rows[:1] if one else rows
            node.scale = here.reshape(np.shape(node.scale) if one else graph.shape[name]).astype(
                np.asarray(node.scale).dtype
            )
            continue
        size = len(maps.to_here(kind, np.asarray(node.weight)))
        part = maps.to_nir(kind, rows[at : at + size])
        node.weight, at = np.array(part, np.asarray(node.weight).dtype), at + size
    if line.biased:
        put_bias(graph, line.biased, np.asarray(bias))


def put_bias(graph: graphs.Graph, name: str, bias: np.ndarray) -> None:
    node = graph.nodes[name]
    if graph.kind(name) in graphs.CONV:
        by_channel = bias.reshape(graph.shape[name][0], -1)
        if np.any(by_channel != by_channel[:, :1]):
            raise graphs.refuse(
                name, "a bias that differs between places", "one number a channel, which NIR has"
            )
        bias = by_channel[:, 0]
    node.bias = np.array(bias, np.asarray(node.bias).dtype)
