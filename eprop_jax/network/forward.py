"""The network itself: drives, one step, a chunk of steps. Batches are one axis here, [K, B, ...]."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax import checks
from eprop_jax.network import affine, unitwise
from eprop_jax.network.synapses import Synapses, use
from eprop_jax.network.types import (
    Array,
    Cell,
    Network,
    PyTree,
    Readout,
    State,
    Steps,
    each_layer,
    feedback_like,
)
from eprop_jax.network.units import compute_dtype
from eprop_jax.network.unitwise import ONE_DRIVE


class Trajectory(NamedTuple):
    """A chunk of K steps: what the gradient needs of it. States and outputs are stored once, as they
    are *before* each step, with the last one beside them; the shifted views are made where needed."""

    x: Array
    """what w_in hears, [K, B, n_in]"""
    past: PyTree
    """what is on its way after the chunk"""
    c_tm1: PyTree
    """c^{t-1}, [K, B, n] a component"""
    c_K: PyTree
    """[B, n] a component: the state after the chunk"""
    a: PyTree
    """drives a^t, [K, B, n]"""
    h_tm1: Array
    """[K, B, n]"""
    far: Array | None
    """what w_rec hears, where that is not h^{t-1} (units on other devices, delays): [K, B, N]"""
    h_K: Array
    """[B, n]"""
    y_0: Array
    """[B, n_out]"""
    y: Array
    """[K, B, n_out]"""
    a_out: Array
    """the read-out's drives, [K, B, n_out]"""
    y_tm1: Array
    """[K, B, n_out]"""
    resets: Array | None = None
    """[K, B]: examples that start afresh before a step"""
    ends: tuple[PyTree, Array] | None = None
    """where there are resets, c^t and h^t: then they are not what the next step finds"""

    @property
    def heard(self) -> Array:
        """What w_rec hears, [K, B, N]"""
        return self.h_tm1 if self.far is None else self.far

    @property
    def h(self) -> Array:
        """h^t, [K, B, n]"""
        return after(self.h_tm1, self.h_K) if self.ends is None else self.ends[1]

    @property
    def c(self) -> PyTree:
        """c^t, [K, B, n] a component"""
        return jax.tree.map(after, self.c_tm1, self.c_K) if self.ends is None else self.ends[0]

    @property
    def h_0(self) -> Array:
        return self.h_tm1[0]

    @property
    def c_0(self) -> PyTree:
        return jax.tree.map(lambda c: c[0], self.c_tm1)


def before(x_0: Array, x: Array) -> Array:
    """x^0 and x^1 … x^K -> x^0 … x^{K-1}."""
    return jnp.concatenate([x_0[None], x[:-1]])


def after(x_tm1: Array, x_K: Array) -> Array:
    """x^0 … x^{K-1} and x^K -> x^1 … x^K."""
    return jnp.concatenate([x_tm1[1:], x_K[None]])


def afresh(resets_t: Array | None, fresh: PyTree, x: PyTree) -> PyTree:
    """x [B, n], or of examples that start afresh the initial values; None: what goes on."""
    if resets_t is None:
        return x

    def chosen(new, old):
        return old if new is None else jnp.where(resets_t[:, None], new, old)

    return jax.tree.map(chosen, fresh, x, is_leaf=lambda new: new is None)


def initial(cell: Cell, p: dict, batch: int) -> tuple[PyTree, Array]:
    """c^0 and h^0 of examples that start afresh: [B, n], None for components that last."""
    c = cell.initial_state(p, (batch,))
    h = unitwise.output(cell, p, c)
    if not cell.lasting:
        return c, h
    leaves, names = jax.tree.leaves(c), unitwise.names(c)
    left = [None if name in cell.lasting else x for name, x in zip(names, leaves)]
    return jax.tree.structure(c).unflatten(left), h


def run(
    net: Network, params: dict, state: State, xs: Array, resets: Array | None = None
) -> Trajectory:
    """K steps from `state`; before some, some examples start afresh.

    a^t = W_in x^t + W_rec h^{t-1} + b;  c^t = dynamics(c^{t-1}, a^t);  h^t = output(c^t);
    y^t = read-out(y^{t-1}, W_out h^t + b_out).
    """
    cell = net.cell
    p_cell, p_out = params["cell"], params["readout"]
    recur, inward = (drive(cell, p_cell, line) for line in ("w_rec", "w_in"))
    of_rec, past = cell.synapses["w_rec"], state.past
    xs = heard_in(cell, past, xs, resets)
    outward = drive(net.readout, p_out, "w_out")
    to_y = lambda h: outward(h)[ONE_DRIVE]
    fresh = None if resets is None else initial(cell, p_cell, xs.shape[1])

    def step(carry, at):
        (*own, past), (x_t, resets_t) = carry, at
        c_tm1, h_tm1 = afresh(resets_t, fresh, tuple(own))
        heard, past = heard_rec(of_rec, past, h_tm1, resets_t)
        far = None if heard is h_tm1 else heard
        a_t = both(driven(cell, p_cell, inward(x_t), x_t), recur(heard))
        c_t = unitwise.dynamics(cell, p_cell, c_tm1, a_t)
        h_t = unitwise.output(cell, p_cell, c_t)
        ends = None if resets is None else (c_t, h_t)
        return (c_t, h_t, past), (c_tm1, a_t, h_tm1, far, ends, to_y(h_t))

    start = (state.c, unitwise.output(cell, p_cell, state.c), past_of(past, "w_rec"))
    within = lambda: driven(cell, p_cell, inward(xs), xs)
    ran = over_time(cell, p_cell, step, start, (xs, resets), within, fresh, to_y)
    # (h^{t-1} follows from c^{t-1}: a long sequence that makes it anew does not hold it.)
    (c_K, h_K, past_K), (c_tm1, a, h_tm1, far, ends, a_out) = ran
    a_out = a_out + along(p_out["bias"], a_out) if "bias" in p_out else a_out

    y, y_tm1 = read(net, p_out, state.y, a_out, resets)
    past = after_chunk(cell, past, xs, past_K)
    return Trajectory(
        xs, past, c_tm1, c_K, a, h_tm1, far, h_K, y_tm1[0], y, a_out, y_tm1, resets, ends
    )


def over_time(
    cell: Cell,
    p: dict,
    step: Callable,
    start: Any,
    xs: Any,
    within: Callable,
    fresh: Any,
    beyond: Callable[[Array], Any],
) -> Any:
    """`step` scanned over xs, whose second entry are the resets. Of units that nothing recurrent
    drives, and whose dynamics is affine, the same at once where the device gains by it: `within` is
    their drive, {gate: [K, B, n]}, `beyond` what is made of h^t within the step."""
    steps = lambda: jax.lax.scan(step, start, xs)
    if not affine.is_affine(cell, p, start[0]):
        return steps()
    resets, (c_0, h_0, past) = xs[1], start

    def at_once():
        a = unitwise.of_gates(within())
        c = affine.states(cell, p, c_0, a, resets, fresh and fresh[0])
        h = unitwise.output(cell, p, c)
        c_tm1, h_tm1 = jax.tree.map(before, (c_0, h_0), (c, h))
        if resets is not None:
            c_tm1, h_tm1 = jax.vmap(lambda r, x: afresh(r, fresh, x))(resets, (c_tm1, h_tm1))
        c_K, h_K = jax.tree.map(lambda x: x[-1], (c, h))
        ends = None if resets is None else (c, h)
        return (c_K, h_K, past), (c_tm1, a, h_tm1, None, ends, beyond(h))

    return affine.by_device(steps, at_once)


def read(
    net: Network, p_out: dict, y_0: Array, a_out: Array, resets: Array | None
) -> tuple[Array, Array]:
    """The read-out over a chunk: (y^t, y^{t-1} as each step finds it), [K, B, n_out]."""
    readout = unitwise.as_cell(net.readout)
    fresh = None if resets is None else net.readout.initial_state(p_out, a_out.shape[1:2])

    def step(y_tm1, at):
        a_t, resets_t = at
        y_t = unitwise.dynamics(readout, p_out, afresh(resets_t, fresh, y_tm1), a_t)
        return y_t, y_t

    _, y = jax.lax.scan(step, y_0, (a_out, resets))
    y_tm1 = before(y_0, y)
    if resets is None or fresh is None:
        return y, y_tm1
    return y, jnp.where(resets[..., None], fresh, y_tm1)


def init_state(net: Network, params: dict, batch_shape: tuple[int, ...]) -> State:
    """What the network itself starts from."""
    c = each_layer(net, lambda cell, p: cell.initial_state(p, batch_shape), params["cell"])
    y = net.readout.initial_state(params["readout"], batch_shape)

    def on_its_way(cell: Cell, p: dict) -> dict:
        late = {line: s for line, s in cell.synapses.items() if s.delay and line in p}
        size = {line: (*batch_shape, s.delay * s.n_pre) for line, s in late.items()}
        return {line: jnp.zeros(shape, y.dtype) for line, shape in size.items()}

    if not any(s.delay for cell in net.cells for s in cell.synapses.values()):
        return State(c, y)
    return State(c, y, each_layer(net, on_its_way, params["cell"]))


# -- what is heard late ----------------------------------------------------------------------------


def past_of(past: PyTree, line: str) -> Any:
    """What is on its way on a line; () where it has no delay."""
    return past[line] if line in past else ()


def heard_in(cell: Cell, past: PyTree, xs: Array, resets: Array | None) -> Array:
    """What w_in hears over a chunk."""
    if "w_in" not in past:
        return xs
    return use.lagged(cell.synapses["w_in"], past["w_in"], xs, resets)


def heard_rec(s: Synapses, past: Any, h_tm1: Array, resets_t: Array | None) -> tuple[Array, Any]:
    """What w_rec hears at one step, and what will be on its way after it."""
    if s.hear is not None:
        return s.hear(h_tm1), past
    if isinstance(past, tuple):
        return h_tm1, past
    past = past if resets_t is None else jnp.where(resets_t[:, None], 0, past)
    heard = jnp.concatenate([h_tm1, past], -1)
    return heard, use.kept(s, heard)


def after_chunk(cell: Cell, past: PyTree, heard: Array, past_K: Any) -> PyTree:
    """What is on its way after a chunk in which w_in has heard this."""
    if isinstance(past, tuple):
        return past
    at = {"w_rec": past_K} if "w_rec" in past else {}
    return at | ({"w_in": use.kept(cell.synapses["w_in"], heard[-1])} if "w_in" in past else {})


def compute(net: Network, params: dict) -> dict:
    """Parameters as the mathematics uses them: at least float32, absent synapses zero."""
    params = jax.tree.map(lambda p: p.astype(compute_dtype(params)), params)
    return existing(net, params)


def existing(net: Network, params: dict) -> dict:
    """Parameters, or their gradients, with zeros for the synapses that do not exist."""

    def of_layer(layer: Cell | Readout, p: dict) -> dict:
        lines = {line: s for line, s in layer.synapses.items() if line in p}
        return p | {
            line: jax.tree.map(functools.partial(use.existing, s), p[line])
            for line, s in lines.items()
        }

    return {
        **params,
        "cell": each_layer(net, of_layer, params["cell"]),
        "readout": of_layer(net.readout, params["readout"]),
    }


class Run(NamedTuple):
    """What `net.apply` gives."""

    outputs: Array
    """y, [T, *batch, n_out]"""
    activity: Array
    """h, [T, *batch, n]; of a stack a tuple, one a layer"""
    state: State
    """after the last step"""


def check_apply(net: Network, params: dict, xs: Array, state: Any, steps: Any) -> None:
    expected = jax.eval_shape(net.init, jax.random.key(0))
    checks.parameters(params, expected, feedback_like(net), False, "net.apply")
    batch = checks.inputs(xs, net.n_in, steps)
    if state is not None:
        like = jax.eval_shape(lambda p: init_state(net, p, batch), params)
        checks.same("state", state, like, "an ej.State for this batch, as a carry's or net.apply's")


@functools.partial(jax.jit, static_argnums=0)
def apply(net: Network, params: dict, xs: Array, state: State | None, steps: Steps) -> Run:
    """The network alone, for a batch of any shape."""
    from eprop_jax.network import stacks  # which is written with this module

    check_apply(net, params, xs, state, steps)
    batch, dtype = xs.shape[1:-1], compute_dtype(params)
    state = init_state(net, params, batch) if state is None else state
    flat = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), state)
    xs = xs.reshape(xs.shape[0], -1, xs.shape[-1]).astype(dtype)
    mask, resets = steps
    fresh = None if resets is None else resets.reshape(xs.shape[:2])
    path = (stacks.run if net.stacked else run)(net, compute(net, params), flat, xs, fresh)
    after_K = jax.tree.map(
        lambda x, like: x.reshape(like.shape), State(path.c_K, path.y[-1], path.past), state
    )

    def shown(x):
        x = x.reshape(x.shape[0], *batch, x.shape[-1])
        return x if mask is None else jnp.where(mask[..., None], x, jnp.zeros_like(x))

    return Run(shown(path.y), jax.tree.map(shown, path.h), after_K)


def drive(layer: Cell | Readout, p: dict, line: str) -> Callable[[Array], dict[str, Array]]:
    """What a line hears -> {gate: [..., n]}."""
    return use.drive(layer.synapses[line], unitwise.as_gates(p.get(line, {})))


def driven(cell: Cell, p: dict, by_in: dict, x: Array) -> dict[str, Array]:
    """The drive that does not wait for h^{t-1}: {gate: [..., n]}, zeros for a recurrent-only gate."""
    bias = unitwise.as_gates(p.get("bias", {}))
    zero = jnp.zeros((*x.shape[:-1], cell.n_units), x.dtype)
    a = {g: by_in.get(g, zero) for g in unitwise.gate_names(p)}
    return {g: x + along(bias[g], x) if g in bias else x for g, x in a.items()}


def both(a: dict[str, Array], by_rec: dict[str, Array]) -> PyTree:
    """The drive as `dynamics` takes it."""
    return unitwise.of_gates({g: x + by_rec[g] if g in by_rec else x for g, x in a.items()})


def along(vector: Array, like: Array) -> Array:
    """[n] -> [..., n]."""
    return jnp.broadcast_to(vector, like.shape)
