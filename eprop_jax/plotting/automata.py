"""The automaton of a rule's language of paths."""

from __future__ import annotations

from typing import Any

from eprop_jax.engine import definition
from eprop_jax.engine.paths import Automaton, compile
from eprop_jax.network.types import LearningRule
from eprop_jax.paper import graph
from eprop_jax.plotting import style

FONT = 8.5
COLOURS = {"i": style.COLOURS[0], "e": style.COLOURS[1], "s": style.COLOURS[1], "f": "#6A3D9A"}
WORDS = {
    "i": "implicit",
    "e": "explicit",
    "s": "explicit, of a unit to itself",
    "f": "feed-forward",
}
RADIUS, RING, APART, CORNER = 0.3, 0.22, 1.7, 0.21
"""of a state, of the ring in one that accepts, between two of them, and where a loop leaves one"""


def automaton(ax: Any, rule: LearningRule | Automaton | str) -> Any:
    """The states that a kept path passes, and the edges that lead from one to the next.

    A path starts at the arrow; each of its edges in time or to a layer above is a move with its letter,
    and it may end in a ringed state. `e` stands for all recurrent synapses where those of a unit to
    itself (`s`) lead to the same state.

    Args:
      ax: a matplotlib Axes.
      rule: a rule, whose automaton is pruned to what its network's paths can take; or a language, as an
        expression or an `ej.paths.Automaton`, which is drawn as it is.

    Raises:
      TypeError, ValueError: for what is neither.

    >>> from matplotlib.figure import Figure
    >>> from eprop_jax import plotting
    >>> ax = plotting.automaton(Figure().subplots(), "i*f*")
    >>> [text.get_text() for text in ax.texts]
    ['start', '0', 'i', 'f', '1', 'f']
    """
    style.axes(ax)
    title, drawn = _of(rule)
    _start(ax)
    for q, accepts in enumerate(drawn.accepting):
        _state(ax, q, accepts)
        for r, letters in _moves(drawn, q).items():
            _move(ax, q, r, letters)
    lowest = -APART * (len(drawn.accepting) - 1)
    ax.set(xlim=(-1.5, 1.5), ylim=(lowest - 0.8, 1.3), aspect="equal")
    ax.set_axis_off()
    ax.set_title(title, fontsize="medium")
    used = {x for q in range(len(drawn.moves)) for y in _moves(drawn, q).values() for x in y}
    _legend(ax, [x for x in WORDS if x in used], drawn)
    return ax


def _of(rule: Any) -> tuple[str, Automaton]:
    """(title, automaton)"""
    if isinstance(rule, str):
        return rule, compile(rule)
    if isinstance(rule, Automaton):
        return "", rule
    return definition.language_of(graph.spec_of(rule)), graph.automaton(rule)


def _moves(drawn: Automaton, q: int) -> dict[int, list[str]]:
    """{state: the letters that lead there}; s is not said beside e."""
    found: dict[int, list[str]] = {}
    for x, r in drawn.moves[q]._asdict().items():
        if r is not None and not (x == "s" and r == drawn.moves[q].e):
            found.setdefault(r, []).append(x)
    return found


def _start(ax: Any) -> None:
    from matplotlib.patches import FancyArrowPatch

    ax.add_patch(
        FancyArrowPatch((0.0, 0.95), (0.0, RADIUS), arrowstyle="-|>", mutation_scale=9, shrinkA=0,
                        shrinkB=0, color="0.25", label="start")
    )  # fmt: skip
    ax.text(0.0, 1.1, "start", fontsize=FONT, ha="center", va="center", color="0.25")


def _state(ax: Any, q: int, accepts: bool) -> None:
    from matplotlib.patches import Circle

    for radius, label in ((RADIUS, "state"), *(((RING, "accepts"),) if accepts else ())):
        ax.add_patch(
            Circle((0.0, -APART * q), radius, facecolor="white", edgecolor="0.25", linewidth=0.9,
                   zorder=4, label=f"{label} {q}")
        )  # fmt: skip
    ax.text(0.0, -APART * q, str(q), fontsize=FONT, ha="center", va="center", zorder=5)


def _move(ax: Any, q: int, r: int, letters: list[str]) -> None:
    """A loop at the right; to the next state straight down; further down round the left of what stands
    between, and up round the right."""
    from matplotlib.patches import FancyArrowPatch

    y_q, y_r = -APART * q, -APART * r
    down = 1 if r > q else -1
    source, target, bend = (0.0, y_q - down * RADIUS), (0.0, y_r + down * RADIUS), 0.45
    at, side = (-down * (bend * (abs(y_q - y_r) / 2 - RADIUS) + 0.12), (y_q + y_r) / 2), down
    if r == q:
        source, target, bend = (CORNER, y_q + CORNER), (CORNER, y_q - CORNER), -2.2
        at, side = (0.75, y_q), -1
    elif r == q + 1:
        bend, at = 0.0, (-0.12, (y_q + y_r) / 2)
    colour = COLOURS[letters[0]] if len(letters) == 1 else "0.25"
    ax.add_patch(
        FancyArrowPatch(source, target, arrowstyle="-|>", mutation_scale=9, shrinkA=0, shrinkB=0,
                        connectionstyle=f"arc3,rad={bend}", color=colour, linewidth=1.5, zorder=2,
                        label=f"{q} {','.join(letters)} {r}")
    )  # fmt: skip
    ax.text(*at, " ".join(letters), fontsize=FONT + 1.5, ha="right" if side > 0 else "left",
            va="center", color=colour, family="monospace", weight="bold")  # fmt: skip


def _legend(ax: Any, letters: list[str], drawn: Automaton) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=COLOURS[x], linewidth=1.5) for x in letters]
    labels = [f"{x}  {WORDS[x]}" for x in letters]
    if any(drawn.accepting):
        handles.append(Line2D([], [], linestyle="", marker="$◎$", color="0.25", markersize=9))
        labels.append("a path may end here")
    ax.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.0), fontsize=FONT,
              frameon=False, handlelength=1.6)  # fmt: skip
