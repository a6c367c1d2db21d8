"""Refusals of what a rule is given: parameters, sequences, masks, carries. Of shapes, dtypes and trees
alone, so that they can be made as a call is traced."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax.checks.forms import by_path, describe, dtype_of
from eprop_jax.checks.values import finite, fits, is_traced


def explained(compiled: Callable, check: Callable) -> Callable:
    """A compiled function whose arguments are checked as it is traced. Where that fails, or what came
    cannot be traced at all, `check` says why, of the arguments as they came."""

    at = {name: i for i, name in enumerate(inspect.signature(check).parameters)}
    data = [(name, at[name]) for name in ("xs", "ys") if name in at]

    def call(*given):
        for name, i in data:
            integers(name, given[i])
        try:
            return compiled(*given)
        except Exception as found:
            error = found
        check(*given)
        raise error

    return call


def integers(name: str, tree) -> None:
    """Of values that are traced, none can be seen to wrap: they are looked at before."""
    wide = lambda x: isinstance(x, (np.ndarray, np.generic)) and x.dtype.itemsize == 8
    if any(map(wide, jax.tree.leaves(tree))):
        for path, x in jax.tree.leaves_with_path(tree):
            fits(f"{name}{jax.tree_util.keystr(path)}", x)


def parameters(params, expected, feedback, reads: bool, rule: str) -> None:
    """`params` must be what `net.init` would give, and hold `feedback` (weights of these shapes)
    where the rule reads it."""
    if not isinstance(params, Mapping) or not {"cell", "readout"} <= set(params):
        raise ValueError(
            f"params: got {describe(params)}, wanted the dict that net.init gives, with the keys "
            "'cell' and 'readout'"
        )
    _plain_dicts("params", params)
    expected = dict(expected)
    if reads and "feedback" not in params:
        raise ValueError(
            "params['feedback']: missing, wanted the feedback weights B "
            f"{', '.join(str(list(B.shape)) for B in jax.tree.leaves(feedback))} "
            f"that {rule} reads, from ej.feedback.init(key, net)"
        )
    if "feedback" in params:  # which any rule may be given; whose it is not, it leaves as it is
        expected["feedback"] = feedback
    extra = sorted(set(params) - set(expected))
    if extra:
        raise ValueError(
            f"params: got the entries {extra}, which {rule} does not train, wanted none of them "
            "(their gradient would be a silent zero)"
        )
    got, want = by_path(params), by_path(expected)
    for path in sorted(want.keys() - got.keys()):
        raise ValueError(
            f"params{path}: missing, wanted {list(want[path].shape)}; are these the parameters of "
            "another network?"
        )
    for path in sorted(got.keys() - want.keys()):
        raise ValueError(
            f"params{path}: no such parameter, wanted those of this network; are these the "
            "parameters of another network?"
        )
    for path, leaf in got.items():
        shape, dtype = jnp.shape(leaf), dtype_of(leaf)
        if shape != want[path].shape:
            raise ValueError(
                f"params{path}: got shape {list(shape)}, wanted {list(want[path].shape)}; are "
                "these the parameters of another network?"
            )
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"params{path}: got dtype {dtype}, wanted a floating dtype")
    if jax.tree.structure(params) != jax.tree.structure(expected):
        raise TypeError(
            "params: got a tree of other nodes than plain dicts, wanted net.init's dicts (and, for a "
            "stack of layers, its tuples)"
        )
    placed("params", params)
    dtypes = {str(dtype_of(leaf)) for leaf in got.values()}
    if len(dtypes) > 1:
        raise TypeError(f"params: got the dtypes {sorted(dtypes)}, wanted one dtype for all leaves")


def _plain_dicts(name: str, tree) -> None:
    """Gradients come back as plain dicts, which an optimiser must find in the parameters too."""
    if type(tree) is tuple:
        for l, value in enumerate(tree):
            _plain_dicts(f"{name}[{l}]", value)
    if not isinstance(tree, Mapping):
        return
    if type(tree) is not dict:
        raise TypeError(
            f"{name}: got the class {type(tree).__name__}, wanted a plain dict, as net.init gives: "
            f"dict({name})"
        )
    for key, value in tree.items():
        _plain_dicts(f"{name}[{key!r}]", value)


def placed(name: str, tree) -> None:
    """Arrays that are split over mesh axes of the explicit kind, whose every operation asks where
    its result is to lie, are refused; so are those whose types say over which axes of a `shard_map`
    they vary, since the scans start from zeros that vary over none."""
    for path, x in by_path(tree).items():
        aval = getattr(x, "aval", None)
        manual = getattr(getattr(aval, "manual_axis_type", None), "varying", ())
        varies = sorted(map(str, getattr(aval, "vma", manual)))
        if varies:
            raise ValueError(
                f"{name}{path}: varies over the axes {varies} of a jax.shard_map that checks this, "
                "wanted jax.shard_map(…, check_vma=False), or ej.sharding.parallel"
            )
        spec = getattr(getattr(aval, "sharding", None), "spec", ())
        if any(axis is not None for axis in spec):
            raise ValueError(
                f"{name}{path}: is split over mesh axes of the explicit kind, {tuple(spec)}, wanted "
                "the automatic kind: place it on ej.sharding.mesh(…), or on "
                "jax.sharding.Mesh(mesh.devices, mesh.axis_names)"
            )


def batch(value) -> tuple[int, ...]:
    value = (value,) if isinstance(value, (int, np.integer)) else value
    if not isinstance(value, (tuple, list)) or not all(
        isinstance(b, (int, np.integer)) and not isinstance(b, bool) and b >= 1 for b in value
    ):
        raise ValueError(
            f"batch_shape: got {value!r}, wanted a tuple of ints >= 1, such as () or (8,)"
        )
    return tuple(int(b) for b in value)


NO_TIME_AXIS = "xs[t] has no time axis: pass xs[t:t+1], or xs[None] (and ys alike)"
BATCH_FIRST = (
    "; if xs came as [batch, T, n_in], put time first, xs.swapaxes(0, 1); where only the last step "
    "has a target, weight the steps (ej.losses.masked)"
)


def inputs(xs, n_in: int, steps=()) -> tuple[int, ...]:
    """xs [T, *batch, n_in], mask and resets [T, *batch] -> batch shape."""
    if not hasattr(xs, "shape") or not hasattr(xs, "dtype"):
        raise TypeError(f"xs: got {type(xs).__name__}, wanted an array [T, *batch, {n_in}]")
    if xs.ndim < 2 or xs.shape[-1] != n_in:
        one_step = f"; {NO_TIME_AXIS}" if tuple(xs.shape) == (n_in,) else ""
        raise ValueError(
            f"xs: got shape {list(xs.shape)}, wanted [T, *batch, {n_in}] (time first, n_in={n_in} "
            f"last){one_step}"
        )
    if xs.shape[0] == 0:
        raise ValueError(f"xs: got an empty sequence, shape {list(xs.shape)}, wanted T >= 1")
    if 0 in xs.shape:
        raise ValueError(f"xs: got an empty batch, shape {list(xs.shape)}, wanted sizes >= 1")
    dtype = dtype_of(xs)
    if not (jnp.issubdtype(dtype, jnp.number) or dtype == jnp.bool_) or jnp.issubdtype(
        dtype, jnp.complexfloating
    ):
        raise TypeError(f"xs: got dtype {dtype}, wanted real numbers")
    placed("xs", xs)
    lead = xs.shape[:-1]
    for name, value in zip(("mask", "resets"), steps):
        if value is not None:
            of_steps(name, value, lead)
    return tuple(lead[1:])


def sequence(xs, ys, n_in: int, steps=()) -> tuple[int, ...]:
    """xs [T, *batch, n_in], every leaf of ys [T, *batch, ...], mask and resets [T, *batch] -> batch
    shape."""
    inputs(xs, n_in, steps)
    placed("ys", ys)
    lead = xs.shape[:-1]
    leaves = by_path(ys)
    if not leaves:
        raise ValueError("ys: got no arrays, wanted targets [T, *batch, ...]")
    for path, leaf in leaves.items():
        shape = jnp.shape(leaf)
        if shape[: len(lead)] != lead:
            first = ", ".join(map(str, lead))
            # [N, ...] beside [N, T, n_in]: sets of sequences are mostly kept so
            batch_first = len(shape) <= len(lead) and shape[:1] == lead[:1]
            hint = BATCH_FIRST if batch_first else ""
            raise ValueError(
                f"ys{path}: got shape {list(shape)} beside xs {list(xs.shape)}, wanted [{first}, ...]: "
                f"a target for each step, time first (T={lead[0]}), then the batch "
                f"{list(lead[1:])}{hint}"
            )
    return tuple(lead[1:])


def of_steps(name: str, value, lead: tuple[int, ...]) -> None:
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        raise TypeError(f"{name}: got {type(value).__name__}, wanted an array, bool {list(lead)}")
    if value.dtype != bool:
        weight = "; a step's weight belongs to the loss, see ej.losses.masked"
        raise TypeError(
            f"{name}: got dtype {value.dtype}, wanted bool ({name} != 0, say"
            f"{weight if name == 'mask' else ''})"
        )
    if tuple(value.shape) != tuple(lead):
        raise ValueError(
            f"{name}: got shape {list(value.shape)}, wanted {list(lead)}: time and batch as in xs"
        )


def state(value):
    """The initial state of one unit, a pytree of numbers: those of the caller, copied."""
    leaves = by_path(value)
    if not leaves:
        raise ValueError(f"state: got {value!r}, wanted at least one number")
    for path, leaf in leaves.items():
        if not isinstance(leaf, (str, bytes, jax.Array)) and np.asarray(leaf).dtype == object:
            raise TypeError(
                f"state{path}: got an object of class {type(leaf).__name__}, which is no pytree, "
                "wanted numbers, a NamedTuple of them, or a class that is registered "
                "(jax.tree_util.register_dataclass)"
            )
        if np.shape(finite(f"state{path}", leaf)) != ():
            raise ValueError(
                f"state{path}: got shape {list(np.shape(leaf))}, wanted a number: one unit's state"
            )
        fits(f"state{path}", leaf, np.int32)
    return jax.tree.map(lambda x: x if is_traced(x) else np.asarray(x)[()], value)


def carry(
    carry,
    batch_shape: tuple[int, ...],
    n_out: int,
    expected: Callable | None = None,
    steps: int | None = None,
) -> None:
    """What this rule's init gave, for this batch. `steps`: the first axis of xs, which is the batch's
    where the time axis was left out."""
    shape = getattr(getattr(getattr(carry, "state", None), "y", None), "shape", None)
    if shape is None:
        raise TypeError(f"carry: got {type(carry).__name__}, wanted what this rule's init returned")
    if tuple(shape) == (steps, *batch_shape, n_out):
        raise ValueError(
            f"xs: got leading axes {list(shape[:-1])}, wanted time before them, since carry was made "
            f"for batch {list(shape[:-1])}; {NO_TIME_AXIS}"
        )
    if tuple(shape) != (*batch_shape, n_out):
        raise ValueError(
            f"carry: was made for batch {list(shape[:-1])} and n_out={shape[-1]}, wanted batch "
            f"{list(batch_shape)}, as xs has, and n_out={n_out}"
        )
    if expected is None:
        return
    same("carry", carry, expected(), "what this rule's init returns for these parameters")


def same(name: str, tree, want, what: str) -> None:
    """A tree of the structure, shapes and dtypes of another."""
    if jax.tree.structure(tree) != jax.tree.structure(want):
        raise ValueError(f"{name}: got another rule's or another network's tree, wanted {what}")
    for (path, leaf), like in zip(jax.tree.leaves_with_path(tree), jax.tree.leaves(want)):
        if jnp.shape(leaf) != like.shape or dtype_of(leaf) != like.dtype:
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)}: got {dtype_of(leaf)}{list(jnp.shape(leaf))}, "
                f"wanted {like.dtype}{list(like.shape)}: {what}"
            )
