"""Batches: drawn by a key inside the compiled program, or read on the host from an iterable."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax import checks
from eprop_jax.network.types import Array, PyTree, Steps
from eprop_jax.tasks import Epochs

FORMS = "(xs, ys), or (xs, ys, mask)"


class Batch(NamedTuple):
    """What one update sees."""

    xs: Array
    """[T, *batch, n_in]"""
    ys: PyTree
    """of [T, *batch, ...]"""
    mask: Array | None = None
    """[T, *batch] bool, the steps that count"""

    @property
    def steps(self) -> Steps:
        return Steps(self.mask, None)


def sampler(data: Any) -> Callable[[Array, Any], Batch]:
    """(key, u) -> batch u."""
    if isinstance(data, Epochs):
        return lambda key, u: Batch(*data.draw(key, u))
    if callable(data):
        try:
            inspect.signature(data).bind(None)
        except TypeError:
            raise TypeError(
                f"data: got a function of {inspect.signature(data)}, wanted a sampler "
                "(key) -> (xs, ys); of a task: functools.partial(task, batch=64)"
            ) from None
        return lambda key, u: _drawn(data(jax.random.fold_in(key, u)))
    if not isinstance(data, tuple) or len(data) not in (2, 3):
        raise TypeError(
            f"data: got {type(data).__name__}, wanted a sampler (key) -> (xs, ys), a pair (xs, ys) "
            "of batches [N, T, *batch, ...], or a list or other iterable of batches"
        )
    sizes = {np.shape(x)[:1] for x in jax.tree.leaves(data)}
    if len(sizes) != 1 or sizes & {(), (0,)}:
        raise ValueError(f"data: got leading axes {sorted(sizes)}, wanted one number of batches N")
    N = sizes.pop()[0]
    stacked = jax.tree.map(jnp.asarray, Batch(*data))
    at = lambda u: lambda x: jax.lax.dynamic_index_in_dim(x, u % N, keepdims=False)
    return lambda key, u: jax.tree.map(at(u), stacked)


def is_read(data: Any) -> bool:
    """Is it gone through on the host, batch by batch?"""
    known = callable(data) or isinstance(data, (tuple, Mapping, str, bytes))
    return not known and not hasattr(data, "dtype") and isinstance(data, Iterable)


def reader(data: Iterable) -> Callable[[], Batch]:
    """() -> the next batch; after the last, the first again. Each is as the first was."""
    at, number, first = iter(data), 0, None

    def following() -> Batch:
        nonlocal at, number, first
        found = next(at, None)
        if found is None:
            at = iter(data)  # a loader's next epoch; of a generator the same, which has ended
            found = next(at, None)
        if found is None:
            again = "; what is gone through once, as a generator is, has to last" if number else ""
            raise ValueError(f"data: ended after {number} batches, wanted one more{again}")
        batch = _read(f"data: batch {number}", found)
        first = batch if first is None else first
        _alike(f"data: batch {number}", batch, first)
        number += 1
        return batch

    return following


def _drawn(found: Any) -> Batch:
    if not isinstance(found, tuple) or len(found) not in (2, 3):
        raise TypeError(
            f"data: gave {type(found).__name__}, wanted the pair (xs, ys), or (xs, ys, mask)"
        )
    return Batch(*found)


def _read(name: str, found: Any) -> Batch:
    if not isinstance(found, (tuple, list)) or len(found) not in (2, 3):
        of = f" of {len(found)}" if isinstance(found, (tuple, list)) else ""
        raise TypeError(f"{name} is {type(found).__name__}{of}, wanted {FORMS}")
    batch = Batch(*map(_tuples, found))

    def array(path, x):
        x = x if isinstance(x, jax.Array) else np.asarray(x)
        if x.dtype == object or x.dtype.kind in "USM":
            raise TypeError(f"{name} has {_at(path)} of dtype {x.dtype}, wanted numbers")
        return checks.fits(f"{name}: {_at(path)}", x)

    return jax.tree.map_with_path(array, batch)


def _tuples(tree: Any) -> Any:
    """Loaders make lists of pairs, where losses take pairs."""
    return tuple(map(_tuples, tree)) if isinstance(tree, (tuple, list)) else tree


def _alike(name: str, batch: Batch, first: Batch) -> None:
    """One compiled update serves all, and a short last batch would count as much as a whole one."""
    if jax.tree.structure(batch) != jax.tree.structure(first):
        raise ValueError(
            f"{name} is {checks.form(tuple(batch))}, wanted {checks.form(tuple(first))}, as batch 0"
        )
    for (path, x), like in zip(jax.tree.leaves_with_path(batch), jax.tree.leaves(first)):
        if x.shape != like.shape:
            raise ValueError(
                f"{name} has {_at(path)} of shape {list(x.shape)}, wanted {list(like.shape)}, as batch "
                "0 (pad in time, and drop what fills no batch: drop_last)"
            )
        if x.dtype != like.dtype:
            raise TypeError(
                f"{name} has {_at(path)} of dtype {x.dtype}, wanted {like.dtype}, as batch 0"
            )


def _at(path: Any) -> str:
    return jax.tree_util.keystr(path).lstrip(".")
