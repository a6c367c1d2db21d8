"""Data, and how a network meets it.

Digits: E. Alpaydin and C. Kaynak, *Optical Recognition of Handwritten Digits* [dataset], UCI
Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0. See data/README.md.
"""

from __future__ import annotations

from importlib import resources
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax import checks
from eprop_jax.base import Array

ROWS = COLUMNS = 8
CLASSES = 10


class Digits(NamedTuple):
    """Handwritten digits: 1797 images, the first 1347 for training."""

    train_images: np.ndarray
    """float32 [1347, 8, 8], ink from 0 to 1"""
    train_labels: np.ndarray
    """int32 [1347], 0 … 9"""
    test_images: np.ndarray
    """float32 [450, 8, 8]"""
    test_labels: np.ndarray
    """int32 [450]"""


def digits() -> Digits:
    """The 1797 handwritten digits of Alpaydin and Kaynak (1998), which come with the package.

    Returns:
      `Digits`: images of 8 × 8 pixels, ink from 0 to 1 (dimensionless), and labels 0 … 9. The split
      is fixed: the first 1347 are for training, the last 450 for testing.

    Raises:
      FileNotFoundError: if the package was installed without its data.

    >>> import eprop_jax.tasks as tasks
    >>> data = tasks.digits()
    >>> data.train_images.shape, data.test_images.shape, float(data.train_images.max())
    ((1347, 8, 8), (450, 8, 8), 1.0)
    """
    path = resources.files("eprop_jax") / "data" / "digits.npz"
    with path.open("rb") as file, np.load(file) as stored:
        images = stored["images"].astype(np.float32) / np.float32(16)
        labels = stored["labels"].astype(np.int32)
        n = int(stored["n_train"])
    return Digits(images[:n], labels[:n], images[n:], labels[n:])


def row_by_row(images: Array, labels: Array, steps_a_row: int = 1) -> tuple[Array, tuple]:
    """Digits as sequences: one row of pixels at a time, to be named while the last is shown.

    Args:
      images: [B, 8, 8].
      labels: int [B].
      steps_a_row: how many steps each row stays, ≥ 1.

    Returns:
      xs [T, B, 8] with T = 8 · steps_a_row, and ys = (labels [T, B], weight [T, B]) for
      `ej.losses.masked`: the weight is 1/steps_a_row while the last row is shown, and 0 before.

    Raises:
      TypeError, ValueError: if `steps_a_row` is no int ≥ 1.
      ValueError: if the images are not [B, 8, 8] or the labels not [B].

    >>> import jax.numpy as jnp, eprop_jax.tasks as tasks
    >>> xs, (labels, weight) = tasks.row_by_row(jnp.ones((4, 8, 8)), jnp.arange(4), steps_a_row=2)
    >>> xs.shape, labels.shape, float(weight[:, 0].sum())
    ((16, 4, 8), (16, 4), 1.0)
    """
    steps_a_row = checks.size("steps_a_row", steps_a_row)
    if images.ndim != 3 or images.shape[1:] != (ROWS, COLUMNS):
        raise ValueError(f"images: got shape {list(images.shape)}, wanted [B, {ROWS}, {COLUMNS}]")
    B, T = images.shape[0], ROWS * steps_a_row
    if labels.shape != (B,):
        raise ValueError(f"labels: got shape {list(labels.shape)}, wanted [{B}], one an image")
    xs = jnp.repeat(jnp.swapaxes(images, 0, 1), steps_a_row, axis=0)
    last = (jnp.arange(T) >= T - steps_a_row).astype(images.dtype) / steps_a_row
    ys = jnp.broadcast_to(labels[None], (T, B)), jnp.broadcast_to(last[:, None], (T, B))
    return xs, ys


def batches(key: Array, n: int, size: int, updates: int) -> Array:
    """Indices [updates, size]: epochs in random order, each without what does not fill a batch.

    Args:
      key: a PRNG key.
      n: examples to draw from.
      size: examples a batch, at most n.
      updates: how many batches.

    Raises:
      ZeroDivisionError: if size > n.

    >>> import jax
    >>> from eprop_jax import tasks
    >>> tasks.batches(jax.random.key(0), n=10, size=4, updates=5).shape
    (5, 4)
    """
    per_epoch = n // size
    keys = jax.random.split(key, -(-updates // per_epoch))
    order = jax.vmap(lambda k: jax.random.permutation(k, n)[: per_epoch * size])(keys)
    return order.reshape(-1, size)[:updates]
