"""A rule's traces: how ∂c/∂w is held, and how it moves.

`advance` is the equations of one step. Scanned, it serves chunks of every length; `over` is the same
for a whole chunk at once, where a rule has a faster form, which a test holds against the scan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax.engine import jacobians as jac
from eprop_jax.engine import objective, recursions
from eprop_jax.engine import traces as tr
from eprop_jax.engine.maybe import there
from eprop_jax.engine.operators import Ends, Gradient, Local, Near, Places
from eprop_jax.network import unitwise
from eprop_jax.network.types import Array, Cell, Gamma, PyTree, RuleSpec, State


class Influence(NamedTuple):
    """How a rule holds the influence of its parameters on the network's state, and moves it.

    Attributes:
      start: zero -> the carry before any step: a NamedTuple of the rule's own, whose first field is
        `state` = zero.state; the others are traces (zero.local, zero.own, zero.ends, zero.gamma), or
        arrays of your own, [B, ...].
      advance: (S, d) -> (S, dL_dw, dL_dv), one step: S is the carry, its traces as operators; d the
        derivatives at time t, as operators (`engine.recursions.Moment`: ∂c^t/∂c^{t-1} is d.dc_dc and so
        on). Returned are the carry after the step (whose state is taken care of), and the step's
        gradient by the cell's parameters and by the read-out's.
      local: does every path of it end at the unit where it starts? Then one filtered trace may serve
        all read-out units (Eq. 39), and S.gamma.cell is that.
      over: (spec, params, S, chunk) -> (S, ∂̃a, the cell's gradient, the read-out's), a whole chunk.
    """

    start: Callable[[Zero], Any]
    advance: Callable[[Any, recursions.Moment], tuple[Any, Gradient, Gradient]]
    local: bool = False
    over: Callable | None = None

    def filtered(self, spec: RuleSpec) -> bool:
        """Does one γ serve all read-out units (Eq. 39)?"""
        return self.local and spec.network.readout.shared


class At(NamedTuple):
    """What traces are traces of."""

    spec: RuleSpec
    params: dict
    state: State
    filtered: bool

    @property
    def cell(self) -> tuple[Cell, dict, PyTree]:
        return self.spec.network.cell, self.params["cell"], self.state.c

    @property
    def readout(self) -> tuple[Cell, dict, PyTree]:
        return unitwise.as_cell(self.spec.network.readout), self.params["readout"], self.state.y

    @property
    def remembers(self) -> bool:
        """Does y^t depend on y^{t-1}?"""
        return there(jac.structure(*self.readout).D)[0][0]

    @property
    def outputs(self) -> int:
        """how many read-out traces γ a parameter of the cell has"""
        return 1 if self.filtered else self.state.y.shape[-1]


@dataclasses.dataclass(frozen=True)
class Kind:
    """One sort of trace: zeros before the first step, and the way between the tree that users see and
    the operator that an equation multiplies."""

    zeros: Callable[[At], PyTree]
    opened: Callable[[At, PyTree], Any]
    closed: Callable[[At, Any], PyTree]
    ends: Callable[[At], int] = lambda at: 0
    """at how many units a path may end beside its own"""


def _zeros(of: tuple[Cell, dict, PyTree], *ends: Any) -> PyTree:
    return tr.zeros(*of, jac.structure(*of), unitwise.floats(of[2])[0].shape[0], *ends)


def _opened(of: tuple[Cell, dict, PyTree], tree: PyTree) -> Local:
    return Local(tuple(tr.unpack(*of, tree, jac.shared_positions(of[0], of[2]))))


def _no_gamma(at: At) -> Gamma:
    """A read-out without memory needs none: what arrives at y^t is e^t itself (Eq. 29)."""
    (cell, p, _), lead, dtype = at.cell, (len(at.state.y), at.outputs), at.state.y.dtype
    of_leaf = lambda path, w: jnp.zeros((*lead, *tr.trace_shape(cell, path, w)), dtype)
    nothing = lambda path, w: ()
    zeros = jax.tree_util.tree_map_with_path(of_leaf if at.remembers else nothing, p)
    return Gamma(READOUT.zeros(at), zeros)


def _gamma_opened(at: At, gamma: Gamma) -> Gamma:
    cell = tuple((g,) for g in tr.of_tree(at.params["cell"], gamma.cell))
    return Gamma(READOUT.opened(at, gamma.readout), Ends(cell, at.outputs))


def _gamma_closed(at: At, gamma: Gamma) -> Gamma:
    held = [g for (g,) in gamma.cell.leaves]
    return Gamma(READOUT.closed(at, gamma.readout), tr.as_tree(at.params["cell"], held))


def _packed(at: At, trace: Local | Ends) -> PyTree:
    return tr.pack(*at.cell[1:], list(trace.leaves))


LOCAL = Kind(lambda at: _zeros(at.cell), lambda at, tree: _opened(at.cell, tree), _packed)
OWN = Kind(
    lambda at: _zeros(at.cell, None, True),
    lambda at, tree: Local(tuple(tr.unpack(*at.cell, tree))),
    _packed,
)
ENDS = Kind(
    lambda at: _zeros(at.cell, np.eye(at.cell[0].n_units), True),
    lambda at, tree: Ends(tuple(tr.unpack(*at.cell, tree)), at.cell[0].n_units),
    _packed,
    lambda at: at.cell[0].n_units,
)
BEYOND = dataclasses.replace(ENDS, zeros=lambda at: jax.tree.map(jnp.zeros_like, ENDS.zeros(at)))


def near(places: Places) -> Kind:
    """A trace that ends at some units alone."""
    size, n = places.at.shape
    itself = np.eye(size, 1) * np.ones(n)  # a unit's first place is its own
    return Kind(
        lambda at: _zeros(at.cell, itself, True),
        lambda at, tree: Near(tuple(tr.unpack(*at.cell, tree)), places),
        _packed,
        lambda at: size,
    )


GAMMA = Kind(_no_gamma, _gamma_opened, _gamma_closed)
READOUT = Kind(
    lambda at: _zeros(at.readout),
    lambda at, tree: _opened(at.readout, tree),
    lambda at, trace: tr.pack(*at.readout[1:], list(trace.leaves)),
)


class Zero(NamedTuple):
    """What a carry may start with."""

    state: State
    """the network's own, c [B, n] a component and y [B, n_out]"""
    params: dict
    local: Kind = LOCAL
    """a trace whose paths stay inside their unit, as ε: [B, lines, n] a component, or, of one whose
    decay all units share, [B, n_pre, 1]"""
    own: Kind = OWN
    """a trace whose paths come back to their unit by w_jj too: [B, lines, n]"""
    ends: Kind = ENDS
    """a trace that ends at every unit, as α: [B, n, lines, n] a component"""
    beyond: Kind = BEYOND
    """the same of paths that have left their unit, as β"""
    gamma: Kind = GAMMA
    """the read-out's own traces, `gamma.readout`, and those of the cell through it, `gamma.cell`, where
    the read-out has a memory"""
    readout: Kind = READOUT
    """the read-out's own alone"""
    cell: Any = None

    def each_line(self, lead: tuple[int, ...]) -> PyTree:
        """Zeros of your own for each parameter of the cell, line by line as a trace has them:
        [*lead, lines, n] of weights, else [*lead, n]."""
        dtype = self.state.y.dtype
        of = lambda path, w: jnp.zeros((*lead, *tr.trace_shape(self.cell, path, w)), dtype)
        return jax.tree_util.tree_map_with_path(of, self.params["cell"])


def each(influence: Influence, at: At, of_trace: Callable, of_own: Callable, *carries: Any) -> Any:
    """of_trace(kind, trace, …) over a carry; of_own(what `start` gives, array, …) of its own arrays."""
    kinds: Any = influence.start(Zero(at.state, at.params, cell=at.cell[0]))
    if getattr(kinds, "_fields", ("",))[0] != "state":
        raise TypeError(
            f"start: got {type(kinds).__name__} from it, wanted a NamedTuple whose first field is state"
        )
    of = lambda kind, *x: (of_trace if isinstance(kind, Kind) else of_own)(kind, *x)
    rest = (x._replace(state=()) for x in carries)
    return jax.tree.map(of, kinds._replace(state=()), *rest)._replace(state=at.state)


def as_it_is(_: Any, x: Array) -> Array:
    return x


def started(influence: Influence) -> Callable:
    """(spec, params, state, B) -> the carry before any step: no path has started."""

    def start(spec: RuleSpec, params: dict, state: State, batch: int) -> Any:
        at = At(spec, params, state, influence.filtered(spec))
        return each(influence, at, lambda kind: kind.zeros(at), lambda x: x)

    return start


def sizes(influence: Influence, at: At, carry: Any) -> tuple[int, list[tuple[int, int]]]:
    """How many numbers the traces hold that end at their own unit; and of each of the others (numbers,
    units where its paths end). The read-out's own are not counted."""
    numbers = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    local, others = [], []

    def count(kind, trace):
        ends = kind.ends(at)
        if ends:
            others.append((numbers(trace), ends))
        elif kind != READOUT:
            local.append(numbers(trace.cell if kind == GAMMA else trace))

    each(influence, at, count, as_it_is, carry)
    return sum(local), others


def opened(influence: Influence, at: At, carry: Any) -> Any:
    """The carry's traces as operators."""
    return each(influence, at, lambda kind, tree: kind.opened(at, tree), as_it_is, carry)


def closed(influence: Influence, at: At, S: Any) -> Any:
    """The carry as users see it."""
    return each(influence, at, lambda kind, trace: kind.closed(at, trace), as_it_is, S)


def begun(influence: Influence, at: At, S: Any, resets_t: Array | None) -> Any:
    """The carry as a step finds it: of examples that start afresh there, what `start` gives."""
    if resets_t is None:
        return S

    def chosen(new: Any, old: Array) -> Array:
        return jnp.where(resets_t.reshape(-1, *(1,) * (old.ndim - 1)), new, old)

    fresh = lambda kind, trace: jax.tree.map(chosen, kind.opened(at, kind.zeros(at)), trace)
    return each(influence, at, fresh, chosen, S)


def fitted(S: Any, after: Any) -> Any:
    """New traces of the old ones' shapes: zeros where nothing arrived."""

    fit = lambda like, x: tr.fitted(x, like)

    def of(name: str) -> Any:
        try:
            return jax.tree.map(fit, getattr(S, name), getattr(after, name), is_leaf=tr.is_held)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"advance: got {name} of another form than start gives it, wanted the same (a trace "
                f"whose paths come back by w_jj starts as zero.own, not zero.local): {error}"
            ) from error

    return S._replace(**{name: of(name) for name in S._fields[1:]})


def advanced(
    influence: Influence, at: At, S: Any, chunk: objective.Chunk
) -> tuple[Any, list[Array], list[Array]]:
    """A chunk of any length, step by step: (S, the cell's gradient, the read-out's)."""

    def step(S, of_t):
        t, resets_t = of_t
        S = begun(influence, at, S, resets_t)
        d = recursions.moment(at.spec, at.params, t, at.filtered)
        after, dL_dw, dL_dv = of_advance(S, influence.advance(S, d))
        found = leaves(at, "cell", dL_dw), leaves(at, "readout", dL_dv)
        return fitted(S, after), found

    steps = recursions.Instant.of(chunk), chunk.run.resets
    first = jax.tree.map(lambda x: x[0], steps)
    if chunk.dL_dy.shape[0] == 1:
        S, found = step(S, first)
        return S, *found

    def summed(carry, of_t):
        S, grads = carry
        S, found = step(S, of_t)
        return (S, jax.tree.map(jnp.add, grads, found)), None

    like = jax.eval_shape(step, S, first)[1]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    (S, found), _ = jax.lax.scan(summed, (S, zeros), steps)
    return S, *found


def of_advance(S: Any, found: Any) -> tuple[Any, Gradient, Gradient]:
    kinds = (type(S), Gradient, Gradient)
    if not isinstance(found, tuple) or tuple(map(type, found)) != kinds:
        got = (
            tuple(type(x).__name__ for x in found) if type(found) is tuple else type(found).__name__
        )
        raise TypeError(
            f"advance: got {got} from it, wanted (the {type(S).__name__} after the step, ∂L/∂w, "
            "∂L/∂v), each of the two a sum of products such as d.L @ gamma"
        )
    for name, old, new in zip(S._fields, S, found[0]):
        if isinstance(old, (Local, Ends, Near, Gamma)) and type(old) is not type(new):
            raise TypeError(
                f"advance: got {type(new).__name__} as {name}, wanted {type(old).__name__}, as it was"
            )
    return found


def leaves(at: At, layer: str, found: Gradient) -> list[Array]:
    """One array a parameter of the cell or the read-out, like it."""
    cell, p, _ = at.cell if layer == "cell" else at.readout
    for (path, _), x in zip(jax.tree.leaves_with_path(p), found.leaves, strict=True):
        if not there(x):
            raise ValueError(
                f"advance: its gradient has nothing for params['{layer}']{jax.tree_util.keystr(path)}, "
                "wanted a path from each parameter to the loss (no gradient is silently zero)"
            )
    return tr.tied(cell, p, found.leaves)
