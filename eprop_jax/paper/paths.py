"""Rules as languages of paths: expressions, their automata, published rules, and what a rule keeps.

`ej.by_paths` makes a rule of an expression; `report` says what a rule keeps and drops on its network.
"""

from __future__ import annotations

from typing import NamedTuple

import jax

from eprop_jax import checks
from eprop_jax.engine import definition, layers
from eprop_jax.engine.paths import (
    NAMED,
    Automaton,
    Dropped,
    Named,
    Wiring,
    accepts,
    as_text,
    compile,
    dropped,
    order,
    prune,
)
from eprop_jax.engine.paths.automaton import explore
from eprop_jax.network.types import LearningRule, PyTree, feedback_like
from eprop_jax.paper import taxonomy

__all__ = [
    "NAMED",
    "Automaton",
    "LayerReport",
    "Named",
    "Report",
    "accepts",
    "as_text",
    "compile",
    "order",
    "prune",
    "report",
]


class LayerReport(NamedTuple):
    """What a rule does for the parameters of one layer."""

    layer: int
    cell: str
    heard: tuple[str, ...]
    """where paths may end at this layer: "read-out", "feedback", "activity loss", "state loss" """
    kept: tuple[str, ...]
    """the edges that kept paths from here take: "i", "f to layer 1", "i in layer 1" """
    dropped: tuple[str, ...]
    """the edges towards the loss that the network has and kept paths do not take: "after f no i, in
    layer 1" """
    unconnected: tuple[str, ...]
    """the parameters from which no kept path leads to the loss; a rule of such refuses to run"""
    exact: bool
    """is the gradient of this layer that of the loss, for sequences of any length?"""
    trace_bytes: int | None
    """bytes of the traces of its parameters, of the whole batch; None: the rule refuses to run"""


class Report(NamedTuple):
    """A rule on its network; prints as a table."""

    rule: str
    language: str
    states: int
    """co-states of the adjoint sweep: what whole sequences cost, in sweeps of one layer"""
    layers: tuple[LayerReport, ...]
    readout_bytes: int | None
    """bytes of the traces of the read-out's own parameters"""

    def __str__(self) -> str:
        head = ("layer", "", "ends at", "keeps", "drops", "exact", "traces")
        rows: list[tuple] = [head]
        for x in self.layers:
            lost = [f"no path from {name}" for name in x.unconnected]
            columns = [x.heard or ("–",), x.kept or ("–",), (*lost, *x.dropped) or ("nothing",)]
            for k in range(max(map(len, columns))):
                own = (x.layer, x.cell) if k == 0 else ("", "")
                exact = ("yes" if x.exact else "no", bytes_(x.trace_bytes)) if k == 0 else ("", "")
                rows.append((*own, *(c[k] if k < len(c) else "" for c in columns), *exact))
        rows.append(("", "read-out", "", "", "", "yes", bytes_(self.readout_bytes)))
        head = f"{self.rule}: {self.language}, {self.states} co-states"
        return f"{head}\n{taxonomy.table(rows, right=(6,))}"

    __repr__ = __str__


def bytes_(size: int | None) -> str:
    return "–" if size is None else f"{size:,} B"


def report(rule: LearningRule, params: PyTree, batch: int | tuple[int, ...] = ()) -> Report:
    """Which paths a rule keeps on its network, layer by layer, and what its traces take: of the
    structure, not of values.

    Args:
      rule: one of the library's rules.
      params: its parameters, or their shapes (`jax.eval_shape`).
      batch: the batch of which the traces are.

    Returns:
      A `Report`. Whole sequences take none of its traces.

    Raises:
      TypeError, ValueError: for what is none of the library's rules, a rule whose paths no language
        tells, or parameters of another network.

    >>> import jax, eprop_jax as ej
    >>> net = ej.Network([ej.cells.lif(3, 6), ej.cells.lif(6, 5)], ej.readouts.linear(5, 2))
    >>> rule = ej.by_paths(net, ej.losses.squared_error, paths="i*f*")
    >>> found = ej.paths.report(rule, net.init(jax.random.key(0)))
    >>> found.layers[0].dropped
    ('no e', 'after f no i, in layer 1', 'after f no e, in layer 1')
    >>> print(found)
    paths i*f*: i*f*, 3 co-states
    layer              ends at   keeps         drops                     exact  traces
    ──────────────────────────────────────────────────────────────────────────────────
    0      lif 3 -> 6  –         i             no e                      no       40 B
                                 f to layer 1  after f no i, in layer 1
                                               after f no e, in layer 1
    1      lif 6 -> 5  read-out  i             no e                      no       48 B
           read-out                                                      yes       0 B
    """
    spec = definition.of_library("rule", rule)
    net = spec.network
    expected = jax.eval_shape(lambda: net.init(jax.random.key(0)))
    checks.parameters(params, expected, feedback_like(net), False, spec.name)
    language, wiring = definition.language_of(spec), layers.wiring(spec, params)
    automaton = compile(language)
    lost, heard = layers.unconnected(spec, params), layers.heard(spec)
    cut = dropped(automaton, wiring)
    nodes = layers.costates(spec, params)
    of_layers, of_readout = trace_bytes(rule, params, checks.batch(batch), bool(lost))

    def of_layer(l: int) -> LayerReport:
        missing = words([x for x in cut if x.start == l], wiring)
        if spec.feedback != "symmetric":
            missing = (*missing, f"w_out on the way back ({spec.feedback} B)")
        unconnected = tuple(name for k, name in lost if k == l)
        exact = not missing and not unconnected
        return LayerReport(
            l,
            str(net.cells[l]),
            heard[l],
            kept(nodes, l),
            missing,
            unconnected,
            exact,
            of_layers[l],
        )

    found = tuple(map(of_layer, range(len(net.cells))))
    return Report(spec.name, language, len(nodes), found, of_readout)


def trace_bytes(
    rule: LearningRule, params: PyTree, batch: tuple[int, ...], refused: bool
) -> tuple[list[int | None], int | None]:
    """Of the parameters of each layer, and of the read-out's own."""
    n_layers = len(rule.spec.network.cells)
    if refused:
        return [None] * n_layers, None
    carry = definition.carry_of(rule, params, batch)
    size = lambda tree: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
    own = size(getattr(getattr(carry, "gamma", ()), "readout", ()))
    if isinstance(carry, layers.PathsCarry):
        return list(map(size, layers.of_each_layer(carry))), own
    return [size(carry._replace(state=())) - own] * n_layers, own  # of a stack, BPTT's: none


def kept(nodes: tuple, start: int) -> tuple[str, ...]:
    """The edges of all paths from one layer's parameters, in words."""

    def moves(q):
        node = nodes[q]
        own = {x: r for x, r in (("i", node.i), ("e", node.e), ("s", node.s)) if r is not None}
        return own | {("f", above): r for above, r in node.f}

    found = {}
    for q, after in explore([start], moves).items():
        at = nodes[q].layer
        where = f" in layer {at}" if at != start else ""
        for x in after:
            found[f"f to layer {x[1]}{where}" if x[0] == "f" else f"{x}{where}"] = None
    # A synapse to itself is one of the recurrent synapses: said where it alone is kept.
    both = lambda text: text.startswith("s") and "e" + text[1:] in found
    return tuple(text for text in found if not both(text))


def words(cut: list[Dropped], wiring: Wiring) -> tuple[str, ...]:
    """In words, without the layer where they start. No e and no s are one: no recurrent synapse."""
    out = []
    for x in cut:
        twin = lambda letter, x=x: x._replace(edge=letter) in cut
        if x.edge == "s" and twin("e"):
            continue
        text = str(x).split(": ", 1)[1]
        itself = x.edge == "e" and "s" in wiring.own[x.layer] and not twin("s")
        out.append(text.replace("no e", "no e between units", 1) if itself else text)
    return tuple(out)
