"""Refusals of single values: each names the argument, what came and what was wanted."""

from __future__ import annotations

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


def mask(name: str, value, shape: tuple[int, int] | None = None) -> np.ndarray:
    array = _array(name, value)
    if array.ndim != 2 or array.dtype != bool or shape not in (None, array.shape):
        sizes = "[n_pre, n_post]" if shape is None else str(list(shape))
        raise ValueError(
            f"{name}: got {array.dtype} {list(array.shape)}, wanted bool {sizes}, [pre, post]"
        )
    return array.copy()


def seed(name: str, value) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
        raise ValueError(f"{name}: got {value!r}, wanted an int >= 0")
    return int(value)


def indices(name: str, value, ndim: int) -> np.ndarray:
    """Numbers of units."""
    array = _array(name, value)
    if array.ndim != ndim or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise ValueError(
            f"{name}: got {array.dtype} {list(array.shape)}, wanted ints with {ndim} axes"
        )
    return fits(name, array, np.int32).astype(np.int32)


def within(name: str, value: np.ndarray, low: int, high: int) -> None:
    """Each of them in [low, high)."""
    if value.size and (value.min() < low or value.max() >= high):
        raise ValueError(
            f"{name}: got numbers from {value.min()} to {value.max()}, wanted them in "
            f"[{low}, {high})"
        )


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
        got = type(value).__name__ if array.dtype == object else f"dtype {array.dtype}"
        raise TypeError(f"{name}: got {got}, wanted real numbers")
    return fits(name, array)


def _numbers(name: str, value):
    """Real numbers as an array of NumPy's, or of JAX's where they are traced."""
    array = jnp.asarray(value) if is_traced(value) else _array(name, value)
    if not jnp.issubdtype(array.dtype, jnp.number) or np.iscomplexobj(array):
        got = type(value).__name__ if array.dtype == object else repr(value)
        raise TypeError(f"{name}: got {got}, wanted real numbers")
    return array


def _array(name: str, value) -> np.ndarray:
    if is_traced(value):
        raise TypeError(f"{name}: got a tracer, wanted values that are known when this is called")
    try:
        return np.asarray(value)
    except ValueError:  # a ragged list
        raise TypeError(f"{name}: got {value!r}, wanted real numbers") from None


def mapping(name: str, value) -> Mapping:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}: got {type(value).__name__}, wanted a dict by name")
    return value
