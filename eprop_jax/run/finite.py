"""Where a number that is not finite came from: in which step, unit and parameter it first stood.

On the host it is an error that is raised; inside what is compiled, a check of
`jax.experimental.checkify`. Both stand in a function of their own: a rule that is not asked pays
nothing.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import core
from jax.experimental import checkify

from eprop_jax.engine import definition, objective
from eprop_jax.engine import jacobians as jac
from eprop_jax.network import forward, stacks, unitwise
from eprop_jax.network.types import Array, LearningRule, PyTree, RuleSpec, State
from eprop_jax.run.sequence import Aux, value_and_grad


class Watched(NamedTuple):
    """An array whose numbers must be finite."""

    name: str
    x: Array
    axes: tuple[str, ...] | None = None
    """What each axis counts, time first; None for a parameter, whose index is told as it is."""
    losses: Array | None = None
    """It counts where these, over its first axes, are not finite; None: everywhere."""


class Finding(NamedTuple):
    """The first number of an array that is not finite."""

    text: str
    """a format of `got` and the index `i`"""
    bad: Any
    """is there one, and is no other array's earlier?"""
    got: Any
    i: tuple[Any, ...]


class Values(NamedTuple):
    """All that is looked at."""

    params: PyTree
    xs: Array
    ys: PyTree
    c: dict[str, Array]
    """c^t by component, [T, *batch, n]"""
    aux: Aux
    loss: Array
    grads: PyTree


def check_finite(rule: LearningRule, chunk: Any = None) -> Callable[..., tuple[Array, PyTree]]:
    """`ej.value_and_grad(rule, chunk)` that stops at the first number that is not finite.

    What is given comes first (parameters, then xs), then what the network does, in time and within
    a step in the order c, h, y, loss, then the gradient. A target that is not finite is named where
    the loss is not finite for it; where a mask hides it, it does no harm. Of a gradient that is not
    finite although the loss is, the message also tells the first local derivative (∂c^t/∂c^{t-1},
    ∂h^t/∂c^t, ∂L/∂y^t, …) that is not.

    Inside a function of your own that is compiled, the checks are those of
    `jax.experimental.checkify`: functionalise it with `checkify.checkify`.

    Args:
      rule: a learning rule. Of one without a `spec`, the hidden state is not seen.
      chunk: as in `ej.value_and_grad`.

    Returns:
      f(params, xs, ys, *, mask=None) -> (loss, grads), as `ej.value_and_grad` gives them.

    Raises:
      TypeError, ValueError: as `ej.value_and_grad`.
      FloatingPointError: when called; steps, examples, inputs, units and read-outs count from 0.

    >>> import jax, jax.numpy as jnp, eprop_jax as ej
    >>> net = ej.Network(ej.cells.gru(3, 5), ej.readouts.linear(5, 2))
    >>> check = ej.check_finite(ej.eprop(net, ej.losses.squared_error))
    >>> params, xs, ys = net.init(jax.random.key(0)), jnp.ones((20, 4, 3)), jnp.ones((20, 4, 2))
    >>> loss, grads = check(params, xs, ys)
    >>> check(params, xs.at[17, 2, 1].set(jnp.nan), ys)
    Traceback (most recent call last):
    ...
    FloatingPointError: xs: got nan at step 17, example 2, input 1, wanted finite numbers
    """
    gradient = value_and_grad(rule, chunk=chunk, has_aux=True)
    spec = rule.spec
    if spec is not None:
        states = jax.jit(lambda *given: _states(spec, *given))
        derivatives = jax.jit(lambda *given: _derivatives(spec, *given))

    def f(params, xs, ys, *, mask=None):
        (loss, aux), grads = gradient(params, xs, ys, mask=mask)
        c = {} if spec is None else states(params, xs)
        values = Values(params, xs, ys, c, aux, loss, grads)
        if any(isinstance(x, core.Tracer) for x in jax.tree.leaves(values)):
            for text, bad, got, i in _findings(_watched(values), jnp):
                checkify.check(~bad, text, got=got, i=jnp.array([*i, 0]))
            return loss, grads
        message = _first(_watched(values))
        if message and message.startswith("grads") and spec is not None:
            message += _origin(spec, derivatives(params, xs, ys), params, xs, ys)
        if message:
            raise FloatingPointError(message)
        return loss, grads

    return f


def _origin(spec: RuleSpec, of_steps: dict, params: dict, xs: Array, ys: PyTree) -> str:
    """Why a gradient is not finite where the loss is."""
    found = _first([[Watched(name, x, _axes(x, last)) for (name, last), x in of_steps.items()]])
    if found:
        return f"; first, {found}"
    t = _first_loss(spec, params, xs, ys)
    if t is None:
        return ""
    return (
        f"; every derivative of a single step is finite, and so is the gradient of the losses "
        f"before step {t}, but not with that of step {t}"
    )


def _first_loss(spec: RuleSpec, params: dict, xs: Array, ys: PyTree) -> int | None:
    """The step whose loss makes the whole sequence's gradient more than its dtype can hold."""
    if spec.gradient is None:
        return None

    def loss(y, target):
        target, counts = target
        return jnp.where(counts, jnp.sum(spec.loss(y, target)), jnp.zeros((), y.dtype))

    whole = definition.build(
        spec._replace(loss=loss), definition.without_traces, spec.gradient
    ).whole
    T = xs.shape[0]

    def finite(t):
        """... with the losses of the first t steps."""
        counts = jnp.broadcast_to(jnp.arange(T) < t, (*xs.shape[-2:0:-1], T)).T
        grads = whole(params, xs, (ys, counts)).grads
        return all(bool(jnp.all(jnp.isfinite(g))) for g in jax.tree.leaves(grads))

    low, high = 0, T
    if not finite(low) or finite(high):  # the activity loss, or a gradient in chunks
        return None
    while high - low > 1:
        t = (low + high) // 2
        low, high = (t, high) if finite(t) else (low, t)
    return low


# -- what is looked at ----------------------------------------------------------------------------


def _watched(v: Values) -> list[list[Watched]]:
    """In groups, of which the first that has a finding tells; in a group, the first in time."""
    run = [
        *(Watched(name, c, _axes(c, "unit")) for name, c in v.c.items()),
        *(
            Watched(f"h{jax.tree_util.keystr(path)}", h, _axes(h, "unit"))
            for path, h in jax.tree.leaves_with_path(v.aux.activity)
        ),
        Watched("y", v.aux.outputs, _axes(v.aux.outputs, "read-out")),
        *_targets(v.ys, v.aux.losses),
        Watched("loss", v.aux.losses, _axes(v.aux.losses)),
    ]
    return [
        *_leaves("params", v.params),
        [Watched("xs", v.xs, _axes(v.xs, "input"))],
        run,
        [Watched("loss", v.loss)],  # the activity loss, or the sum
        *_leaves("grads", v.grads),
    ]


def _leaves(name: str, tree: PyTree) -> list[list[Watched]]:
    return [
        [Watched(f"{name}{jax.tree_util.keystr(path)}", x)]
        for path, x in jax.tree.leaves_with_path(tree)
    ]


def _targets(ys: PyTree, losses: Array) -> list[Watched]:
    """Targets count in the steps and examples whose loss is not finite."""
    lead = _axes(losses)
    return [
        Watched(
            f"ys{jax.tree_util.keystr(path)}", y, (*lead, *["value"] * (y.ndim - len(lead))), losses
        )
        for path, y in jax.tree.leaves_with_path(ys)
        if jnp.issubdtype(y.dtype, jnp.inexact)
    ]


def _states(spec: RuleSpec, params: dict, xs: Array) -> dict[str, Array]:
    net, folded = spec.network, objective.fold(params, xs, ()).xs
    weights = forward.compute(net, params)
    state = forward.init_state(net, weights, folded.shape[1:-1])
    if net.stacked:
        c = tuple(ran.path.c for ran in stacks.run(net, weights, state, folded).ran)
    else:
        c = forward.run(net, weights, state, folded).c
    return {
        name: x.reshape(*xs.shape[:-1], x.shape[-1])
        for name, x in zip(_components(c), unitwise.floats(c))
    }


def _derivatives(spec: RuleSpec, params: dict, xs: Array, ys: PyTree) -> dict:
    """All local derivatives of single steps: D, B, Θ, ψ, Ξ of units and read-outs, and ∂L/∂y.

    {(name, what the last axis counts): [T, *batch, n]}
    """
    net, lead = spec.network, xs.shape[:-1]
    weights = forward.compute(net, params)
    data = objective.fold(params, xs, ys)
    state = forward.init_state(net, weights, data.xs.shape[1:-1])
    if net.stacked:
        found = _of_stack(spec, weights, state, data)
        return {name: x.reshape(*lead, x.shape[-1]) for name, x in found.items() if x is not None}
    chunk = objective.meet(spec, weights, state, data)
    run, readout = chunk.run, unitwise.as_cell(net.readout)
    J = jac.blocks(net.cell, weights["cell"], run.c_tm1, run.a, run.c)
    J_out = jac.blocks(readout, weights["readout"], run.y_tm1, run.a_out, run.y)
    found = {
        **_named(J, _components(run.c), "unit", output="h"),
        **_named(J_out, ["y"], "read-out"),
        ("∂L/∂y^t", "read-out"): chunk.dL_dy,
    }
    found |= {
        (f"∂L/∂{name}^t", "unit"): x for name, x in zip(_components(run.c), chunk.dL_dc or ())
    }
    if chunk.dL_dh is not None:
        found["∂L/∂h^t", "unit"] = jnp.broadcast_to(chunk.dL_dh, run.h.shape)
    return {name: x.reshape(*lead, x.shape[-1]) for name, x in found.items() if x is not None}


def _of_stack(spec: RuleSpec, weights: dict, state: State, data: objective.Data) -> dict:
    """The same of a stack, on one batch axis: {(name, …): [T, B, n]}; without losses of activities
    and states."""
    net, readout = spec.network, unitwise.as_cell(spec.network.readout)
    run, found = stacks.run(net, weights, state, data.xs), {}
    for l, (cell, p, ran) in enumerate(zip(net.cells, weights["cell"], run.ran)):
        path = ran.path
        J = jac.blocks(cell, p, path.c_tm1, path.a, path.c)
        names = [f"c[{l}]{name[1:]}" for name in _components(path.c)]
        found |= _named(J, names, "unit", output=f"h[{l}]")
    out = run.path_out
    J = jac.blocks(readout, weights["readout"], out.c_tm1, out.a, out.c)
    dL_dy = jax.vmap(jax.vmap(jax.grad(objective.per_step(spec))))(run.y, data.ys)
    return found | _named(J, ["y"], "read-out") | {("∂L/∂y^t", "read-out"): dL_dy}


def _named(
    J: jac.Blocks, c: list[str], last: str, output: str | None = None
) -> dict[tuple[str, str], Any]:
    """{("∂c^t/∂c^{t-1}", last): block}; a read-out's output is y itself."""
    drive = lambda gate: "a" if gate == unitwise.ONE_DRIVE else f"a_{gate}"
    found = {}
    for r, name in enumerate(c):
        found |= {f"∂{name}^t/∂{c[i]}^{{t-1}}": x for i, x in enumerate(J.D[r])}
        found |= {f"∂{name}^t/∂{drive(g)}^t": x for g, x in J.B[r].items()}
        found |= {f"∂{name}^t/∂{k}": x for k, x in J.Theta[r].items()}
    if output is not None:
        found |= {f"∂{output}^t/∂{c[i]}^t": x for i, x in enumerate(J.psi)}
        found |= {f"∂{output}^t/∂{k}": x for k, x in J.Xi.items()}
    return {(name, last): x for name, x in found.items()}


def _components(c: PyTree) -> list[str]:
    paths = [path for path, _ in jax.tree.leaves_with_path(c)]
    names = [jax.tree_util.keystr(paths[i], simple=True) for i in unitwise.float_positions(c)]
    written = lambda name: re.sub(r"^(\d+)", r"[\1]", name)  # a layer's number, of a stack
    return ["c" + (written(x) if x[:1].isdigit() else f".{x}" if x else "") for x in names]


# -- checks ---------------------------------------------------------------------------------------


def _axes(x: Array, *last: str) -> tuple[str, ...]:
    return ("step", *["example"] * (x.ndim - 1 - len(last)), *last)


def _findings(groups: list[list[Watched]], xp: Any) -> Iterator[Finding]:
    """Of each array, in order; with `xp` NumPy as numbers, with jax.numpy as what may be traced."""
    for group in groups:
        at = [_locate(w.x, w.losses) for w in group]
        index = [
            xp.unravel_index(xp.asarray(flat), jnp.shape(w.x)) for w, (_, flat, _) in zip(group, at)
        ]
        steps = [
            xp.where(a[0], i[0], 2**31 - 1) if len(group) > 1 else 0 for a, i in zip(at, index)
        ]
        earliest = functools.reduce(xp.minimum, steps)
        for w, (bad, _, got), i, step in zip(group, at, index, steps):
            yield Finding(_text(w), xp.asarray(bad) & (step == earliest), got, i)


@jax.jit
def _locate(x: Array, losses: Array | None) -> tuple[Array, Array, Array]:
    """(is there a number that is not finite, the flat index of the first, that number)."""
    bad = ~jnp.isfinite(x)
    if losses is not None:
        counts = ~jnp.isfinite(losses).reshape(losses.shape + (1,) * (x.ndim - losses.ndim))
        bad = bad & jnp.broadcast_to(counts, x.shape)
    flat = jnp.argmax(bad)
    return jnp.any(bad), flat, jnp.ravel(x)[flat].astype(jnp.float32)


def _first(groups: list[list[Watched]]) -> str | None:
    for text, bad, got, i in _findings(groups, np):
        if bad:
            return text.format(got=float(got), i=i)
    return None


def _text(w: Watched) -> str:
    """xs: got {got} at step {i[0]}, example {i[1]}, input {i[2]};  w: got {got} at [{i[0]}, {i[1]}]"""
    numbers = [f"{{i[{k}]}}" for k in range(jnp.ndim(w.x))]
    if w.axes is None:
        where = f" at [{', '.join(numbers)}]" if numbers else ""
    else:
        by_name: dict[str, list[str]] = {}
        for axis, number in zip(w.axes, numbers):
            by_name.setdefault(axis, []).append(number)
        together = lambda n: n[0] if len(n) == 1 else f"({', '.join(n)})"
        where = " at " + ", ".join(f"{axis} {together(n)}" for axis, n in by_name.items())
    name = w.name.replace("{", "{{").replace("}", "}}")
    return f"{name}: got {{got}}{where}, wanted finite numbers"
