"""Refusals. Each names the argument, what came and what was wanted, before anything is traced."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def size(name: str, value) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: got {value!r}, wanted an int >= 1")
    if value < 1:
        raise ValueError(f"{name}: got {value}, wanted an int >= 1")
    return int(value)


def steps(name: str, value) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
        raise ValueError(f"{name}: got {value!r}, wanted an int >= 0 (a number of steps)")
    return int(value)


def instance(name: str, value, kind, wanted: str):
    if not isinstance(value, kind):
        raise TypeError(f"{name}: got {type(value).__name__}, wanted {wanted}")
    return value


def optimizer(name: str, value):
    if not (hasattr(value, "init") and hasattr(value, "update")):
        raise TypeError(f"{name}: got {type(value).__name__}, wanted an optax transformation")
    return value


def is_callable(name: str, value) -> Callable:
    if not callable(value):
        raise TypeError(f"{name}: got {type(value).__name__}, wanted a function")
    return value


def positive(name: str, value):
    array = _numbers(name, value)
    if not np.all(np.isfinite(array) & (array > 0)):
        raise ValueError(f"{name}: got {value}, wanted positive and finite")
    return value


def nonnegative(name: str, value):
    array = _numbers(name, value)
    if not np.all(np.isfinite(array) & (array >= 0)):
        raise ValueError(f"{name}: got {value}, wanted non-negative and finite")
    return value


def finite(name: str, value):
    if not np.all(np.isfinite(_numbers(name, value))):
        raise ValueError(f"{name}: got {value}, wanted finite numbers")
    return value


def number(name: str, value):
    """One real number, also a NumPy or JAX scalar."""
    if np.shape(finite(name, value)) != ():
        raise ValueError(f"{name}: got shape {list(np.shape(value))}, wanted one number")
    return value


def decay(name: str, value):
    array = _numbers(name, value)
    if not np.all((array >= 0) & (array < 1)):
        raise ValueError(f"{name}: got {value}, wanted a decay factor in [0, 1)")
    return value


def per_unit(name: str, value, n: int) -> np.ndarray:
    """A number or [n] -> [n], in the dtype that came."""
    array = _numbers(name, value)
    if array.shape not in ((), (n,)):
        raise ValueError(f"{name}: got shape {array.shape}, wanted a number or [{n}], one a unit")
    return np.broadcast_to(array, (n,)).copy()


def names(name: str, chosen, allowed) -> tuple[str, ...]:
    if not isinstance(chosen, (tuple, list)) or not all(isinstance(c, str) for c in chosen):
        raise TypeError(f"{name}: got {chosen!r}, wanted a tuple of names from {tuple(allowed)}")
    for c in chosen:
        if c not in allowed:
            raise ValueError(f"{name}: got {c!r}, wanted names from {tuple(allowed)}")
    return tuple(chosen)


def flag(name: str, value) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: got {value!r}, wanted True or False")
    return bool(value)


def one_of(name: str, value, allowed) -> str:
    if value not in allowed:
        raise ValueError(f"{name}: got {value!r}, wanted one of {tuple(allowed)}")
    return value


def mask(name: str, value, n: int) -> np.ndarray:
    array = _array(name, value)
    if array.shape != (n, n) or array.dtype != bool:
        raise ValueError(
            f"{name}: got {array.dtype} {list(array.shape)}, wanted bool [{n}, {n}], [pre, post]"
        )
    return array


def key(name: str, value):
    """One PRNG key, typed or raw; it may be traced."""
    dtype, ndim = getattr(value, "dtype", None), getattr(value, "ndim", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not ((typed and ndim == 0) or (dtype == jnp.uint32 and ndim == 1)):
        got = repr(value) if dtype is None else f"{dtype}{list(value.shape)}"
        raise TypeError(f"{name}: got {got}, wanted one PRNG key, such as jax.random.key(0)")
    return value


def folder(name: str, value) -> Path:
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name}: got {value!r}, wanted a path")
    return Path(value)


def array(name: str, value, ndim: int | None = None, form: str = "an array"):
    """What has a shape and a dtype, and so many axes; it may be traced."""
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        raise TypeError(f"{name}: got {type(value).__name__}, wanted {form}, as an array")
    if ndim is not None and len(value.shape) != ndim:
        raise ValueError(f"{name}: got shape {list(value.shape)}, wanted {form}")
    return value


def real(name: str, value):
    """Real numbers or bools of any shape, as an array; one of JAX's, traced or not, stays as it is."""
    array = value if isinstance(value, jax.Array) else _array(name, value)
    numbers = jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool
    if not numbers or jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(f"{name}: got dtype {array.dtype}, wanted real numbers")
    return array


def _numbers(name: str, value) -> np.ndarray:
    array = _array(name, value)
    if not jnp.issubdtype(array.dtype, jnp.number) or np.iscomplexobj(array):
        raise TypeError(f"{name}: got {value!r}, wanted real numbers")
    return array


def _array(name: str, value) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError:  # a ragged list
        raise TypeError(f"{name}: got {value!r}, wanted real numbers") from None


# -- what a rule is given -------------------------------------------------------------------------


def explained(compiled: Callable, check: Callable) -> Callable:
    """A compiled function whose arguments are checked as it is traced. Where that fails, or what came
    cannot be traced at all, `check` says why, of the arguments as they came."""

    names = tuple(inspect.signature(check).parameters)

    def call(*given):
        integers(names, given)
        try:
            return compiled(*given)
        except Exception as found:
            error = found
        check(*given)
        raise error

    return call


def integers(names: tuple[str, ...], given: tuple) -> None:
    """Refuse integers that JAX would wrap: of 64 bits, where it has 32."""
    if jax.config.jax_enable_x64 or not any(map(_is_wide, jax.tree.leaves(given))):
        return
    for (at, *path), x in jax.tree.leaves_with_path(given):
        if _is_wide(x) and x.size and (x.max() > 2**31 - 1 or x.min() < -(2**31)):
            raise ValueError(
                f"{names[at.idx]}{jax.tree_util.keystr(path)}: got integers from {x.min()} to "
                f"{x.max()}, wanted what int32 holds (jax_enable_x64 is off)"
            )


def _is_wide(x) -> bool:
    return (
        isinstance(x, (np.ndarray, np.generic)) and x.dtype.kind in "iu" and x.dtype.itemsize == 8
    )


def parameters(params, expected, feedback_shape: tuple[int, int], reads: bool, rule: str) -> None:
    """`params` must be what `net.init` would give, and hold `feedback` where the rule reads it."""
    if not isinstance(params, dict) or not {"cell", "readout"} <= set(params):
        raise ValueError(
            f"params: got {_describe(params)}, wanted the dict that net.init gives, with the keys "
            "'cell' and 'readout'"
        )
    expected = dict(expected)
    if reads and "feedback" not in params:
        raise ValueError(
            f"params: {rule} reads its feedback weights B {list(feedback_shape)} from "
            "params['feedback'], which is missing; add them with "
            "params['feedback'] = ej.feedback.init(key, net)"
        )
    if "feedback" in params:  # which any rule may be given; whose it is not, it leaves as it is
        expected["feedback"] = jax.ShapeDtypeStruct(feedback_shape, jnp.float32)
    extra = sorted(set(params) - set(expected))
    if extra:
        raise ValueError(
            f"params: got the entries {extra}, which {rule} does not train; remove them (their "
            "gradient would be a silent zero)"
        )
    got, want = _by_path(params), _by_path(expected)
    for path in want.keys() - got.keys():
        raise ValueError(
            f"params{path}: missing, wanted {list(want[path].shape)}; are these the parameters of "
            "another network?"
        )
    for path in got.keys() - want.keys():
        raise ValueError(
            f"params{path}: this network has no such parameter; are these the parameters of "
            "another network?"
        )
    for path, leaf in got.items():
        shape, dtype = jnp.shape(leaf), _dtype(leaf)
        if shape != want[path].shape:
            raise ValueError(
                f"params{path}: got shape {list(shape)}, wanted {list(want[path].shape)}; are "
                "these the parameters of another network?"
            )
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"params{path}: got dtype {dtype}, wanted a floating dtype")
    if jax.tree.structure(params) != jax.tree.structure(expected):
        raise TypeError(
            f"params: got the tree {jax.tree.structure(params)}, wanted plain dicts, as net.init "
            f"gives: {jax.tree.structure(expected)}"
        )
    dtypes = {str(_dtype(leaf)) for leaf in got.values()}
    if len(dtypes) > 1:
        raise TypeError(f"params: got the dtypes {sorted(dtypes)}, wanted one dtype for all leaves")


def batch(value) -> tuple[int, ...]:
    value = (value,) if isinstance(value, (int, np.integer)) else value
    if not isinstance(value, (tuple, list)) or not all(
        isinstance(b, (int, np.integer)) and not isinstance(b, bool) and b >= 1 for b in value
    ):
        raise ValueError(
            f"batch_shape: got {value!r}, wanted a tuple of ints >= 1, such as () or (8,)"
        )
    return tuple(int(b) for b in value)


def inputs(xs, n_in: int, mask=None) -> tuple[int, ...]:
    """xs [T, *batch, n_in] and mask [T, *batch] -> batch shape."""
    if not hasattr(xs, "shape") or not hasattr(xs, "dtype"):
        raise TypeError(f"xs: got {type(xs).__name__}, wanted an array [T, *batch, {n_in}]")
    if xs.ndim < 2 or xs.shape[-1] != n_in:
        raise ValueError(
            f"xs: got shape {list(xs.shape)}, wanted [T, *batch, {n_in}] (time first, n_in={n_in} last)"
        )
    if xs.shape[0] == 0:
        raise ValueError(f"xs: got an empty sequence, shape {list(xs.shape)}, wanted T >= 1")
    if 0 in xs.shape:
        raise ValueError(f"xs: got an empty batch, shape {list(xs.shape)}, wanted sizes >= 1")
    dtype = _dtype(xs)
    if not (jnp.issubdtype(dtype, jnp.number) or dtype == jnp.bool_) or jnp.issubdtype(
        dtype, jnp.complexfloating
    ):
        raise TypeError(f"xs: got dtype {dtype}, wanted real numbers")
    lead = xs.shape[:-1]
    if mask is not None:
        steps_that_count(mask, lead)
    return tuple(lead[1:])


def sequence(xs, ys, n_in: int, mask=None) -> tuple[int, ...]:
    """xs [T, *batch, n_in], every leaf of ys [T, *batch, ...] and mask [T, *batch] -> batch shape."""
    inputs(xs, n_in, mask)
    lead = xs.shape[:-1]
    leaves = _by_path(ys)
    if not leaves:
        raise ValueError("ys: got no arrays, wanted targets [T, *batch, ...]")
    for path, leaf in leaves.items():
        shape = jnp.shape(leaf)
        if shape[: len(lead)] != lead:
            raise ValueError(
                f"ys{path}: got shape {list(shape)}, wanted {list(lead)} + [...]: time and batch as "
                f"in xs, which has shape {list(xs.shape)}"
            )
    return tuple(lead[1:])


def steps_that_count(mask, lead: tuple[int, ...]) -> None:
    if not hasattr(mask, "shape") or not hasattr(mask, "dtype"):
        raise TypeError(f"mask: got {type(mask).__name__}, wanted an array, bool {list(lead)}")
    if mask.dtype != bool:
        raise TypeError(
            f"mask: got dtype {mask.dtype}, wanted bool (mask != 0, say; a step's weight belongs to the "
            "loss, see ej.losses.masked)"
        )
    if tuple(mask.shape) != tuple(lead):
        raise ValueError(
            f"mask: got shape {list(mask.shape)}, wanted {list(lead)}: time and batch as in xs"
        )


def mapping(name: str, value) -> Mapping:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}: got {type(value).__name__}, wanted a dict by name")
    return value


def state(value) -> None:
    """The initial state of one unit: a pytree of numbers."""
    leaves = _by_path(value)
    if not leaves:
        raise ValueError(f"state: got {value!r}, wanted at least one number")
    for path, leaf in leaves.items():
        if np.shape(finite(f"state{path}", leaf)) != ():
            raise ValueError(
                f"state{path}: got shape {list(np.shape(leaf))}, wanted a number: one unit's state"
            )


def loss_value(name: str, value):
    """What a loss returned: a floating array, which a rule sums."""
    if not hasattr(value, "dtype") or not jnp.issubdtype(value.dtype, jnp.floating):
        got = getattr(value, "dtype", type(value).__name__)
        raise TypeError(f"{name}: returned {got}, wanted a floating scalar")
    return value


def carry(
    carry, batch_shape: tuple[int, ...], n_out: int, expected: Callable | None = None
) -> None:
    shape = getattr(getattr(getattr(carry, "state", None), "y", None), "shape", None)
    if shape is None:
        raise TypeError(f"carry: got {type(carry).__name__}, wanted what this rule's init returned")
    if tuple(shape) != (*batch_shape, n_out):
        raise ValueError(
            f"carry: was made for batch {list(shape[:-1])} and n_out={shape[-1]}, but xs has batch "
            f"{list(batch_shape)} and the network n_out={n_out}"
        )
    if expected is None:
        return
    same("carry", carry, expected(), "what this rule's init returns for these parameters")


def same(name: str, tree, want, what: str) -> None:
    """A tree of the structure, shapes and dtypes of another."""
    if jax.tree.structure(tree) != jax.tree.structure(want):
        raise ValueError(f"{name}: got another rule's or another network's tree, wanted {what}")
    for (path, leaf), like in zip(jax.tree.leaves_with_path(tree), jax.tree.leaves(want)):
        if jnp.shape(leaf) != like.shape or _dtype(leaf) != like.dtype:
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)}: got {_dtype(leaf)}{list(jnp.shape(leaf))}, wanted "
                f"{like.dtype}{list(like.shape)}: {what}"
            )


def unit_functions(cell, c, a, theta) -> None:
    """The user's one-unit functions keep the state's structure, shapes and dtypes."""
    out = jax.eval_shape(cell.dynamics, theta, c, a)
    if jax.tree.structure(out) != jax.tree.structure(c):
        raise ValueError(
            f"dynamics: got a state {jax.tree.structure(out)}, wanted {jax.tree.structure(c)}, the "
            "structure of the initial state"
        )
    for (path, was), now in zip(jax.tree.leaves_with_path(c), jax.tree.leaves(out)):
        if was.shape != now.shape or was.dtype != now.dtype:
            raise ValueError(
                f"dynamics: turns the state{jax.tree_util.keystr(path)} from {was.dtype}"
                f"{list(was.shape)} into {now.dtype}{list(now.shape)}; wanted the same shape and dtype"
            )
    if not any(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(c)):
        raise ValueError("state: got no floating component, wanted at least one")
    h = jax.eval_shape(cell.output, theta, c)
    if getattr(h, "shape", None) != () or not jnp.issubdtype(h.dtype, jnp.floating):
        raise ValueError(f"output: got {h}, wanted one floating scalar, h_j")
    _differentiable_forward("dynamics", cell.dynamics, (theta, c, a))
    _differentiable_forward("output", cell.output, (theta, c))


def _differentiable_forward(name: str, function: Callable, args: tuple) -> None:
    """A function that can be called on these shapes can also be differentiated by them."""
    leaves, tree = jax.tree.flatten(args)
    real = [jnp.issubdtype(x.dtype, jnp.floating) for x in leaves]

    def jacobian(leaves):
        def of_real(*given):
            given = iter(given)
            out = function(*tree.unflatten([next(given) if r else x for r, x in zip(real, leaves)]))
            out = [jnp.asarray(x) for x in jax.tree.leaves(out)]
            return [x for x in out if jnp.issubdtype(x.dtype, jnp.floating)]

        primals = [x for r, x in zip(real, leaves) if r]
        return jax.jacfwd(of_real, tuple(range(len(primals))))(*primals)

    try:
        jax.eval_shape(jacobian, leaves)
    except Exception as error:
        raise TypeError(
            f"{name}: got a function that jax.jacfwd does not take ({first_line(error)}), "
            "wanted one that can be differentiated forward; where it has a derivative of its own, "
            "jax.custom_jvp and not jax.custom_vjp"
        ) from None


def first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _by_path(tree) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _dtype(leaf):
    return leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype


def _describe(value) -> str:
    return (
        f"a dict with the keys {sorted(map(str, value))}"
        if isinstance(value, dict)
        else type(value).__name__
    )
