"""Checkpoints: orbax writes them; here they are made whole or not at all, and checked before use.

A checkpoint is a folder named by its step. It is written under another name, with the SHA-256 of
each of its files, and then renamed: a folder that bears a step's name is complete. What is read
must match those sums and the tree that it is read into. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax import checks
from eprop_jax.base import PyTree

__all__ = ["restore", "save", "steps"]

SUMS = "SHA256.json"
TREE = "tree"


def save(folder: str | Path, tree: PyTree, step: int, *, keep: int | None = None) -> Path:
    """Write a tree of arrays as the checkpoint of this step.

    Args:
      folder: where checkpoints are; made if it is not there.
      tree: any pytree of arrays, numbers and PRNG keys, such as a `TrainState` or a rule's carry. The
        process that calls writes all of it: where there are several, one of them, with
        `ej.sharding.replicated(tree, mesh)`.
      step: its number; one that exists is replaced.
      keep: how many of the last to keep; None: all.

    Returns:
      The checkpoint's own folder.

    Raises:
      ImportError: if orbax is not installed.
      TypeError, ValueError: for a leaf that is no array, or that this process does not hold, or a
        negative step.

    >>> import tempfile, jax.numpy as jnp, eprop_jax as ej
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = ej.checkpoints.save(folder, {"w": jnp.ones(3)}, step=7)
    ...     ej.checkpoints.steps(folder), ej.checkpoints.restore(folder, {"w": jnp.zeros(3)})
    ([7], {'w': Array([1., 1., 1.], dtype=float32)})
    """
    folder = checks.folder("folder", folder).absolute()
    step = checks.steps("step", step)
    if keep is not None:
        checks.size("keep", keep)
    _arrays("tree", tree)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".unfinished-{step}-{os.getpid()}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    with _orbax() as writer:
        writer.save(unfinished / TREE, jax.tree.map_with_path(_on_host, tree))
    (unfinished / SUMS).write_text(json.dumps(_sums(unfinished), indent=1))
    _sync(unfinished)
    final = _at(folder, step)
    if final.exists():
        shutil.rmtree(final)
    os.rename(unfinished, final)
    for old in steps(folder)[:-keep] if keep else []:
        shutil.rmtree(_at(folder, old))
    return final


def steps(folder: str | Path) -> list[int]:
    """The steps of the complete checkpoints in a folder, ascending; [] where there is none.

    >>> import eprop_jax as ej
    >>> ej.checkpoints.steps("no/such/folder")
    []
    """
    folder = checks.folder("folder", folder)
    names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())


def restore(folder: str | Path, like: PyTree, step: int | None = None) -> PyTree:
    """Read a checkpoint into a tree like this one.

    Args:
      folder: where checkpoints are.
      like: a tree of the same structure, shapes and dtypes; its values are not read. Arrays that
        are sharded over devices are restored to the same sharding.
      step: which; None: the last.

    Returns:
      A tree like `like`.

    Raises:
      ImportError: if orbax is not installed.
      FileNotFoundError: if there is no checkpoint there, or none of that step.
      ValueError: if a file is missing, cut short or changed since it was written, or if the
        checkpoint is of another tree; it says which.

    >>> import tempfile, jax.numpy as jnp, eprop_jax as ej
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = ej.checkpoints.save(folder, {"w": jnp.ones(3)}, step=7)
    ...     ej.checkpoints.restore(folder, {"w": jnp.zeros(4)})
    Traceback (most recent call last):
    ...
    ValueError: like['w']: wanted float32[4], and the checkpoint of step 7 has float32[3]
    """
    folder = checks.folder("folder", folder).absolute()
    there = steps(folder)
    if step is None:
        if not there:
            raise FileNotFoundError(f"folder: got {folder}, wanted one with a complete checkpoint")
        step = there[-1]
    elif checks.steps("step", step) not in there:
        raise FileNotFoundError(
            f"step: got {step}, wanted one that {folder} has: {there or 'none'}"
        )
    _arrays("like", like)
    path = _at(folder, step)
    _verify(path)
    plain = jax.tree.map(_empty, like)
    with _orbax() as reader:
        _fits(plain, _read(path, reader.metadata), path, step)
        tree = _read(path, reader.restore, plain)
    return jax.tree.map(_as_was, like, tree)


def _arrays(name: str, tree: PyTree) -> None:
    for path, leaf in jax.tree.leaves_with_path(tree):
        if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, int, float)):
            raise TypeError(
                f"{name}{jax.tree_util.keystr(path)}: got {type(leaf).__name__}, wanted an array"
            )


def _at(folder: Path, step: int) -> Path:
    return folder / f"{step:09d}"


def _orbax() -> Any:
    """Orbax's reader and writer of one tree, for this process alone: it waits for no other."""
    try:
        import orbax.checkpoint as ocp
    except ImportError as error:
        raise ImportError(
            'checkpoints need orbax-checkpoint (pip install "eprop_jax[train]")'
        ) from error
    if jax.process_count() == 1:
        return ocp.StandardCheckpointer()
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
    )
    return ocp.StandardCheckpointer(multiprocessing_options=alone)


def _is_key(x: Any) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _on_host(path: Any, x: Any) -> np.ndarray:
    """Keys as their data, all else as it is."""
    x = jax.random.key_data(x) if _is_key(x) else x
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
        raise ValueError(
            f"tree{jax.tree_util.keystr(path)}: got an array of which other processes hold parts, "
            "wanted ej.sharding.replicated(tree, mesh)"
        )
    return np.asarray(x)


def _empty(like: Any) -> np.ndarray:
    x = jax.eval_shape(jax.random.key_data, like) if _is_key(like) else like
    return np.empty(np.shape(x), jnp.result_type(x))


def _as_was(like: Any, x: np.ndarray) -> Any:
    """On the devices that `like` was committed to; in several processes, each puts its part there."""
    out = jnp.asarray(x)
    out = jax.random.wrap_key_data(out, impl=jax.random.key_impl(like)) if _is_key(like) else out
    bound = isinstance(like, jax.Array) and getattr(like, "committed", True)
    return jax.device_put(out, like.sharding) if bound else out


def _sums(path: Path) -> dict[str, str]:
    files = sorted(f for f in path.rglob("*") if f.is_file() and f.name != SUMS)
    return {
        f.relative_to(path).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files
    }


def _verify(path: Path) -> None:
    try:
        expected = json.loads((path / SUMS).read_text())
    except (OSError, ValueError):
        expected = None
    if not isinstance(expected, dict) or not expected:
        raise ValueError(
            f"folder: {path} has no readable {SUMS}; wanted a checkpoint that ej.checkpoints.save wrote"
        )
    found = _sums(path)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            what = "was changed or cut short"
            what = what if name in found else "is missing"
            what = what if name in expected else "was not written with it"
            raise ValueError(f"folder: in the checkpoint {path}, {name} {what}; wanted it as saved")


def _read(path: Path, how: Any, *args: Any) -> Any:
    try:
        return how(path / TREE, *args)
    except Exception as error:
        raise _unreadable(path, f"{type(error).__name__}: {checks.first_line(error)}") from error


def _unreadable(path: Path, why: str) -> ValueError:
    return ValueError(
        f"folder: {path} is as its sums say, but orbax cannot read it ({why}); "
        "wanted a checkpoint that ej.checkpoints.save wrote"
    )


def _fits(like: PyTree, metadata: Any, path: Path, step: int) -> None:
    stored = getattr(metadata, "item_metadata", metadata)
    stored = getattr(stored, "tree", stored)

    def by_path(tree):
        text = lambda path: "".join(
            f"[{getattr(k, 'key', getattr(k, 'name', getattr(k, 'idx', k)))!r}]" for k in path
        )
        return {
            text(path): f"{jnp.dtype(x.dtype).name}{list(x.shape)}"
            for path, x in jax.tree.leaves_with_path(tree)
        }

    if stored is None:
        raise _unreadable(path, "it finds no tree")
    wanted, has = by_path(like), by_path(stored)
    for name in [*wanted, *has]:
        a, b = wanted.get(name, "nothing"), has.get(name, "nothing")
        if a != b:
            raise ValueError(f"like{name}: wanted {a}, and the checkpoint of step {step} has {b}")


def _sync(path: Path) -> None:
    """To the disk before the rename, so that a machine that stops does not leave a name to nothing."""
    for f in [*path.rglob("*"), path]:
        handle = os.open(f, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
