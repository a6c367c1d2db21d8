"""The computational graph of the paper's figures 3 to 8, drawn from a rule itself."""

from __future__ import annotations

from typing import Any

from eprop_jax.network.types import LearningRule
from eprop_jax.paper import graph as graphs
from eprop_jax.paper.graph import Edge, Graph, Node
from eprop_jax.plotting import style

RADIUS = 13.0
"""of a node, in points"""
FONT = 8.5
GREY = "0.6"
SYMBOLS = {
    "input": r"$\partial c^t/\partial w$",
    "implicit": r"$\partial c^t/\partial c^{t-1}$",
    "explicit": r"$\partial c^t/\partial h^{t-1}$",
    "output": r"$\psi=\partial h^t/\partial c^t$",
    "direct": r"$\partial h^t/\partial\theta$",
    "readout": r"$\partial y^t/\partial h^t$",
    "readout_recurrence": r"$\partial y^t/\partial y^{t-1}$",
    "loss": r"$\partial L/\partial y^t$",
    "activity": r"$\partial L/\partial h^t$",
    "state": r"$\partial L/\partial c^t$",
}
NAMES = {"readout": "read-out", "readout_recurrence": "read-out recurrence"}
COLOURS = {
    "input": style.COLOURS[6],
    "implicit": style.COLOURS[0],
    "explicit": style.COLOURS[1],
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
    ax: Any, rule: LearningRule, *, steps: int = 3, units: int = 2, outputs: int = 1
) -> Any:
    """The network unrolled, time to the right, and which of its paths the rule's gradient counts.

    Solid arrows are kept; dashed ones are limited to m − 1 on a path; grey dotted ones are cut. With
    random or adaptive feedback, an arrow marked B leads back from y in place of the read-out's
    weights. A variable of the rule's carry (ε, β, α, γ) stands at the arrows along which it moves. An
    Axes of about 8 × 6 inches suits three steps of two units.

    Args:
      ax: a matplotlib Axes.
      rule: whose graph; see `eprop_jax.graph.unroll`, which this draws.
      steps, units, outputs: how much of the network.

    Raises:
      TypeError, ValueError: as `eprop_jax.graph.unroll`.

    >>> import eprop_jax as ej
    >>> from matplotlib.figure import Figure
    >>> from eprop_jax import plotting
    >>> net = ej.Network(ej.cells.alif(3, 5), ej.readouts.leaky(5, 2))
    >>> ax = plotting.computational_graph(
    ...     Figure().subplots(), ej.eprop(net, ej.losses.squared_error))
    >>> ax.get_title()
    'e-prop: carries ε, γ'
    """
    style.axes(ax)
    g = graphs.unroll(rule, steps, units, outputs)
    places = _places(g, units, outputs)
    for edge in g.edges:
        _arrow(ax, edge, places)
    counts = {"c": units, "h": units, "y": outputs, "L": 1}
    for node, place in places.items():
        if node.layer != "w":
            _node(ax, node, place, steps, numbered=counts[node.layer] > 1)
    _parameters(ax, g, places)
    _variables(ax, g, places, steps)
    _frame(ax, g, places)
    return ax


# -- where things stand ---------------------------------------------------------------------------

HEIGHTS = {"w": 0.0, "c": 1.2, "h": 3.6, "y": 5.6, "L": 7.0}
ACROSS, UP = 1.1, 0.75
"""Units of one layer stand side by side, each a little higher, so that no arrow hides another."""
BETWEEN = 1.9
"""two time steps"""


def _places(g: Graph, units: int, outputs: int) -> dict[Node, tuple[float, float]]:
    count = {"w": units, "c": units, "h": units, "y": outputs, "L": 1}
    lift = {"w": 0, "c": 0, "h": UP * (units - 1), "y": 2 * UP * (units - 1)}
    lift["L"] = lift["y"] + 0.5 * UP * (outputs - 1)
    step = BETWEEN + ACROSS * (max(units, outputs) - 1)

    def place(node: Node) -> tuple[float, float]:
        aside = ACROSS * (node.unit - (count[node.layer] - 1) / 2)
        rise = UP * node.unit if node.layer in ("c", "h", "y") else 0.0
        return step * node.time + aside, HEIGHTS[node.layer] + lift[node.layer] + rise

    return {node: place(node) for node in g.nodes}


# -- arrows ---------------------------------------------------------------------------------------


def _looks(kind: str, status: str) -> dict[str, Any]:
    if status == "cut":
        return {"color": GREY, "linestyle": (0, (1, 1.8)), "linewidth": 1.2, "zorder": 1}
    dashes = {"limited": (0, (4, 1.5)), "replaced": (0, (5, 1.5, 1, 1.5))}.get(status, "-")
    return {"color": COLOURS[kind], "linestyle": dashes, "linewidth": 1.5, "zorder": 2}


def _arrow(ax: Any, edge: Edge, places: dict) -> None:
    from matplotlib.patches import FancyArrowPatch

    source, target = places[edge.source], places[edge.target]
    if edge.source.layer == "w":  # straight out of the bar, wherever that stands
        source = (target[0], source[1])
    if edge.status == "replaced":  # what is left is the way back
        source, target = target, source
        _tag(
            ax, "$B$", (source[0] + target[0]) / 2, (source[1] + target[1]) / 2, COLOURS[edge.kind]
        )
    looks = _looks(edge.kind, edge.status)
    around = {"direct": 0.16, "activity": 0.3, "state": 0.4}  # what stands between
    bend = around.get(edge.kind, 0.0)
    ax.add_patch(
        FancyArrowPatch(
            source, target, arrowstyle="-|>", mutation_scale=9, shrinkA=RADIUS, shrinkB=RADIUS,
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
        if node.layer != "w":
            column.setdefault(node.time, []).append(place[0])
    last = max(node.unit for node in g.nodes if node.layer == "c")
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
    unit = f"_{{{node.unit + 1}}}" if numbered else ""
    text = f"${node.layer}{unit}^{{{_time(node.time, steps)}}}$"
    ax.plot(*place, "o", markersize=2 * RADIUS, markerfacecolor="white", markeredgecolor="0.25",
            markeredgewidth=0.9, zorder=4)  # fmt: skip
    ax.text(*place, text, fontsize=FONT, ha="center", va="center", zorder=5)


def _parameters(ax: Any, g: Graph, places: dict) -> None:
    """One bar for w: the same weights at every step, as in the paper's figure 3."""
    from matplotlib.patches import FancyBboxPatch

    x = [place[0] for node, place in places.items() if node.layer != "w"]
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


def _frame(ax: Any, g: Graph, places: dict) -> None:
    """Names of the layers, the legend and the title."""
    x, y = zip(*(place for node, place in places.items() if node.layer != "w"))
    words = {"w": "parameters", "c": "hidden state", "h": "output", "y": "read-out", "L": "loss"}
    if len(g.components) > 1:
        words["c"] = f"hidden state\n$c$ = ({', '.join(g.components)})"
    for layer in dict.fromkeys(node.layer for node in g.nodes):
        level = [place[1] for node, place in places.items() if node.layer == layer]
        ax.text(min(x) - 0.9, (min(level) + max(level)) / 2, words[layer], fontsize=FONT, ha="right",
                va="center", color="0.25")  # fmt: skip
    ax.text(max(x) + 0.35, -0.55, "time →", fontsize=FONT, ha="right", va="center", color="0.25")
    ax.set(xlim=(min(x) - 2.4, max(x) + 0.6), ylim=(-0.75, max(y) + 0.5))
    ax.set_axis_off()
    _legend(ax, g)
    carried = ", ".join(GREEK[v] for v in g.carried)
    feedback = "" if g.spec.feedback == "symmetric" else f", {g.spec.feedback} feedback"
    tail = f"carries {carried}" if carried else "swept backward, carries nothing"
    ax.set_title(f"{g.spec.name}{feedback}: {tail}", fontsize="medium")


def _legend(ax: Any, g: Graph) -> None:
    from matplotlib.lines import Line2D

    status = {edge.kind: edge.status for edge in g.edges}
    handles = [Line2D([], [], **_looks(kind, status[kind])) for kind in g.kinds]
    labels = [f"{SYMBOLS[kind]}  {_says(g, kind, status[kind])}" for kind in g.kinds]
    ax.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=2,
              fontsize=FONT, frameon=False, handlelength=2.6)  # fmt: skip


def _says(g: Graph, kind: str, status: str) -> str:
    """What the legend says of a kind of edge."""
    says = NAMES.get(kind, kind)
    carried = [GREEK[v] for v in g.carried if kind in VARIABLES[v][1]]
    if kind == "implicit" and len(g.components) > 1:
        joined = next(e.components for e in g.edges if e.kind == kind)
        says += f" ({', '.join(joined)})"
    if status == "cut":
        return f"{says}, cut"
    if status == "limited":
        says += f", at most {g.max_jumps} on a path"
    if status == "replaced":
        says += f": {g.spec.feedback} $B$ on the way back"
    return f"{says}, in {', '.join(carried)}" if carried else says
