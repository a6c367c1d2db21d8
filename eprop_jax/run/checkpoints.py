"""Checkpoints: orbax writes them; here they are made whole or not at all, and checked before use.

A checkpoint is a folder named by its step (`folders` says how it gets there). It holds the SHA-256 of
each of its files, `leaves.json`, which says where each array belongs in the tree and what kind it is,
and the arrays, by number, in `tree`. What is read must match those sums and the tree that it is read
into. Nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax import checks
from eprop_jax.network.types import PyTree
from eprop_jax.run import folders
from eprop_jax.run.folders import verify

__all__ = ["restore", "save", "steps"]

TREE = "tree"
LEAVES = "leaves.json"
FORMAT = 2
NUMBERS = {bool: "bool", int: "int", float: "float", complex: "complex"}
"""Python's, which are stored as NumPy's and come back as themselves"""


def save(folder: str | Path, tree: PyTree, step: int, *, keep: int | None = None) -> Path:
    """Write a tree of arrays as the checkpoint of this step.

    Killed at any instant, it leaves the checkpoint that was there or the new one, whole; what it
    leaves besides is cleared away by the next `save`.

    Args:
      folder: where checkpoints are; made if it is not there.
      tree: any pytree of arrays, numbers and PRNG keys, such as a `TrainState` or a rule's carry. The
        process that calls writes all of it: where there are several, one of them, with
        `ej.sharding.replicated(tree, mesh)`.
      step: its number; one that exists is replaced. What bears its name and is no whole checkpoint is
        renamed to "….not-whole", and kept.
      keep: how many to keep, this one and those numbered before it; None: all. Those numbered after
        it, which a run leaves that goes on from an early step, stay until they are replaced: `save`
        warns of them, since `restore(folder, like)` takes the highest number. Name the step there, or
        go on in a new folder.

    Returns:
      The checkpoint's own folder.

    Raises:
      ImportError: if orbax is not installed.
      TypeError, ValueError: for a leaf that is no array of numbers, or that this process does not
        hold, or a negative step.
      BlockingIOError: if another process is writing to the folder; it says which.

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
    kinds = _kinds("tree", tree)
    arrays = [_on_host(name, x) for name, x in _leaves("tree", tree).items()]
    stored = {str(i): x for i, x in enumerate(arrays) if x.size}  # orbax refuses empty ones

    def fill(path: Path) -> None:
        record = json.dumps({"format": FORMAT, "leaves": list(kinds.items())})
        (path / LEAVES).write_text(record, encoding="utf-8")
        if stored:
            with _orbax() as writer:
                writer.save(path / TREE, stored)

    orbax()  # before anything is written
    folder.mkdir(parents=True, exist_ok=True)
    with folders.lock(folder), folders.one_thread:
        folders.recover(folder)
        final = folders.put(folder, step, fill)
        there = folders.named(folder)
        if keep is not None:
            before = [s for s in there if s < step and folders.find(folder, s)]
            for old in before[: max(0, len(before) - keep + 1)]:
                folders.discard(folders.at(folder, old))
    if there[-1] > step:
        warnings.warn(
            f"{folder} holds later steps, up to {there[-1]}, which ej.checkpoints.restore takes first",
            stacklevel=2,
        )
    return final


def steps(folder: str | Path) -> list[int]:
    """The steps of the complete checkpoints in a folder, ascending; [] where there is none.

    >>> import eprop_jax as ej
    >>> ej.checkpoints.steps("no/such/folder")
    []
    """
    folder = checks.folder("folder", folder)
    return [step for step in folders.named(folder) if folders.find(folder, step)]


def restore(folder: str | Path, like: PyTree, step: int | None = None) -> PyTree:
    """Read a checkpoint into a tree like this one.

    Args:
      folder: where checkpoints are.
      like: a tree of the same structure, shapes and dtypes; its values are not read. Each leaf comes
        back as it is there: a jax array, sharded over the same devices, a NumPy array or scalar, a
        Python number, a PRNG key.
      step: which; None: the last that is whole. If one after it is broken, a warning says so.

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
    there = folders.named(folder)
    if step is None:
        if not there:
            raise FileNotFoundError(f"folder: got {folder}, wanted one with a complete checkpoint")
    elif checks.steps("step", step) not in there:
        raise FileNotFoundError(
            f"step: got {step}, wanted one that {folder} has: {steps(folder) or 'none'}"
        )
    _kinds("like", like)
    step, path = _last_whole(folder, there) if step is None else (step, _verified(folder, step))
    stored = (_read if (path / LEAVES).exists() else _read_format_1)(path, like, step)
    leaves = [_as_was(x, stored.get(at)) for at, x in _leaves("like", like).items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def alone(folder: str | Path) -> contextlib.AbstractContextManager[None]:
    """Within, no other process saves there; made if it is not there.

    Raises:
      BlockingIOError: if another one is writing to it.
    """
    folder = checks.folder("folder", folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folders.lock(folder)


def _verified(folder: Path, step: int) -> Path:
    path = folders.find(folder, step) or folders.at(folder, step)
    verify(path)
    return path


def _last_whole(folder: Path, there: list[int]) -> tuple[int, Path]:
    broken = []
    for step in reversed(there):
        try:
            found = step, _verified(folder, step)
        except (ValueError, OSError) as error:
            broken.append(error)
            continue
        if broken:
            warnings.warn(f"step {step} is the last that is whole: {broken[0]}", stacklevel=3)
        return found
    raise broken[0]


# -- trees -----------------------------------------------------------------------------------------


def _leaves(name: str, tree: PyTree) -> dict[str, Any]:
    """{where it stands: leaf}; an attribute and a key of one name stand at the same place."""

    def text(path):
        keys = (getattr(k, "key", getattr(k, "name", getattr(k, "idx", k))) for k in path)
        return "".join(f"[{k.item() if isinstance(k, np.generic) else k!r}]" for k in keys)

    leaves = {}
    for path, leaf in jax.tree.leaves_with_path(tree):
        if text(path) in leaves:
            raise ValueError(f"{name}: got two leaves at {text(path)}, wanted a place for each")
        leaves[text(path)] = leaf
    return leaves


def _kinds(name: str, tree: PyTree) -> dict[str, str]:
    """{where it stands: dtype and shape}, such as float32[3]; of a Python number, its type."""
    return {at: _kind(f"{name}{at}", leaf) for at, leaf in _leaves(name, tree).items()}


def _kind(name: str, x: Any) -> str:
    if type(x) in NUMBERS:
        if isinstance(x, int) and not -(2**63) <= x < 2**63:
            raise ValueError(f"{name}: got {x}, wanted an int of 64 bits")
        return NUMBERS[type(x)]
    if not isinstance(x, (jax.Array, np.ndarray, np.generic)):
        raise TypeError(f"{name}: got {type(x).__name__}, wanted an array")
    if not (_is_key(x) or jnp.issubdtype(x.dtype, jnp.number) or x.dtype == bool):
        raise TypeError(f"{name}: got dtype {x.dtype}, wanted an array of numbers")
    return f"{x.dtype.name if isinstance(x.dtype, np.dtype) else x.dtype}{list(x.shape)}"


def _is_key(x: Any) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _on_host(at: str, x: Any) -> np.ndarray:
    """Keys as their data, all else as it is."""
    x = jax.random.key_data(x) if _is_key(x) else x
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
        raise ValueError(
            f"tree{at}: got an array of which other processes hold parts, "
            "wanted ej.sharding.replicated(tree, mesh)"
        )
    return np.asarray(x)


def _as_was(like: Any, x: np.ndarray | None) -> Any:
    """Of the kind of `like`, and on the devices that it was committed to; in several processes, each
    puts its part there."""
    if x is None:  # it has no elements, and is not stored
        return like
    if type(like) in NUMBERS:
        return type(like)(x.item())
    if not isinstance(like, jax.Array):
        return x[()] if isinstance(like, np.generic) else x
    out = jnp.asarray(x)
    out = jax.random.wrap_key_data(out, impl=jax.random.key_impl(like)) if _is_key(like) else out
    return jax.device_put(out, like.sharding) if getattr(like, "committed", True) else out


# -- what is stored --------------------------------------------------------------------------------


def _read(path: Path, like: PyTree, step: int) -> dict[str, np.ndarray]:
    """{where it stands: array}, once all are known to be of the kinds that are wanted."""
    try:
        record = json.loads((path / LEAVES).read_text(encoding="utf-8"))
        made, has = record["format"], dict(record["leaves"])
    except (ValueError, TypeError, KeyError) as error:
        raise _unreadable(path, f"{LEAVES}: {error}") from None
    if made != FORMAT:
        raise ValueError(f"folder: {path} is of format {made!r}, wanted {FORMAT} or older")
    _fits(_kinds("like", like), has, step)
    stored = _arrays(path) if (path / TREE).exists() else {}
    return {at: stored[str(i)] for i, at in enumerate(has) if str(i) in stored}


def _read_format_1(path: Path, like: PyTree, step: int) -> dict[str, np.ndarray]:
    """Of the first versions: orbax held the tree itself, keys as their data, numbers as arrays."""
    stored = _leaves("tree", _arrays(path))
    plain = jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, like)
    _fits(_kinds("like", plain), {at: _kind(at, x) for at, x in stored.items()}, step)
    return stored


def _fits(wanted: dict[str, str], has: dict[str, str], step: int) -> None:
    for at in [*wanted, *has]:
        a, b = wanted.get(at, "nothing"), has.get(at, "nothing")
        scalar = a in NUMBERS.values() and b.endswith("[]") and b.lstrip("u").startswith(a)
        if a != b and not scalar:  # a Python number takes any scalar of its kind
            raise ValueError(f"like{at}: wanted {a}, and the checkpoint of step {step} has {b}")


def _arrays(path: Path) -> Any:
    """The tree that orbax finds there, of NumPy arrays."""
    with _orbax() as reader:
        try:
            metadata = reader.metadata(path / TREE)
            found = getattr(metadata, "item_metadata", metadata)
            found = getattr(found, "tree", found)
            if found is None:
                raise ValueError("it finds no tree")
            return reader.restore(
                path / TREE, jax.tree.map(lambda x: np.empty(x.shape, x.dtype), found)
            )
        except Exception as error:
            why = f"{type(error).__name__}: {checks.first_line(error)}"
            raise _unreadable(path, why) from error


def _unreadable(path: Path, why: str) -> ValueError:
    return ValueError(
        f"folder: {path} is as its sums say, but orbax cannot read it ({why}); "
        "wanted a checkpoint that ej.checkpoints.save wrote"
    )


def orbax() -> Any:
    """Its module.

    Raises:
      ImportError: if it is not installed.
    """
    try:
        import orbax.checkpoint
    except ImportError as error:
        raise ImportError(
            'checkpoints need orbax-checkpoint (pip install "eprop_jax[train]")'
        ) from error
    return orbax.checkpoint


def _orbax() -> Any:
    """Orbax's reader and writer of one tree, for this process alone: it waits for no other."""
    ocp = orbax()
    if jax.process_count() == 1:
        return ocp.StandardCheckpointer()
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
    )
    return ocp.StandardCheckpointer(multiprocessing_options=alone)
