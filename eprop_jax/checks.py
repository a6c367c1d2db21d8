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
from jax import core


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


def is_traced(value) -> bool:
    """Does it hold a tracer? The value of a hyper-parameter that is traced (under `jax.vmap`, say)
    is not known, and is not checked."""
    return any(isinstance(x, core.Tracer) for x in jax.tree.leaves(value))


def positive(name: str, value):
    array = _numbers(name, value)
    if not is_traced(array) and not np.all(np.isfinite(array) & (array > 0)):
        raise ValueError(f"{name}: got {value}, wanted positive and finite")
    return value


def nonnegative(name: str, value):
    array = _numbers(name, value)
    if not is_traced(array) and not np.all(np.isfinite(array) & (array >= 0)):
        raise ValueError(f"{name}: got {value}, wanted non-negative and finite")
    return value


def finite(name: str, value):
    array = _numbers(name, value)
    if not is_traced(array) and not np.all(np.isfinite(array)):
        raise ValueError(f"{name}: got {value}, wanted finite numbers")
    return value


def number(name: str, value) -> Any:
    """One real number, also a NumPy or JAX scalar or a tracer; one that its owner can change in
    place is copied."""
    if np.shape(finite(name, value)) != ():
        raise ValueError(f"{name}: got shape {list(np.shape(value))}, wanted one number")
    return value[()] if isinstance(value, np.ndarray) else value


def decay(name: str, value):
    array = _numbers(name, value)
    if not is_traced(array) and not np.all((array >= 0) & (array <= 1)):
        raise ValueError(f"{name}: got {value}, wanted a decay factor in [0, 1]")
    return value


def per_unit(name: str, value, n: int) -> Any:
    """A number or [n] -> a copy [n], in the dtype that came. A tracer stays as it is, [] or [n]."""
    array = _numbers(name, value)
    if array.shape not in ((), (n,)):
        raise ValueError(f"{name}: got shape {array.shape}, wanted a number or [{n}], one a unit")
    return array if is_traced(array) else np.broadcast_to(array, (n,)).copy()


def same_for_all(value) -> bool:
    """Is a per-unit value one number for all units? Of tracers, a number [] is."""
    return np.ndim(value) == 0 if is_traced(value) else not np.ptp(np.asarray(value))


def fits(name: str, value, dtype=None) -> Any:
    """Integers beyond what JAX holds them in (`dtype`; by default its own for them, int32 unless
    64 bits are enabled) would wrap silently."""
    if is_traced(value) or (isinstance(value, jax.Array) and dtype is None):
        return value  # has wrapped already, or never will
    array = np.asarray(value)
    huge = array.dtype == object and isinstance(value, int)  # beyond 64 bits
    if not array.size or not (huge or np.issubdtype(array.dtype, np.integer)):
        return value
    range_ = np.iinfo(dtype or jax.dtypes.canonicalize_dtype(int if huge else array.dtype))
    for extreme in (int(array.min()), int(array.max())):
        if not range_.min <= extreme <= range_.max:
            raise ValueError(
                f"{name}: got {extreme}, wanted integers from {range_.min} to {range_.max}, which "
                f"{range_.dtype} holds"
            )
    return value


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
    return array.copy()


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
    return fits(name, array)


def _numbers(name: str, value):
    """Real numbers as an array of NumPy's, or of JAX's where they are traced."""
    array = jnp.asarray(value) if is_traced(value) else _array(name, value)
    if not jnp.issubdtype(array.dtype, jnp.number) or np.iscomplexobj(array):
        raise TypeError(f"{name}: got {value!r}, wanted real numbers")
    return array


def _array(name: str, value) -> np.ndarray:
    if is_traced(value):
        raise TypeError(f"{name}: got a tracer, wanted values that are known when this is called")
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
    """Of values that are traced, none can be seen to wrap: they are looked at before."""
    wide = lambda x: isinstance(x, (np.ndarray, np.generic)) and x.dtype.itemsize == 8
    if jax.config.jax_enable_x64 or not any(map(wide, jax.tree.leaves(given))):
        return
    for (at, *path), x in jax.tree.leaves_with_path(given):
        fits(f"{names[at.idx]}{jax.tree_util.keystr(path)}", x)


def parameters(params, expected, feedback_shape: tuple[int, int], reads: bool, rule: str) -> None:
    """`params` must be what `net.init` would give, and hold `feedback` where the rule reads it."""
    if not isinstance(params, Mapping) or not {"cell", "readout"} <= set(params):
        raise ValueError(
            f"params: got {_describe(params)}, wanted the dict that net.init gives, with the keys "
            "'cell' and 'readout'"
        )
    _plain_dicts("params", params)
    expected = dict(expected)
    if reads and "feedback" not in params:
        raise ValueError(
            f"params['feedback']: missing, wanted the feedback weights B {list(feedback_shape)} "
            f"that {rule} reads, from ej.feedback.init(key, net)"
        )
    if "feedback" in params:  # which any rule may be given; whose it is not, it leaves as it is
        expected["feedback"] = jax.ShapeDtypeStruct(feedback_shape, jnp.float32)
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
            "params: got a tree of other nodes than plain dicts, wanted net.init's dicts"
        )
    placed("params", params)
    dtypes = {str(dtype_of(leaf)) for leaf in got.values()}
    if len(dtypes) > 1:
        raise TypeError(f"params: got the dtypes {sorted(dtypes)}, wanted one dtype for all leaves")


def _plain_dicts(name: str, tree) -> None:
    """Gradients come back as plain dicts, which an optimiser must find in the parameters too."""
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


def inputs(xs, n_in: int, mask=None) -> tuple[int, ...]:
    """xs [T, *batch, n_in] and mask [T, *batch] -> batch shape."""
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
    if mask is not None:
        steps_that_count(mask, lead)
    return tuple(lead[1:])


def sequence(xs, ys, n_in: int, mask=None) -> tuple[int, ...]:
    """xs [T, *batch, n_in], every leaf of ys [T, *batch, ...] and mask [T, *batch] -> batch shape."""
    inputs(xs, n_in, mask)
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


def steps_that_count(mask, lead: tuple[int, ...]) -> None:
    if not hasattr(mask, "shape") or not hasattr(mask, "dtype"):
        raise TypeError(f"mask: got {type(mask).__name__}, wanted an array, bool {list(lead)}")
    if mask.dtype != bool:
        raise TypeError(
            f"mask: got dtype {mask.dtype}, wanted bool (mask != 0, say; a step's weight belongs "
            "to the loss, see ej.losses.masked)"
        )
    if tuple(mask.shape) != tuple(lead):
        raise ValueError(
            f"mask: got shape {list(mask.shape)}, wanted {list(lead)}: time and batch as in xs"
        )


def mapping(name: str, value) -> Mapping:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}: got {type(value).__name__}, wanted a dict by name")
    return value


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
                f"{name}{jax.tree_util.keystr(path)}: got {dtype_of(leaf)}{list(jnp.shape(leaf))}, wanted "
                f"{like.dtype}{list(like.shape)}: {what}"
            )


def first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def by_path(tree) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def dtype_of(leaf):
    return leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype


class _Bare(str):
    __repr__ = str.__str__


def form(tree) -> str:
    """A tree by its arrays, as in {'w': float32[2]}."""
    bare = lambda x: _Bare(f"{dtype_of(x)}{list(jnp.shape(x))}")
    return repr(jax.tree.map(bare, tree))


def _describe(value) -> str:
    return (
        f"a dict with the keys {sorted(map(str, value))}"
        if isinstance(value, dict)
        else type(value).__name__
    )
