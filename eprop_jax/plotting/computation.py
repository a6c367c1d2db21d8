"""The computational graph of the paper's figures 3 to 8, drawn from a rule itself."""

from __future__ import annotations

from collections import Counter
from typing import Any

from eprop_jax.network.types import LearningRule
from eprop_jax.paper import graph as graphs
from eprop_jax.paper.graph import Edge, Graph, Node
from eprop_jax.plotting import automata, style

RADIUS = 13.0
"""of a node, in points"""
FONT = 8.5
GREY = "0.6"
SYMBOLS = {
    "input": r"$\partial c^t/\partial w$",
    "implicit": r"$\partial c^t/\partial c^{t-1}$",
    "explicit": r"$\partial c^t/\partial h^{t-1}$",
    "feedforward": r"$\partial c^t/\partial h^t$",
    "output": r"$\psi=\partial h^t/\partial c^t$",
    "direct": r"$\partial h^t/\partial\theta$",
    "readout": r"$\partial y^t/\partial h^t$",
    "readout_recurrence": r"$\partial y^t/\partial y^{t-1}$",
    "loss": r"$\partial L/\partial y^t$",
    "activity": r"$\partial L/\partial h^t$",
    "state": r"$\partial L/\partial c^t$",
}
NAMES = {
    "feedforward": "feed-forward, from the layers below",
    "readout": "read-out",
    "readout_recurrence": "read-out recurrence",
}
COLOURS = {
    "input": style.COLOURS[6],
    "implicit": automata.COLOURS["i"],
    "explicit": automata.COLOURS["e"],
    "feedforward": automata.COLOURS["f"],
    "output": style.COLOURS[2],
    "direct": "#7F6000",
    "readout": style.COLOURS[3],
    "readout_recurrence": style.COLOURS[4],
    "loss": style.COLOURS[6],
    "activity": style.COLOURS[5],
    "state": "#7F7F00",
}
VARIABLES = {
    "epsilon": (r"\epsilon", ("implicit",)),
    "beta": (r"\beta", ("implicit", "explicit")),
    "alpha": (r"\alpha", ("implicit", "explicit")),
    "gamma": (r"\gamma", ("readout_recurrence",)),
}
"""A variable of the carry, and along which edges its recursion moves it (Eq. 8, 15, 22, 34)."""
GREEK = {"epsilon": "ε", "beta": "β", "alpha": "α", "gamma": "γ"}


def computational_graph(
    ax: Any,
    rule: LearningRule,
    *,
    steps: int = 3,
    units: int | None = None,
    outputs: int = 1,
    beside: Any = None,
) -> Any:
    """The network unrolled, time to the right, and which of its paths the rule's gradient counts.

    Solid arrows are kept; dashed ones are kept on some paths only, such as m − 1 times on each; grey
    dotted ones are cut. With random or adaptive feedback, an arrow marked B leads back from y in place
    of the read-out's weights. Of one layer, a variable of the rule's carry (ε, β, α, γ) stands at the
    arrows along which it moves. Layers of a stack stand one above the other, each node a whole layer
    unless `units` says how many. An Axes of about 8 × 6 inches suits three steps of two units, or four
    steps of two layers.

    Args:
      ax: a matplotlib Axes.
      rule: whose graph; see `eprop_jax.paper.graph.unroll`, which this draws.
      steps, units, outputs: how much of the network.
      beside: another Axes, for the rule's automaton (`automaton`); None: it is not drawn.

    Raises:
      TypeError, ValueError: as `eprop_jax.paper.graph.unroll`.

    >>> import eprop_jax as ej
    >>> from matplotlib.figure import Figure
    >>> from eprop_jax import plotting
    >>> net = ej.Network(ej.cells.alif(3, 5), ej.readouts.leaky(5, 2))
    >>> ax = plotting.computational_graph(
    ...     Figure().subplots(), ej.eprop(net, ej.losses.squared_error))
    >>> ax.get_title()
    'e-prop: carries ε, γ'
    >>> net = ej.Network([ej.cells.alif(3, 6), ej.cells.gru(6, 5)], ej.readouts.linear(5, 2))
    >>> left, right = Figure(figsize=(11, 7)).subplots(1, 2, width_ratios=(4, 1))
    >>> ax = plotting.computational_graph(
    ...     left, ej.by_paths(net, ej.losses.squared_error, paths="i*f*"), beside=right)
    >>> ax.get_title()
    'paths i*f*: carries ε'
    """
    style.axes(ax)
    g = graphs.unroll(rule, steps, units, outputs)
    if beside is not None:
        automata.automaton(beside, rule)
    places = _places(g)
    for edge in _shown(g):
        _arrow(ax, edge, places, g)
    sharing = Counter((node.variable, node.layer, node.time) for node in places)
    for node, place in places.items():
        if node.variable != "w":
            several = sharing[node.variable, node.layer, node.time] > 1
            _node(ax, node, place, steps, numbered=several)
    if _stacked(g):
        _bands(ax, g, places)
    else:
        _parameters(ax, g, places)
        _variables(ax, g, places, steps)
    _frame(ax, g, places)
    return ax


def _stacked(g: Graph) -> bool:
    return len(g.spec.network.cells) > 1


def _shown(g: Graph) -> list[Edge]:
    """All edges. Of a whole layer, s and e lead from the same node to the same: one arrow stands for
    both where the rule does the same with them."""
    twins = {edge for edge in g.edges if edge.letter == "e" and edge.source.unit is None}
    return [edge for edge in g.edges if edge._replace(letter="e") not in twins or edge in twins]


# -- where things stand ---------------------------------------------------------------------------

HEIGHTS = {"w": 0.0, "c": 1.2, "h": 3.6, "y": 5.6, "L": 7.0}
LAYER = 4.7
"""from one layer of a stack to the next"""
ACROSS, UP = 1.1, 0.75
"""Units of one layer stand side by side, each a little higher, so that no arrow hides another."""
BETWEEN = 1.9
"""two time steps"""
ASIDE = (-0.62, -0.72)
"""In a stack, parameters stand here of the hidden state that they enter."""


def _places(g: Graph) -> dict[Node, tuple[float, float]]:
    most = {x: max((n.unit or 0 for n in g.nodes if n.variable == x), default=0) for x in "wchyL"}
    units, outputs, top = most["c"], most["y"], len(g.spec.network.cells) - 1
    layer = LAYER + 2 * UP * units
    lift = {"w": 0, "c": 0, "h": UP * units, "y": 2 * UP * units + layer * top}
    lift["L"] = lift["y"] + 0.5 * UP * outputs
    step = BETWEEN + ACROSS * max(units, outputs)

    def place(node: Node) -> tuple[float, float]:
        unit = node.unit or 0
        aside = ACROSS * (unit - most[node.variable] / 2)
        rise = UP * unit if node.variable in ("c", "h", "y") else 0.0
        height = HEIGHTS[node.variable] + lift[node.variable] + rise + layer * node.layer
        return step * node.time + aside, height

    return {node: place(node) for node in g.nodes}


def _parameters_of(node: Node, places: dict, g: Graph) -> tuple[float, float]:
    """Where the parameters that enter c or h stand: straight below in the bar, or in a stack aside."""
    x, y = places[node]
    if not _stacked(g):
        return x, HEIGHTS["w"]
    most = max(n.unit or 0 for n in g.nodes if n.variable == "c")
    y_c = y - (HEIGHTS["h"] - HEIGHTS["c"] + UP * most if node.variable == "h" else 0.0)
    return x + ASIDE[0], y_c + ASIDE[1]


# -- arrows ---------------------------------------------------------------------------------------


def _looks(kind: str, status: str) -> dict[str, Any]:
    if status == "cut":
        return {"color": GREY, "linestyle": (0, (1, 1.8)), "linewidth": 1.2, "zorder": 1}
    dashes = {"limited": (0, (4, 1.5)), "replaced": (0, (5, 1.5, 1, 1.5))}.get(status, "-")
    return {"color": COLOURS[kind], "linestyle": dashes, "linewidth": 1.5, "zorder": 2}


def _bend(edge: Edge, g: Graph) -> float:
    """To the right of what stands between, to the left for a skip."""
    top = len(g.spec.network.cells)
    beyond = {"feedforward": edge.target.layer, "readout": top}.get(edge.kind, 0) - 1
    if beyond > edge.source.layer:
        return -0.2 if edge.kind == "feedforward" else 0.2
    if edge.letter == "s" and edge.source.unit is None:  # beside the e between the same nodes
        return 0.2
    around = {"direct": 0.16, "activity": 0.3, "state": 0.4}.get(edge.kind, 0.0)
    below = 0 if edge.kind == "direct" else top - 1 - edge.source.layer
    return around / (1 + 0.2 * below)  # flatter from further below


def _arrow(ax: Any, edge: Edge, places: dict, g: Graph) -> None:
    from matplotlib.patches import FancyArrowPatch

    source, target = places[edge.source], places[edge.target]
    bend, away = _bend(edge, g), RADIUS
    if edge.source.variable == "w":
        source = _parameters_of(edge.target, places, g)
        away = RADIUS / 2 if _stacked(g) else RADIUS
    if edge.status == "replaced":  # what is left is the way back
        source, target = target, source
        middle = (source[0] + target[0]) / 2, (source[1] + target[1]) / 2
        if not bend:
            _tag(ax, "$B$", *middle, COLOURS[edge.kind])
        bend = -bend
    looks = _looks(edge.kind, edge.status)
    ax.add_patch(
        FancyArrowPatch(
            source, target, arrowstyle="-|>", mutation_scale=9, shrinkA=away, shrinkB=RADIUS,
            connectionstyle=f"arc3,rad={bend}", label=f"{edge.kind} {edge.status}", **looks,
        )
    )  # fmt: skip


def _tag(ax: Any, text: str, x: float, y: float, colour: str) -> None:
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    ax.text(x, y, text, color=colour, fontsize=FONT, ha="center", va="center", bbox=box, zorder=3)


def _variables(ax: Any, g: Graph, places: dict, steps: int) -> None:
    """The variables of the carry, where their recursion moves them on: halfway between two time
    steps, where no arrow rises. Of the explicit arrows, which cross, the last unit's own has it."""
    column: dict[int, list[float]] = {}
    for node, place in places.items():
        if node.variable != "w":
            column.setdefault(node.time, []).append(place[0])
    last = max(node.unit or 0 for node in g.nodes if node.variable == "c")
    for edge in g.edges:
        names = [VARIABLES[v][0] for v in g.carried if edge.kind in VARIABLES[v][1]]
        crossed = edge.kind == "explicit" and not edge.source.unit == edge.target.unit == last
        if not names or edge.status == "cut" or crossed:
            continue
        (x_0, y_0), (x_1, y_1) = places[edge.source], places[edge.target]
        x = (max(column[edge.source.time]) + min(column[edge.target.time])) / 2
        y = y_0 + (x - x_0) / (x_1 - x_0) * (y_1 - y_0)
        symbol = names[0] if len(names) == 1 else f"({','.join(names)})"
        _tag(ax, f"${symbol}^{{{_time(edge.source.time, steps)}}}$", x, y, COLOURS[edge.kind])


# -- nodes and words ------------------------------------------------------------------------------


def _time(time: int, steps: int) -> str:
    return "t" if time == steps else f"t-{steps - time}"


def _node(ax: Any, node: Node, place: tuple, steps: int, numbered: bool) -> None:
    unit = f"_{{{(node.unit or 0) + 1}}}" if numbered else ""
    text = f"${node.variable}{unit}^{{{_time(node.time, steps)}}}$"
    ax.plot(*place, "o", markersize=2 * RADIUS, markerfacecolor="white", markeredgecolor="0.25",
            markeredgewidth=0.9, zorder=4)  # fmt: skip
    ax.text(*place, text, fontsize=FONT, ha="center", va="center", zorder=5)


def _parameters(ax: Any, g: Graph, places: dict) -> None:
    """One bar for w: the same weights at every step, as in the paper's figure 3."""
    from matplotlib.patches import FancyBboxPatch

    x = [place[0] for node, place in places.items() if node.variable != "w"]
    low, high = min(x), max(x)
    ax.add_patch(
        FancyBboxPatch(
            (low - 0.3, -0.22), high - low + 0.6, 0.44, boxstyle="round,pad=0,rounding_size=0.15",
            facecolor="white", edgecolor="0.25", linewidth=0.9, zorder=4,
        )
    )  # fmt: skip
    theta = r" and $\theta_j$" if "direct" in g.kinds else ""
    text = f"$w_{{ij}}${theta}, the same at every step"
    ax.text((low + high) / 2, 0.0, text, fontsize=FONT, ha="center", va="center", zorder=5)


def _bands(ax: Any, g: Graph, places: dict) -> None:
    """Of a stack: a band for each layer, and its parameters beside every state that they enter."""
    from matplotlib.patches import Rectangle

    x = [place[0] for node, place in places.items() if node.variable != "w"]
    for l, cell in enumerate(g.spec.network.cells):
        y = [place[1] for n, place in places.items() if n.layer == l and n.variable in ("c", "h")]
        low, high = min(y) + ASIDE[1] - 0.3, max(y) + 0.8
        corner, width = (min(x) - MARGIN + 0.1, low), max(x) - min(x) + MARGIN + 0.4
        ax.add_patch(Rectangle(corner, width, high - low, facecolor="0.95", zorder=0))
        ax.text(corner[0] + 0.12, high - 0.15, f"layer {l}: {cell}".replace("->", "→"), color="0.25",
                fontsize=FONT, ha="left", va="top", weight="bold")  # fmt: skip
    entered = {edge.target for edge in g.edges if edge.source.variable == "w"}
    for place in {_parameters_of(node, places, g) for node in entered}:
        ax.text(*place, "$w$", fontsize=FONT, ha="center", va="center", zorder=5)


MARGIN = 2.4
"""left of the first node, for the names of the layers"""


def _frame(ax: Any, g: Graph, places: dict) -> None:
    """Names of the variables, the legend and the title."""
    shown = {node: place for node, place in places.items() if node.variable != "w"}
    x, y = zip(*shown.values())
    words = {"c": "hidden state", "h": "output", "y": "read-out", "L": "loss"}
    of_layer = g.components if g.spec.network.stacked else (g.components,)
    left, low = min(x) - (1.05 if _stacked(g) else 0.9), -0.75
    for variable, layer in dict.fromkeys((node.variable, node.layer) for node in shown):
        level = [p[1] for n, p in shown.items() if (n.variable, n.layer) == (variable, layer)]
        said = words[variable]
        if variable == "c" and len(of_layer[layer]) > 1:
            said += f"\n$c$ = ({', '.join(of_layer[layer])})"
        ax.text(left, (min(level) + max(level)) / 2, said, fontsize=FONT, ha="right",
                va="center", color="0.25")  # fmt: skip
    if not _stacked(g):
        ax.text(left, HEIGHTS["w"], "parameters", fontsize=FONT, ha="right", va="center",
                color="0.25")  # fmt: skip
    ax.text(max(x) + 0.35, -0.55, "time →", fontsize=FONT, ha="right", va="center", color="0.25")
    ax.set(xlim=(min(x) - MARGIN, max(x) + 0.6), ylim=(low, max(y) + 0.5))
    ax.set_axis_off()
    _legend(ax, g)
    ax.set_title(_title(g), fontsize="medium")


def _title(g: Graph) -> str:
    feedback = "" if g.spec.feedback == "symmetric" else f", {g.spec.feedback} feedback"
    carried = ", ".join(GREEK[v] for v in g.carried)
    tail = f"carries {carried}" if carried else "swept backward, carries nothing"
    if g.unconnected:
        where = ", ".join(map(str, dict.fromkeys(l for l, _ in g.unconnected)))
        tail = f"parameters of layer {where} have no path to the loss, refused"
    return f"{g.spec.name}{feedback}: {tail}"


def _legend(ax: Any, g: Graph) -> None:
    from matplotlib.lines import Line2D

    looks = [
        (k, s) for k in g.kinds for s in dict.fromkeys(e.status for e in g.edges if e.kind == k)
    ]
    handles = [Line2D([], [], **_looks(*look)) for look in looks]
    labels = [f"{SYMBOLS[kind]}  {_says(g, kind, status)}" for kind, status in looks]
    ax.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=2,
              fontsize=FONT, frameon=False, handlelength=2.6)  # fmt: skip


def _says(g: Graph, kind: str, status: str) -> str:
    """What the legend says of the edges of one kind and status."""
    says = NAMES.get(kind, kind)
    carried = [GREEK[v] for v in g.carried if kind in VARIABLES[v][1] and not _stacked(g)]
    if kind == "implicit" and not g.spec.network.stacked and len(g.components) > 1:
        joined = next(e.components for e in g.edges if e.kind == kind)
        says += f" ({', '.join(joined)})"
    of_kind = [e for e in g.edges if e.kind == kind]
    letters = {e.letter for e in of_kind if e.status == status}
    if len(letters) == 1 and letters != {e.letter for e in of_kind}:
        says += " of a unit to itself" if letters == {"s"} else " between units"
    if status == "cut":
        return f"{says}, cut"
    if status == "limited":
        counted = kind == "explicit" and g.max_jumps is not None
        says += f", at most {g.max_jumps} on a path" if counted else ", on some paths only"
    if status == "replaced":
        says += f": {g.spec.feedback} $B$ on the way back"
    return f"{says}, in {', '.join(carried)}" if carried else says
