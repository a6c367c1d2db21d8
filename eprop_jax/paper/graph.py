"""The paper's computational graph (its figures 3 to 8), unrolled, and what a rule keeps of it.

    w_j → c_j^t          input                 ∂c_j^t/∂w_ij      (and ∂c_j^t/∂θ_j)
    c_j^{t-1} → c_j^t    implicit              ∂c_j^t/∂c_j^{t-1}
    h_i^{t-1} → c_j^t    explicit              ∂c_j^t/∂h_i^{t-1}
    c_j^t → h_j^t        output                ∂h_j^t/∂c_j^t
    w_j → h_j^t          direct                ∂h_j^t/∂θ_j       (a θ that `output` reads)
    h_j^t → y_k^t        readout               ∂y_k^t/∂h_j^t
    y_k^{t-1} → y_k^t    readout_recurrence    ∂y_k^t/∂y_k^{t-1}
    y_k^t → L^t          loss                  ∂L/∂y_k^t
    h_j^t → L^t          activity              ∂L/∂h_j^t         (an activity loss)
    c_j^t → L^t          state                 ∂L/∂c_j^t         (a state loss)

The gradient is a sum over paths from w to L, each the product of the derivatives along it. A rule is
a choice of paths. Nothing here is drawn by hand: an edge stands where the network's own Jacobian
block (`jacobians.structure`) is not zero whatever the values are, and what becomes of it is read
from the rule. No matplotlib here; `plotting.computational_graph` draws it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax

from eprop_jax import checks
from eprop_jax.engine import jacobians as jac
from eprop_jax.engine.adjoint import EVERY
from eprop_jax.network import unitwise
from eprop_jax.network.types import Carry, Cell, LearningRule, PyTree, RuleSpec

KINDS = (
    "input", "implicit", "explicit", "output", "direct", "readout", "readout_recurrence", "loss",
    "activity", "state",
)  # fmt: skip


class Node(NamedTuple):
    """A variable at one time."""

    layer: str
    """"w" (all parameters of unit j), "c", "h", "y" or "L"."""
    unit: int
    """j, or k in layer "y"; 0 in layer "L"."""
    time: int
    """1 … steps; 0 for w, which has no time, and for h^0."""


class Edge(NamedTuple):
    """A local derivative ∂target/∂source, and what the rule does with it."""

    source: Node
    target: Node
    kind: str
    """One of `KINDS`."""
    status: str
    """"kept"; "cut"; "limited": at most `Graph.max_jumps` such edges on a path; "replaced": random
    weights B stand in its place."""
    components: tuple[str, ...]
    """Which parts of the hidden state it joins: "v", or "v → a" between two states; the names of θ
    on a direct edge."""


class Graph(NamedTuple):
    """A rule's network over a few steps."""

    spec: RuleSpec
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    max_jumps: int | None
    """How many explicit edges a path may have (m − 1); None: any number."""
    carried: tuple[str, ...]
    """The variables that the rule's own carry holds: of "epsilon", "beta", "alpha", "gamma"."""
    components: tuple[str, ...]
    """The floating components of c."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of edge that this network has, in the order of `KINDS`."""
        return tuple(k for k in KINDS if any(e.kind == k for e in self.edges))


def unroll(rule: LearningRule, steps: int = 3, units: int = 2, outputs: int = 1) -> Graph:
    """The graph of the cell's gradient, from the rule's own network and spec.

    The read-out's own weights are left out: every rule gives their exact gradient.

    Args:
      rule: from `ej.bptt`, `ej.eprop`, `ej.m_order_eprop` or `ej.rtrl`.
      steps: how many time steps, from the first. The state before them is data.
      units, outputs: how many units and read-out units: the first ones of the network.

    Returns:
      A `Graph`.

    Raises:
      TypeError: if `rule` is no rule of this library, or a size is no int.
      ValueError: for a size < 1, or more units or outputs than the network has.

    >>> import eprop_jax as ej
    >>> from eprop_jax.paper import graph
    >>> net = ej.Network(ej.cells.rnn(3, 5), ej.readouts.linear(5, 2))
    >>> g = graph.unroll(ej.eprop(net, ej.losses.squared_error), steps=2)
    >>> g.kinds  # no implicit recurrence in an Elman network
    ('input', 'explicit', 'output', 'readout', 'loss')
    >>> {e.status for e in g.edges if e.kind == "explicit"}
    {'cut'}
    """
    spec = getattr(rule, "spec", None)
    if not isinstance(rule, LearningRule) or not isinstance(spec, RuleSpec):
        raise TypeError(
            f"rule: got {type(rule).__name__}, wanted a rule such as ej.eprop(net, loss)"
        )
    checks.one_layer("rule", spec.network)
    net, steps = spec.network, checks.size("steps", steps)
    units, outputs = checks.size("units", units), checks.size("outputs", outputs)
    for name, wanted, there in (
        ("units", units, net.cell.n_units),
        ("outputs", outputs, net.readout.n_out),
    ):
        if wanted > there:
            raise ValueError(f"{name}: got {wanted}, wanted at most {there}, all that there are")

    present, components, carried = _read(rule)
    edges = tuple(_edges(spec, present, steps, units, outputs))
    nodes = tuple(dict.fromkeys(node for e in edges for node in (e.source, e.target)))
    return Graph(spec, nodes, edges, _max_jumps(spec), carried, components)


def paths(graph: Graph) -> Iterator[tuple[Edge, ...]]:
    """Every path from w to L that the rule counts, as its edges. Their number grows exponentially
    with the steps.

    Args:
      graph: from `unroll`.

    >>> import eprop_jax as ej
    >>> from eprop_jax.paper import graph
    >>> net = ej.Network(ej.cells.leaky_rnn(3, 2), ej.readouts.linear(2, 1))
    >>> for rule in (ej.eprop, ej.bptt):
    ...     print(len(list(graph.paths(graph.unroll(rule(net, ej.losses.squared_error))))))
    12
    36
    """
    leaving: dict[Node, list[Edge]] = {}
    for edge in graph.edges:
        if edge.status != "cut":
            leaving.setdefault(edge.source, []).append(edge)

    def onward(node: Node, jumps_left: float) -> Iterator[tuple[Edge, ...]]:
        if node.layer == "L":
            yield ()
        for edge in leaving.get(node, []):
            left = jumps_left - (edge.kind == "explicit")
            if left >= 0:
                yield from ((edge, *rest) for rest in onward(edge.target, left))

    jumps = float("inf") if graph.max_jumps is None else graph.max_jumps
    for node in graph.nodes:
        if node.layer == "w":
            yield from onward(node, jumps)


def _max_jumps(spec: RuleSpec) -> int | None:
    return None if spec.moves == EVERY else len(spec.moves) - 1


def _edges(
    spec: RuleSpec, present: dict[str, tuple[str, ...]], steps: int, units: int, outputs: int
) -> Iterator[Edge]:
    """The edges that enter each variable, in time."""
    explicit = {None: "kept", 0: "cut"}.get(_max_jumps(spec), "limited")
    readout = "kept" if spec.feedback == "symmetric" else "replaced"

    def edge(kind: str, source: Node, target: Node, status: str = "kept") -> list[Edge]:
        there = kind in present
        return [Edge(source, target, kind, status, present[kind])] if there else []

    for t in range(steps + 1):
        for j in range(units):
            w_j, c_j, h_j = Node("w", j, 0), Node("c", j, t), Node("h", j, t)
            if t > 0 or "explicit" in present:
                yield from edge("direct", w_j, h_j)
            if t == 0:
                continue
            yield from edge("input", w_j, c_j)
            yield from edge("output", c_j, h_j)
            if t > 1:
                yield from edge("implicit", Node("c", j, t - 1), c_j)
            if t > 1 or "direct" in present:  # else no parameter reaches h^0
                for i in range(units):
                    if _synapse(spec.network.cell, i, j):
                        yield from edge("explicit", Node("h", i, t - 1), c_j, explicit)
            for k in range(outputs):
                yield from edge("readout", h_j, Node("y", k, t), readout)
            yield from edge("activity", h_j, Node("L", 0, t))
            yield from edge("state", c_j, Node("L", 0, t))
        for k in range(outputs if t > 0 else 0):
            if t > 1:
                yield from edge("readout_recurrence", Node("y", k, t - 1), Node("y", k, t))
            yield from edge("loss", Node("y", k, t), Node("L", 0, t))


def _synapse(cell: Cell, i: int, j: int) -> bool:
    return cell.connectivity is None or bool(cell.connectivity[i, j])


def _read(rule: LearningRule) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...], tuple]:
    """({kind of edge that is there: the components it joins}, all components, what the carry holds).

    From shapes alone: no parameter is drawn and no step is run.
    """
    spec = rule.spec
    net, readout = spec.network, unitwise.as_cell(spec.network.readout)
    params = jax.eval_shape(net.init, jax.random.key(0))
    if spec.feedback != "symmetric":
        dtype = jax.tree.leaves(params)[0].dtype
        B = (net.readout.n_units, net.readout.n_out)
        params["feedback"] = jax.ShapeDtypeStruct(B, dtype)

    def trace(params):
        carry = rule.init(params, ())
        J = jac.structure(net.cell, params["cell"], carry.state.c)
        return carry, J, jac.structure(readout, params["readout"], carry.state.y)

    carry, J, J_out = jax.eval_shape(trace, params)
    carried = tuple(f for f in Carry._fields[1:] if jax.tree.leaves(getattr(carry, f)))
    names = _component_names(carry.state.c)
    gates = unitwise.as_gates(params["cell"].get("w_rec", {}))

    def those(there) -> tuple[str, ...]:
        return tuple(name for name, x in zip(names, there) if x)

    implicit = tuple(
        f"{was} → {now}"
        for c, was in enumerate(names)
        for r, now in enumerate(names)
        if J.D[r][c] is not None
    )
    found = {
        "input": those(_any({**b, **theta}) for b, theta in zip(J.B, J.Theta)),
        "implicit": implicit,
        "explicit": those(_any({g: b[g] for g in gates}) for b in J.B),
        "output": those(psi is not None for psi in J.psi),
        "direct": tuple(name for name, x in J.Xi.items() if x is not None),
        "readout": ("y",) if _any(J_out.B[0]) else (),
        "readout_recurrence": ("y → y",) if J_out.D[0][0] is not None else (),
        "loss": ("y",),
        "activity": ("h",) if spec.activity_loss is not None else (),
        "state": names if spec.state_loss is not None else (),
    }
    return {kind: there for kind, there in found.items() if there}, names, carried


def _any(blocks: dict) -> bool:
    return any(x is not None for x in blocks.values())


def _component_names(c: PyTree) -> tuple[str, ...]:
    paths = [path for path, _ in jax.tree.leaves_with_path(c)]
    return tuple(
        jax.tree_util.keystr(paths[i], simple=True) or "c" for i in unitwise.float_positions(c)
    )
