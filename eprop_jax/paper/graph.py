"""The paper's computational graph (its figures 3 to 8), unrolled, and what a rule keeps of it.

    w_j → c_j^t          input                 ∂c_j^t/∂w_ij      (and ∂c_j^t/∂θ_j)
    c_j^{t-1} → c_j^t    implicit              ∂c_j^t/∂c_j^{t-1}
    h_i^{t-1} → c_j^t    explicit              ∂c_j^t/∂h_i^{t-1}
    h_i^t → c_j^t        feedforward           ∂c_j^t/∂h_i^t     (j of a layer above)
    c_j^t → h_j^t        output                ∂h_j^t/∂c_j^t
    w_j → h_j^t          direct                ∂h_j^t/∂θ_j       (a θ that `output` reads)
    h_j^t → y_k^t        readout               ∂y_k^t/∂h_j^t
    y_k^{t-1} → y_k^t    readout_recurrence    ∂y_k^t/∂y_k^{t-1}
    y_k^t → L^t          loss                  ∂L/∂y_k^t
    h_j^t → L^t          activity              ∂L/∂h_j^t         (an activity loss)
    c_j^t → L^t          state                 ∂L/∂c_j^t         (a state loss)

The gradient is a sum over paths from w to L, each the product of the derivatives along it. A rule is
a choice of paths, a language over the letters i (implicit), e (explicit; s, of a unit to itself) and
f (feedforward). Nothing here is drawn by hand: an edge stands where the network's own Jacobian block
(`jacobians.structure`) is not zero whatever the values are, and what becomes of it follows from the
automaton of the rule's language (`paper.kept`). No matplotlib here; `plotting.computational_graph`
draws it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from eprop_jax import checks
from eprop_jax.engine import definition, layers, maybe, objective
from eprop_jax.engine import jacobians as jac
from eprop_jax.engine import paths as languages
from eprop_jax.network import unitwise
from eprop_jax.network.types import LearningRule, PyTree, RuleSpec, by_layer
from eprop_jax.paper import kept

KINDS = (
    "input", "implicit", "explicit", "feedforward", "output", "direct", "readout",
    "readout_recurrence", "loss", "activity", "state",
)  # fmt: skip


class Node(NamedTuple):
    """A variable at one time."""

    variable: str
    """"w" (all parameters of unit j), "c", "h", "y" or "L"."""
    unit: int | None
    """j, or k of "y"; 0 of "L"; None: all units of the layer."""
    time: int
    """1 … steps; 0 for w, which has no time, and for h^0."""
    layer: int = 0
    """of w, c and h, the number of its layer"""


class Edge(NamedTuple):
    """A local derivative ∂target/∂source, and what the rule does with it."""

    source: Node
    target: Node
    kind: str
    """One of `KINDS`."""
    status: str
    """"kept"; "cut": on no kept path; "limited": kept paths that come to it, in a sequence of any
    length, go on along it in some states of the automaton and not in others; "replaced": random
    weights B stand in its place, also of a layer that the read-out does not hear."""
    components: tuple[str, ...]
    """Which parts of the hidden state it joins: "v", or "v → a" between two states; the names of θ
    on a direct edge."""
    letter: str = ""
    """"i", "e", "s" or "f", what it adds to the word of a path; "": nothing"""


class Graph(NamedTuple):
    """A rule's network over a few steps."""

    spec: RuleSpec
    automaton: languages.Automaton
    """of the rule's language, pruned to what its network's paths can take"""
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    max_jumps: int | None
    """How many explicit edges a kept path may have (order m: m − 1); None: any number."""
    carried: tuple[str, ...]
    """The variables that the rule's own carry holds: of "epsilon", "beta", "alpha", "gamma"."""
    components: PyTree
    """The floating components of c; of a stack a tuple, one a layer."""
    unconnected: tuple[tuple[int, str], ...]
    """(layer, parameter) that no kept path leads from to the loss; a rule of such refuses to run."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of edge that this network has, in the order of `KINDS`."""
        return tuple(k for k in KINDS if any(e.kind == k for e in self.edges))


def unroll(rule: LearningRule, steps: int = 3, units: int | None = None, outputs: int = 1) -> Graph:
    """The graph of the cell's gradient, from the rule's own network and language.

    The read-out's own weights are left out: every rule gives their exact gradient. What is kept is
    said of the paths through the units that are shown.

    Args:
      rule: one of the library's rules, on one layer or a stack.
      steps: how many time steps, from the first. The state before them is data.
      units: how many units of each layer, the first ones; None: two of a single layer, and of a stack
        each layer whole, as one node with an edge of each letter.
      outputs: how many read-out units, the first ones.

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
    >>> net = ej.Network([ej.cells.lif(3, 6), ej.cells.lif(6, 5)], ej.readouts.linear(5, 2))
    >>> g = graph.unroll(ej.by_paths(net, ej.losses.squared_error, paths="i*f*"))
    >>> sorted({(e.source.layer, e.status) for e in g.edges if e.letter == "i"})  # after f no i
    [(0, 'kept'), (1, 'limited')]
    """
    spec = spec_of(rule)
    net, steps = checks.no_delays("rule", spec.network), checks.size("steps", steps)
    fewest = min(cell.n_units for cell in net.cells)
    shown = (None,) if units is None else range(checks.size("units", units))
    shown = range(min(2, fewest)) if units is None and not net.stacked else shown
    outputs = checks.size("outputs", outputs)
    for name, wanted, there in (
        ("units", len(shown), fewest),
        ("outputs", outputs, net.readout.n_out),
    ):
        if wanted > there:
            raise ValueError(f"{name}: got {wanted}, wanted at most {there}, all that there are")

    params = jax.eval_shape(net.init, jax.random.key(0))
    J = layers.structures(net, params)
    wiring = layers.wiring(spec, params, J)
    there = _read(spec, params, J, wiring)
    automaton = languages.compile(definition.language_of(spec))
    # Two steps have every edge; without their times it is the network of a sequence of any length.
    every = dict.fromkeys(map(_at_any_time, _edges(spec, there, 2, shown, outputs)))
    in_any_length = kept.going_on(every, automaton)
    edges = tuple(_edges(spec, there, steps, shown, outputs))
    in_steps = kept.going_on(edges, automaton)

    def status(edge: Edge) -> str:
        if True not in in_steps[edge]:
            return "cut"
        if edge.kind == "readout" and spec.feedback != "symmetric":
            return "replaced"
        return "limited" if False in in_any_length[_at_any_time(edge)] else "kept"

    edges = tuple(edge._replace(status=status(edge)) for edge in edges)
    nodes = tuple(dict.fromkeys(node for e in edges for node in (e.source, e.target)))
    names = tuple(x.components for x in there)
    unconnected = layers.unconnected(spec, params)
    return Graph(
        spec, kept.on_network(automaton, wiring), nodes, edges, kept.most_jumps(every, automaton),
        () if unconnected else _carried(rule, params), names if net.stacked else names[0],
        unconnected,
    )  # fmt: skip


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

    def onward(node: Node, q: int) -> Iterator[tuple[Edge, ...]]:
        if node.variable == "L":
            yield ()
        for edge in leaving.get(node, []):
            r = kept.after(graph.automaton, q, edge)
            if r is not None:
                yield from ((edge, *rest) for rest in onward(edge.target, r))

    for node in graph.nodes:
        if node.variable == "w":
            yield from onward(node, 0)


def spec_of(rule: Any) -> RuleSpec:
    """The spec of a rule; refuse what is none.

    Raises:
      TypeError: if `rule` is no rule of this library.
    """
    spec = getattr(rule, "spec", None)
    if not isinstance(rule, LearningRule) or not isinstance(spec, RuleSpec):
        raise TypeError(
            f"rule: got {type(rule).__name__}, wanted a rule such as ej.eprop(net, loss)"
        )
    return spec


def automaton(rule: LearningRule) -> languages.Automaton:
    """The automaton of a rule's language, pruned to what its network's paths can take.

    Raises:
      TypeError: if `rule` is no rule of this library.

    >>> import eprop_jax as ej
    >>> from eprop_jax.paper import graph
    >>> net = ej.Network(ej.cells.lif(3, 5), ej.readouts.linear(5, 2))
    >>> graph.automaton(ej.by_paths(net, ej.losses.squared_error, paths="(i|e)*f*")).moves
    (Moves(i=0, e=0, s=0, f=None),)
    """
    spec = spec_of(rule)
    params = jax.eval_shape(spec.network.init, jax.random.key(0))
    return kept.on_network(
        languages.compile(definition.language_of(spec)), layers.wiring(spec, params)
    )


class _Layer(NamedTuple):
    """What one layer has, whatever the values are."""

    kinds: dict[str, tuple[str, ...]]
    """{kind of edge that enters or leaves it: the components it joins}"""
    components: tuple[str, ...]
    recurrent: str
    """of "es", which recurrent synapses"""
    below: tuple[int, ...]
    """the layers that it hears within the step"""


def _at_any_time(edge: Edge) -> Edge:
    source, target = edge.source._replace(time=0), edge.target._replace(time=0)
    return edge._replace(source=source, target=target)


def _edges(
    spec: RuleSpec, there: tuple[_Layer, ...], steps: int, units: Any, outputs: int
) -> Iterator[Edge]:
    """The edges that enter each variable, in time, from the lowest layer up. All are kept so far."""
    heard_from = there[spec.network.reads[0]].kinds

    def edge(has: dict, kind: str, source: Node, target: Node, letter: str = "") -> list[Edge]:
        return [Edge(source, target, kind, "kept", has[kind], letter)] if kind in has else []

    def into(l: int, j: int | None, t: int) -> Iterator[Edge]:
        has = there[l].kinds
        w_j, c_j, h_j = (Node(x, j, time, l) for x, time in (("w", 0), ("c", t), ("h", t)))
        if t > 0 or "explicit" in has:
            yield from edge(has, "direct", w_j, h_j)
        if t == 0:
            return
        yield from edge(has, "input", w_j, c_j)
        yield from edge(has, "output", c_j, h_j)
        if t > 1:
            yield from edge(has, "implicit", Node("c", j, t - 1, l), c_j, "i")
        for i in units:
            if t > 1 or "direct" in has:  # else no parameter reaches h^0
                for letter in _synapses(spec.network.cells[l], there[l], i, j):
                    yield from edge(has, "explicit", Node("h", i, t - 1, l), c_j, letter)
            for k in there[l].below:
                yield from edge(has, "feedforward", Node("h", i, t, k), c_j, "f")
        for k in range(outputs):
            yield from edge(has, "readout", h_j, Node("y", k, t))
        yield from edge(has, "activity", h_j, Node("L", 0, t))
        yield from edge(has, "state", c_j, Node("L", 0, t))

    for t in range(steps + 1):
        for l in range(len(there)):
            for j in units:
                yield from into(l, j, t)
        for k in range(outputs if t > 0 else 0):
            y_k = Node("y", k, t)
            if t > 1:
                yield from edge(heard_from, "readout_recurrence", Node("y", k, t - 1), y_k)
            yield from edge(heard_from, "loss", y_k, Node("L", 0, t))


def _synapses(cell: Any, there: _Layer, i: int | None, j: int | None) -> str:
    """The letters of the recurrent synapses from unit i to j; of a whole layer, all of them."""
    if i is None or j is None:
        return there.recurrent
    exists = cell.connectivity is None or bool(cell.connectivity[i, j])
    return ("s" if i == j else "e") if exists else ""


def _read(
    spec: RuleSpec, params: PyTree, J: tuple[jac.Blocks, ...], wiring: languages.Wiring
) -> tuple[_Layer, ...]:
    """What each layer has. From shapes alone: no parameter is drawn and no step is run."""
    net, readout = spec.network, unitwise.as_cell(spec.network.readout)

    y = jax.eval_shape(lambda p: readout.initial_state(p, ()), params["readout"])
    J_out = maybe.there(jac.structure(readout, params["readout"], y))
    heard = layers.heard(spec)
    states = [
        jax.eval_shape(lambda p, cell=cell: cell.initial_state(p, ()), p)
        for cell, p in zip(net.cells, by_layer(net, params["cell"]))
    ]

    def of_layer(l: int, of: jac.Blocks, p: PyTree) -> _Layer:
        names = _component_names(states[l])

        def those(there) -> tuple[str, ...]:
            return tuple(name for name, x in zip(names, there) if x)

        def by(line: str) -> tuple[str, ...]:
            gates = unitwise.as_gates(p.get(line, {}))
            return those(_any({g: b[g] for g in gates}) for b in of.B)

        losses = [
            objective.losses_of(net, x)[l] is not None
            for x in (spec.activity_loss, spec.state_loss)
        ]
        below = tuple(k for k, above in wiring.hops if above == l)
        ends = {"read-out", "feedback"} & set(heard[l]) and _any(J_out.B[0])
        found = {
            "input": those(_any({**b, **theta}) for b, theta in zip(of.B, of.Theta)),
            "implicit": tuple(
                f"{was} → {now}"
                for c, was in enumerate(names)
                for r, now in enumerate(names)
                if of.D[r][c]
            ),
            "explicit": by("w_rec"),
            "feedforward": by("w_in") if below else (),
            "output": those(of.psi),
            "direct": tuple(name for name, x in of.Xi.items() if x),
            "readout": ("y",) if ends else (),
            "readout_recurrence": ("y → y",) if J_out.D[0][0] else (),
            "loss": ("y",),
            "activity": ("h",) if losses[0] else (),
            "state": names if losses[1] else (),
        }
        recurrent = "".join(x for x in wiring.own[l] if x != "i")
        return _Layer({k: x for k, x in found.items() if x}, names, recurrent, below)

    return tuple(map(of_layer, range(len(J)), J, by_layer(net, params["cell"])))


def _carried(rule: LearningRule, params: PyTree) -> tuple[str, ...]:
    """What the rule's carry holds beside the state."""
    carry = definition.carry_of(rule, params, ())
    return tuple(f for f in carry._fields[1:] if jax.tree.leaves(getattr(carry, f)))


def _any(blocks: dict) -> bool:
    return any(blocks.values())


def _component_names(c: PyTree) -> tuple[str, ...]:
    paths = [path for path, _ in jax.tree.leaves_with_path(c)]
    return tuple(
        jax.tree_util.keystr(paths[i], simple=True) or "c" for i in unitwise.float_positions(c)
    )
