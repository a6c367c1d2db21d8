"""The shared types: a cell, a read-out, a network of the two, a learning rule and its carry.

Symbols (paper, section 1.1): c is a unit's hidden state, h its output, y a read-out unit's value;
n units, n_in inputs, n_out read-out units. Arrays are time-major: inputs are [T, *batch, n_in].
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from eprop_jax import checks
from eprop_jax.network.synapses import Synapses, use

Array = jax.Array
PyTree = Any
Maybe = Any
"""An array, or None where it is zero whatever the values are."""


class Units(NamedTuple):
    """Where each device holds its own n of all N units (`ej.sharding`), how a loss of all of them is
    told. On one device n = N, and there is nothing to do."""

    gather: Callable[[Array], Array] = lambda h: h
    """own units' values [..., n] -> all units' [..., N]"""
    own: Callable[[Array], Array] = lambda h: h
    """[..., N] -> [..., n]"""
    total: Callable[[Array], Array] = lambda x: x
    """a sum over own units -> the sum over all units"""


# Functions have no equality but identity, and arrays no hash: a layer is equal to itself alone, and so
# can be a static argument of `jax.jit` or a key.
def _is(self, other) -> bool:
    return self is other


def _is_not(self, other) -> bool:
    return self is not other


class Cell(NamedTuple):
    """One unit, and how many of it there are (build one with `ej.cells.*`).

    `dynamics` and `output` are written for one unit: every leaf that they see is a scalar. The
    library maps them over units and batch, and takes every Jacobian from them.
    """

    init: Callable[[Array], dict]
    """(key) -> {"w_in": gates of weights, "w_rec": gates of weights, "bias": gates of [n],
    "theta": {name: [n]}, "initial": {component: [n]}}. One drive: plain arrays. Several: a dict by
    gate. What is absent has no key. Dense weights are [n_in, n] and [n, n], others what their
    `synapses` draw."""
    initial_state: Callable[[dict, tuple[int, ...]], PyTree]
    """(params, batch_shape) -> c, each leaf [*batch, n]. Of `params` only the dtype counts, and
    "initial"."""
    dynamics: Callable[[dict, PyTree, PyTree], PyTree]
    """(theta_j, c_j^{t-1}, a_j^t) -> c_j^t: the implicit recurrence."""
    output: Callable[[dict, PyTree], Array]
    """(theta_j, c_j^t) -> h_j^t."""
    constants: dict[str, Any]
    """{name: [n]}: per-unit values that are not trained; [] for a traced number, the same for all."""
    n_in: int
    n_units: int
    synapses: Mapping[str, Synapses]
    """of "w_in" and "w_rec", whose gates share a kind (`ej.synapses`)"""
    shared: tuple[str, ...] = ()
    """Components whose ∂c^t/∂c^{t-1} and ∂c^t/∂a^t are the same for all units, and that depend on
    no other component (the voltage of LIF units with one time constant). Their ε does not depend
    on the postsynaptic unit, and is kept once for all."""
    name: str = "custom"
    """what it is called where it is printed"""
    lasting: tuple[str, ...] = ()
    """Components that a reset leaves as they are, such as a key for noise. `output` does not read
    them."""

    @property
    def connectivity(self) -> Any:
        """None: all, or bool [n, n]: which recurrent synapses [pre, post] exist."""
        there = use.there(self.synapses["w_rec"])
        return None if there.all() else there

    def __repr__(self):
        return f"{self.name} {self.n_in} -> {self.n_units}"

    __eq__, __ne__, __hash__ = _is, _is_not, object.__hash__


class Readout(NamedTuple):
    """Read-out units without explicit recurrence (build one with `ej.readouts.*`; appendix B)."""

    init: Callable[[Array], dict]
    """(key) -> {"w_out": [n, n_out], "bias": [n_out], "theta": {name: [n_out]}}."""
    initial_state: Callable[[dict, tuple[int, ...]], Array]
    """(params, batch_shape) -> y, [*batch, n_out]."""
    dynamics: Callable[[dict, Array, Array], Array]
    """(phi_k, y_k^{t-1}, a_k^t) -> y_k^t for one read-out unit, where a^t = h^t @ w_out + bias."""
    constants: dict[str, Any]
    n_units: int
    n_out: int
    synapses: Mapping[str, Synapses]
    """of "w_out" (`ej.synapses`)"""
    shared: bool = False
    """True where ∂y^t/∂y^{t-1} and ∂y^t/∂a^t are one number for all read-out units and examples:
    then γ is the filtered trace of Eq. 39, one for all of them."""
    name: str = "custom"
    """what it is called where it is printed"""

    def __repr__(self):
        return f"{self.name} {self.n_units} -> {self.n_out}"

    __eq__, __ne__, __hash__ = _is, _is_not, object.__hash__


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Network:
    """Recurrent layers and their read-out. Like both, it is equal to itself alone: it can be a static
    argument of `jax.jit`, or a key.

    One cell is one layer. A list of them is a stack, run layer by layer within the step: parameters,
    states and activities are then tuples, one entry a layer.

    Args:
      cell: from `ej.cells`, or your own; or a list of them, the lowest first.
      readout: from `ej.readouts`, whose `n_units` are the units of the layers that it reads.
      inputs: of each layer, what its w_in hears, joined in this order: "x", the network's inputs, or
        numbers of layers below, at the same step. Default: the first layer hears "x", each other
        the one below it.
      reads: numbers of the layers that the read-out hears, joined in this order. Default: the last.

    Raises:
      TypeError, ValueError: for what is no cell, read-out or wiring; if a cell's `n_in` or the
        read-out's `n_units` is not what it hears.

    Example:
      >>> import jax, eprop_jax as ej
      >>> net = ej.Network(ej.cells.gru(n_in=3, n_units=5), ej.readouts.linear(n_units=5, n_out=2))
      >>> params = net.init(jax.random.key(0))
      >>> params["readout"]["w_out"].shape
      (5, 2)
      >>> net
      Network(gru 3 -> 5, linear 5 -> 2)
      >>> stack = ej.Network([ej.cells.alif(3, 6), ej.cells.gru(9, 5)], ej.readouts.linear(11, 2),
      ...                    inputs=[("x",), ("x", 0)], reads=(0, 1))
      >>> stack
      Network([alif 3 -> 6, gru 9 -> 5], linear 11 -> 2, inputs=(('x',), ('x', 0)), reads=(0, 1))
      >>> [p["bias"].shape if l == 0 else sorted(p["bias"])
      ...  for l, p in enumerate(stack.init(jax.random.key(0))["cell"])]
      [(6,), ['hn', 'n', 'r', 'z']]
    """

    cell: Any
    """the `Cell`, or of a stack the tuple of them"""
    readout: Readout
    inputs: Any = None
    reads: Any = None

    def __post_init__(self):
        if type(self.cell) in (list, tuple):
            object.__setattr__(self, "cell", tuple(self.cell))
        named = [
            (f"cell[{l}]" if self.stacked else "cell", c, Cell) for l, c in enumerate(self.cells)
        ]
        for name, value, kind in (*named, ("readout", self.readout, Readout)):
            if not isinstance(value, kind):
                raise TypeError(
                    f"{name}: got {type(value).__name__}, wanted an ej.{kind.__name__} "
                    f"(from ej.{kind.__name__.lower()}s)"
                )
        inputs, reads = checks.wiring(self.cells, self.readout, self.inputs, self.reads)
        object.__setattr__(self, "inputs", inputs)
        object.__setattr__(self, "reads", reads)

    @property
    def stacked(self) -> bool:
        """Was it made of a list of cells?"""
        return type(self.cell) is tuple

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells, the lowest layer first; of one layer, its own."""
        return self.cell if self.stacked else (self.cell,)

    @property
    def n_in(self) -> int:
        """The number of inputs "x"."""
        l = next(l for l, names in enumerate(self.inputs) if "x" in names)
        return self.cells[l].n_in - sum(self.cells[k].n_units for k in self.inputs[l] if k != "x")

    def __repr__(self):
        cells = f"[{', '.join(map(str, self.cell))}]" if self.stacked else str(self.cell)
        usual = checks.usual_wiring(len(self.cells))
        given = {"inputs": self.inputs, "reads": self.reads}
        more = [f", {k}={v}" for (k, v), x in zip(given.items(), usual) if v != x]
        return f"Network({cells}, {self.readout}{''.join(more)})"

    def init(self, key: Array) -> dict:
        """Draw parameters: {"cell": ..., "readout": ...}, as a plain pytree of arrays. "cell" is a
        dict, of a stack a tuple of dicts.

        Raises:
          TypeError: if `key` is no PRNG key.
        """
        k_cell, k_readout = jax.random.split(checks.key("key", key))
        keys = jax.random.split(k_cell, len(self.cells)) if self.stacked else k_cell
        cell = each_layer(self, lambda cell, k: cell.init(k), tuple(keys) if self.stacked else keys)
        return {"cell": cell, "readout": self.readout.init(k_readout)}

    def apply(
        self, params: dict, xs: Array, state: Any = None, mask: Any = None, resets: Any = None
    ) -> Any:
        """The network without targets: forward, and no more.

        Args:
          params: from `init`; "feedback" may stand in it, and is not read.
          xs: [T, *batch, n_in].
          state: where to start, an `ej.State`, such as `carry.state` or an earlier run's; None: the
            initial state.
          mask: [T, *batch] bool, the steps that count; at others outputs and activity are 0. The
            network runs through them all the same.
          resets: [T, *batch] bool, examples that start from the initial state before a step.

        Returns:
          A NamedTuple: outputs y [T, *batch, n_out], activity h [T, *batch, n] (of a stack a tuple,
          one a layer), and the state after the last step. Its derivative is autodiff's, which is BPTT.

        Raises:
          TypeError, ValueError: for what does not fit the network.

        >>> import jax, jax.numpy as jnp, eprop_jax as ej
        >>> net = ej.Network(ej.cells.gru(n_in=3, n_units=5), ej.readouts.linear(n_units=5, n_out=2))
        >>> run = net.apply(net.init(jax.random.key(0)), jnp.ones((7, 4, 3)))
        >>> run.outputs.shape, run.state.y.shape
        ((7, 4, 2), (4, 2))
        """
        from eprop_jax.network import forward  # which is written with these types

        call = checks.explained(
            functools.partial(forward.apply, self), functools.partial(forward.check_apply, self)
        )
        return call(params, xs, state, Steps(mask, resets))


def by_layer(net: Network, tree: PyTree) -> tuple:
    """What belongs to the cells (parameters, states, activities), as a tuple also of one layer."""
    return tree if net.stacked else (tree,)


def each_layer(net: Network, f: Callable, *trees: PyTree) -> PyTree:
    """f(cell, its part of each tree), in the network's own structure: one, or a tuple."""
    found = tuple(map(f, net.cells, *(by_layer(net, tree) for tree in trees)))
    return found if net.stacked else found[0]


def feedback_like(net: Network) -> PyTree:
    """The shapes of feedback weights B: [n, n_out] a layer."""
    n_out = net.readout.n_out
    return each_layer(net, lambda cell: jax.ShapeDtypeStruct((cell.n_units, n_out), "float32"))


class State(NamedTuple):
    """What the network itself carries: c^t [*batch, n] a component (of a stack a tuple, one a layer),
    and y^t [*batch, n_out]."""

    c: PyTree
    y: Array
    past: PyTree = ()
    """where synapses have delays: by line, what is on its way, the newest first, [*batch, D m] (of a
    stack a tuple, one a layer)"""


class Gamma(NamedTuple):
    """Read-out traces (Eq. 33-34): ∂y^t/∂(read-out parameters) and ∂y^t/∂(cell parameters)."""

    readout: PyTree
    cell: PyTree


class Carry(NamedTuple):
    """What a rule without traces threads through time. Each of the others has a NamedTuple of its own,
    whose first field is `state` too, and whose others are its traces by the paper's symbols."""

    state: State


class FirstCarry(NamedTuple):
    """The same, of a network whose initial state is trained."""

    state: State
    first: Array
    """1 for examples before their first step, then 0: [*batch]"""

    @property
    def spent(self) -> FirstCarry:
        return self._replace(first=jax.numpy.zeros_like(self.first))


class Steps(NamedTuple):
    """What is said of each step and example, [K, *batch] bool; None: nothing."""

    mask: Maybe = None
    """does it count, for the loss and for every regulariser?"""
    resets: Maybe = None
    """does the example start afresh before it, state and traces?"""


NO_STEPS = Steps()


class StepOutput(NamedTuple):
    """What one step call returns beside the carry, for a chunk of K steps."""

    loss: Array
    """[]: Σ over the chunk's steps of the mean loss over the batch, plus the activity loss."""
    grads: PyTree
    """A tree like `params`: this chunk's share of the gradient."""
    outputs: Array
    """y, [K, *batch, n_out]."""
    activity: Array
    """h, [K, *batch, n]; of a stack a tuple, one a layer."""
    losses: Array
    """[K, *batch]: the loss of each step and example."""


class RuleSpec(NamedTuple):
    """What a rule is a rule of: read by `ej.compare` and by printed tables."""

    name: str
    language: str | None
    """the paths that it keeps (`ej.paths`); None: no language says which"""
    network: Network
    loss: Callable
    activity_loss: Callable | None
    feedback: str
    state_loss: Callable | None = None
    gradient: Callable | None = None
    """(spec, params, carry, data, keep) -> (carry, StepOutput, () -> ∂L/∂xs): a chunk, on one batch
    axis and in the compute dtype. `keep`: advance the traces. A rule's own, which `ej.sharding` runs
    elsewhere."""
    moves: tuple = ()
    """the co-states of its adjoint (`engine.adjoint.Onward`), where the engine of one layer runs it"""
    influence: Any = None
    """how its traces are held and moved (`engine.influence.Influence`), where they are its own"""
    costates: Callable | None = None
    """(params) -> the co-states of its adjoint, where the engine of stacks runs it"""
    units: Units = Units()
    """which of the network's units are here"""
    ends: tuple[tuple[str, ...], ...] | None = None
    """of each layer what its paths may end at; None: what the losses and the feedback say"""

    __eq__, __ne__, __hash__ = _is, _is_not, object.__hash__

    def __repr__(self) -> str:
        return f"{self.name}{'' if self.feedback == 'symmetric' else f', {self.feedback} feedback'}"


class LearningRule(NamedTuple):
    """A pair of pure functions, and the whole-sequence form of the same gradient.

    `init(params, batch_shape) -> carry`, a NamedTuple whose first field is `state`;
    `step(params, carry, xs, ys, *, mask=None, resets=None) -> (carry, StepOutput)` for xs
    [K, *batch, n_in] and ys any pytree of [K, *batch, ...]: K is the shape of what is passed. `mask`
    [K, *batch] bool: the steps that count, for the loss and for every regulariser; the network runs
    through the others all the same. `resets` [K, *batch] bool: the examples that start afresh before
    a step, state and traces. `whole(params, xs, ys, *, mask=None, resets=None) -> StepOutput` starts
    from the initial state and keeps no trace; where it is None, `value_and_grad` uses `init` and
    `step`.

    The loss in a StepOutput differentiates by the rule, to params and to xs (`jax.grad`, `jax.jvp`),
    so that it may be a summand of any other loss. A derivative of anything else that a rule gives is
    refused. Equal and hashable by identity.
    """

    init: Callable[..., Any]
    step: Callable[..., tuple[Any, StepOutput]]
    whole: Callable[..., StepOutput] | None = None
    spec: RuleSpec | None = None

    __eq__, __ne__, __hash__ = _is, _is_not, object.__hash__

    def __repr__(self) -> str:
        what = "of your own" if self.spec is None else f"{self.spec}, {self.spec.network}"
        return f"LearningRule({what})"
