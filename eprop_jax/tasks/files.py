"""Data files that come with the package: checked before they are read, and never unpickled."""

from __future__ import annotations

import hashlib
import io
from importlib import resources

import numpy as np


def packaged(name: str, sha256: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file in `eprop_jax/data`.

    Args:
      name: the file's.
      sha256: what its bytes must sum to.

    Raises:
      FileNotFoundError: if the package was installed without it.
      ValueError: if its bytes are others.

    >>> from eprop_jax.tasks import images
    >>> sorted(packaged("digits.npz", images.SHA256))
    ['images', 'labels', 'n_train']
    """
    content = folder().joinpath(name).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(
            f"{name}: got {len(content)} bytes with the SHA-256 {found}, wanted {sha256}: the file was "
            "changed or cut short; install the package again"
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files}


def folder():
    """Where they are."""
    return resources.files("eprop_jax") / "data"
