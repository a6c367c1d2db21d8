"""The user's own functions: the losses of one example, the dynamics and output of one unit.

They are tried on shapes alone. One that was written for more than it sees is refused in words that
say what it sees, beside what Python said.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp

from eprop_jax import checks
from eprop_jax.network import traced, unitwise

SEES = {
    "loss": (
        "y, target",
        "one example at one step",
        "y [n_out] and a target without time and batch",
    ),
    "activity_loss": ("f", "one example's mean activity", "f [n]"),
    "state_loss": ("c", "one unit's state at one step", "scalars"),
    "dynamics": ("theta and constants, c, a", "one unit at one step", "scalars"),
    "output": ("theta and constants, c", "one unit at one step", "scalars"),
}
"""Each function's arguments, what it sees, and what those arguments are."""


def loss_value(name: str, loss: Callable, *args):
    """What a loss returns of one example: a floating array, which a rule sums."""
    value = of_one(name, loss, *args)
    if not hasattr(value, "dtype") or not jnp.issubdtype(value.dtype, jnp.floating):
        got = getattr(value, "dtype", type(value).__name__)
        raise TypeError(f"{name}: returned {got}, wanted a floating scalar")
    return value


def of_one(name: str, function: Callable, *args):
    """A user's function of one example, step or unit. Where it was written for more, say so."""
    try:
        return function(*args)
    except (TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
        if _ours(error):
            raise
        labels, sees, wanted = SEES[name]
        given = ", ".join(f"{x} {checks.form(arg)}" for x, arg in zip(labels.split(", "), args))
        why = f"{type(error).__name__}: {checks.first_line(error)}"
        raise TypeError(
            f"{name}: got a function that fails ({why}) on {given}; your {name} sees {sees}, "
            f"wanted a function of {wanted}"
        ) from error


def _ours(error: Exception) -> bool:
    """Is it a refusal already, such as that of `ej.losses.squared_error`?"""
    return re.match(r"[\w'\[\]]+: .*\bwanted\b", str(error), re.DOTALL) is not None


def unit_functions(cell, z_j) -> None:
    """The user's one-unit functions keep the state's structure, shapes and dtypes. `z_j`: what one unit
    sees, its shapes."""
    theta, c, a = z_j["theta"], z_j["c"], z_j["a"]
    dynamics = traced.once(unitwise.next_state, cell.dynamics)
    of_shapes = lambda theta, c, a: jax.eval_shape(dynamics, {"theta": theta, "c": c, "a": a})
    out = of_one("dynamics", of_shapes, theta, c, a)
    if jax.tree.structure(out) != jax.tree.structure(c):
        raise ValueError(
            f"dynamics: returned {checks.form(out)}, wanted {checks.form(c)}, the structure of the "
            "initial state"
        )
    for (path, was), now in zip(jax.tree.leaves_with_path(c), jax.tree.leaves(out)):
        if was.shape != now.shape or was.dtype != now.dtype:
            array = f"; your dynamics sees {SEES['dynamics'][1]}" if was.shape != now.shape else ""
            raise ValueError(
                f"dynamics: turns the state{jax.tree_util.keystr(path)} from {was.dtype}"
                f"{list(was.shape)} into {now.dtype}{list(now.shape)}; wanted the same shape and "
                f"dtype{array}"
            )
    if not any(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(c)):
        raise ValueError("state: got no floating component, wanted at least one")
    output = traced.once(unitwise.of_state, cell.output)
    of_shapes = lambda theta, c: jax.eval_shape(output, {"theta": theta, "c": c})
    h = of_one("output", of_shapes, theta, c)
    if getattr(h, "shape", None) != () or not jnp.issubdtype(h.dtype, jnp.floating):
        raise ValueError(f"output: got {h}, wanted one floating scalar, h_j")


def differentiable_forward(cell, z_j) -> None:
    """Refuse one-unit functions that can be called on these shapes but not differentiated by them."""
    of_output = {"theta": z_j["theta"], "c": z_j["c"]}
    _differentiable_forward("dynamics", functools.partial(unitwise.next_state, cell.dynamics), z_j)
    _differentiable_forward("output", functools.partial(unitwise.of_state, cell.output), of_output)


def _differentiable_forward(name: str, function: Callable, z_j: dict) -> None:
    leaves, tree = jax.tree.flatten(z_j)
    real = [jnp.issubdtype(x.dtype, jnp.floating) for x in leaves]

    def jacobian(leaves):
        def of_real(*given):
            given = iter(given)
            out = function(tree.unflatten([next(given) if r else x for r, x in zip(real, leaves)]))
            out = [jnp.asarray(x) for x in jax.tree.leaves(out)]
            return [x for x in out if jnp.issubdtype(x.dtype, jnp.floating)]

        primals = [x for r, x in zip(real, leaves) if r]
        return jax.jacfwd(of_real, tuple(range(len(primals))))(*primals)

    try:
        jax.eval_shape(jacobian, leaves)
    except Exception as error:
        raise TypeError(
            f"{name}: got a function that jax.jacfwd does not take ({checks.first_line(error)}), "
            "wanted one that can be differentiated forward; where it has a derivative of its own, "
            "jax.custom_jvp and not jax.custom_vjp"
        ) from None
