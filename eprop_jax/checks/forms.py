"""How a value, an array or a tree is told of in a message."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


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


def describe(value) -> str:
    return (
        f"a dict with the keys {sorted(map(str, value))}"
        if isinstance(value, dict)
        else type(value).__name__
    )
