"""A NIR graph without nesting: nodes by dotted name, edges, and the shape of what each node sends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Shape = tuple[int, ...]

UNITS = ("LIF", "CubaLIF", "IF", "LI", "CubaLI", "I", "Threshold")
DENSE = ("Affine", "Linear")
CONV = ("Conv1d", "Conv2d")
WEIGHTED = (*DENSE, "Scale", *CONV)
WEIGHTLESS = ("Flatten", "SumPool2d", "AvgPool2d", "Delay")
MAPS = (*WEIGHTED, *WEIGHTLESS)
CONSTANTS = {
    "LIF": ("tau", "r", "v_leak", "v_threshold", "v_reset"),
    "CubaLIF": ("tau_syn", "tau_mem", "r", "v_leak", "v_threshold", "v_reset", "w_in"),
    "IF": ("r", "v_threshold", "v_reset"),
    "LI": ("tau", "r", "v_leak"),
    "CubaLI": ("tau_syn", "tau_mem", "r", "v_leak", "w_in"),
    "I": ("r",),
    "Threshold": ("threshold",),
    "Scale": ("scale",),
    "Delay": ("delay",),
}
"""What a node says of each of its units, in NIR's words and units (s)."""


class Graph(NamedTuple):
    nodes: dict[str, Any]
    """by dotted name"""
    before: dict[str, list[str]]
    """whom each node hears"""
    after: dict[str, list[str]]
    shape: dict[str, Shape]
    """of what each node sends"""
    source: str
    """the Input"""
    sink: str
    """the Output"""

    def kind(self, name: str) -> str:
        return kind(self.nodes[name])

    def size(self, name: str) -> int:
        return int(np.prod(self.shape[name], dtype=int))

    def heard(self, name: str) -> Shape:
        """The shape of what a node hears."""
        return self.shape[self.before[name][0]]


def kind(node: Any) -> str:
    return type(node).__name__


def refuse(name: str, got: str, wanted: str) -> ValueError:
    return ValueError(f"graph[{name!r}]: got {got}, wanted {wanted}")


def flat(graph: Any) -> Graph:
    """The graph as one level of nodes. What cannot be a network is refused by the node's name."""
    nodes, edges = _level(graph, "")
    for name, node in nodes.items():
        if kind(node) not in (*UNITS, *MAPS, "Input", "Output", "through"):
            raise refuse(name, kind(node), f"one of {', '.join((*UNITS, *MAPS))}")
    nodes, edges = _without_ports(nodes, edges)
    before = {name: [a for a, b in edges if b == name] for name in nodes}
    after = {name: [b for a, b in edges if a == name] for name in nodes}
    ends = []
    for port, role in (("Input", "input"), ("Output", "output")):
        found = [name for name, node in nodes.items() if kind(node) == port]
        if len(found) != 1:
            got = (
                f"{len(found)} nodes of kind {port} ({', '.join(found)})" if found else f"no {port}"
            )
            raise refuse(found[-1] if found else role, got, f"one {port} for the whole graph")
        ends += found
    source, sink = ends
    if before[source]:
        raise refuse(source, f"an edge from {before[source][0]!r}", "no edge into the Input")
    if after[sink]:
        raise refuse(sink, f"an edge to {after[sink][0]!r}", "no edge out of the Output")
    for name in nodes:
        if name != source and not _reached(name, source, before):
            raise refuse(name, "no way to it from the Input", "a node that hears the Input")
        if name != sink and not _reached(name, sink, after):
            raise refuse(name, "no way from it to the Output", "a node that the Output hears")
    return Graph(nodes, before, after, _shapes(nodes, before), source, sink)


class through:
    """The Input or Output of a nested graph, which passes on what it hears."""


def _level(graph: Any, prefix: str) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    nodes: dict[str, Any] = {}
    edges: list[tuple[str, str]] = []
    ports: dict[str, tuple[str, str]] = {}
    for key, node in graph.nodes.items():
        name = f"{prefix}{key}"
        if kind(node) != "NIRGraph":
            passes = prefix and kind(node) in ("Input", "Output")
            nodes[name] = through() if passes else node
            continue
        inner = {port: [k for k, n in node.nodes.items() if kind(n) == port] for port in PORTS}
        for port, found in inner.items():
            if len(found) != 1:
                raise refuse(name, f"a nested graph with {len(found)} nodes of kind {port}", "one")
        ports[key] = (f"{name}.{inner['Output'][0]}", f"{name}.{inner['Input'][0]}")
        below = _level(node, f"{name}.")
        for twice in below[0].keys() & {f"{prefix}{k}" for k in graph.nodes}:
            raise refuse(twice, "two nodes of this name, one of them nested", "one")
        nodes |= below[0]
        edges += below[1]
    for a, b in graph.edges:
        for end in (a, b):
            if end not in graph.nodes:
                raise refuse(f"{prefix}{end}", f"the edge ({a!r}, {b!r}) to no node", "nodes")
        edge = (ports.get(a, (f"{prefix}{a}",))[0], ports.get(b, ("", f"{prefix}{b}"))[1])
        if edge in edges:
            raise refuse(edge[1], f"two edges from {edge[0]!r}", "one")
        edges.append(edge)
    return nodes, edges


PORTS = ("Input", "Output")


def _without_ports(nodes, edges):
    for name in [name for name, node in nodes.items() if kind(node) == "through"]:
        heard = [a for a, b in edges if b == name]
        for side, found in (("hears", heard), ("is heard by", [b for a, b in edges if a == name])):
            if not found:
                raise refuse(name, f"a port that {side} nothing", "edges on both sides")
        joined = [(a, b) for a in heard for x, b in edges if x == name]
        edges = [edge for edge in edges if name not in edge]
        for edge in joined:
            if edge in edges:
                raise refuse(edge[1], f"two edges from {edge[0]!r}", "one")
            edges.append(edge)
    return {k: n for k, n in nodes.items() if kind(n) != "through"}, edges


def _reached(name: str, end: str, along: dict[str, list[str]]) -> bool:
    seen, todo = set(), [name]
    while todo:
        now = todo.pop()
        if now == end:
            return True
        seen.add(now)
        todo += [k for k in along[now] if k not in seen]
    return False


# -- shapes ----------------------------------------------------------------------------------------


def _shapes(nodes, before) -> dict[str, Shape]:
    """What each node sends; an edge between shapes that do not fit is refused."""
    found: dict[str, Shape] = {}
    todo = list(nodes)
    while todo:
        known = [k for k in todo if kind(nodes[k]) == "Input" or any(p in found for p in before[k])]
        if not known:
            raise refuse(todo[0], "a shape that depends on itself", "edges from the Input")
        for name in known:
            heard = next((found[p] for p in before[name] if p in found), ())
            found[name] = SENDS.get(kind(nodes[name]), _as_heard)(name, nodes[name], heard)
        todo = [k for k in todo if k not in found]
    for name in nodes:
        for p in before[name]:
            first = found[before[name][0]]
            wanted = found[name] if kind(nodes[name]) in UNITS else first
            if found[p] != wanted:
                raise refuse(name, f"{p!r} of shape {found[p]}", f"what it hears to be {wanted}")
    return found


def _as_heard(name: str, node: Any, heard: Shape) -> Shape:
    """A node whose constants are one for each unit, or one for all."""
    shapes = {np.shape(np.asarray(getattr(node, k))) for k in CONSTANTS[kind(node)]}
    own = shapes - {(), (1,)}
    if len(own) > 1:
        raise refuse(name, f"constants of shapes {sorted(own)}", "one shape")
    if own and own != {heard}:
        raise refuse(name, f"constants {own.pop()} for a signal {heard}", "the same shape")
    return heard


def _input(name, node, heard) -> Shape:
    shape = node.input_type["input"]
    if shape is None:
        raise refuse(name, "no shape", "an Input of known shape")
    return tuple(int(x) for x in np.atleast_1d(shape))


def _output(name, node, heard) -> Shape:
    said = node.output_type["output"]
    if said is not None and tuple(int(x) for x in np.atleast_1d(said)) != heard:
        raise refuse(name, f"the shape {tuple(said)} for a signal {heard}", "the same shape")
    return heard


def _dense(name, node, heard) -> Shape:
    shape = np.shape(node.weight)
    if len(shape) != 2 or heard != shape[1:]:
        raise refuse(name, f"a weight {shape} for a signal {heard}", "[n_out, n_in] and (n_in,)")
    if hasattr(node, "bias") and np.shape(node.bias) != shape[:1]:
        raise refuse(name, f"a bias {np.shape(node.bias)}", f"({shape[0]},)")
    return shape[:1]


def _flatten(name, node, heard) -> Shape:
    first, last = (int(d) % len(heard) for d in (node.start_dim, node.end_dim))
    if first > last:
        return heard
    return (*heard[:first], int(np.prod(heard[first : last + 1])), *heard[last + 1 :])


def _conv(name, node, heard) -> Shape:
    shape = np.shape(node.weight)
    if len(heard) != len(shape) - 1 or heard[0] != shape[1]:
        raise refuse(name, f"a weight {shape} for a signal {heard}", "(channels, *places) heard")
    for field in ("groups", "dilation"):
        if np.any(np.asarray(getattr(node, field)) != 1):
            raise refuse(name, f"{field} {getattr(node, field)}", f"{field} 1")
    if np.shape(node.bias) != shape[:1]:
        raise refuse(name, f"a bias {np.shape(node.bias)}", f"({shape[0]},), one a channel")
    sides, stride = conv_sides(name, node), each(node.stride, len(shape) - 2)
    places = [
        (x + sum(side) - k) // s + 1 for x, side, k, s in zip(heard[1:], sides, shape[2:], stride)
    ]
    if min(places) < 1:
        raise refuse(name, f"a kernel {shape[2:]} for places {heard[1:]}", "a smaller one")
    return (shape[0], *places)


def conv_sides(name: str, node: Any) -> list[tuple[int, int]]:
    """Zeros before and after each axis of places."""
    kernel = np.shape(node.weight)[2:]
    if not isinstance(node.padding, str):
        return [(p, p) for p in each(node.padding, len(kernel))]
    if node.padding == "valid":
        return [(0, 0) for _ in kernel]
    if any(s != 1 for s in each(node.stride, len(kernel))):
        raise refuse(name, f"padding 'same' with stride {node.stride}", "stride 1, or numbers")
    return [((k - 1) // 2, k // 2) for k in kernel]  # the larger half after, as torch pads


def _pool(name, node, heard) -> Shape:
    if len(heard) != 3:
        raise refuse(name, f"a signal {heard}", "(channels, height, width)")
    size, stride, pad = (each(getattr(node, k), 2) for k in ("kernel_size", "stride", "padding"))
    places = [(x + 2 * p - k) // s + 1 for x, k, s, p in zip(heard[1:], size, stride, pad)]
    if min(places) < 1:
        raise refuse(name, f"a window {size} for places {heard[1:]}", "a smaller one")
    return (heard[0], *places)


def each(value: Any, n: int) -> tuple[int, ...]:
    """One number for all axes, or one each."""
    return tuple(int(x) for x in np.broadcast_to(np.asarray(value).ravel(), (n,)))


SENDS: dict[str, Callable] = {
    "Input": _input, "Output": _output, "Flatten": _flatten,
    "Affine": _dense, "Linear": _dense, "Conv1d": _conv, "Conv2d": _conv,
    "SumPool2d": _pool, "AvgPool2d": _pool,
}  # fmt: skip
