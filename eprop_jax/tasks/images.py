"""Handwritten digits, and how a network meets them: row by row, or pixel by pixel.

Digits: E. Alpaydin and C. Kaynak, *Optical Recognition of Handwritten Digits* [dataset], UCI
Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0. See data/README.md.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax import checks
from eprop_jax.network.types import Array
from eprop_jax.tasks.files import packaged
from eprop_jax.tasks.timing import Task

ROWS = COLUMNS = 8
CLASSES = 10
SHA256 = "a52402e0431821f6cc122515e9dbfc6b58368261c1f6b9256133ab0762268d4f"


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
      ValueError: if the file is not the one that was published with the package.

    >>> import eprop_jax.tasks as tasks
    >>> data = tasks.digits()
    >>> data.train_images.shape, data.test_images.shape, float(data.train_images.max())
    ((1347, 8, 8), (450, 8, 8), 1.0)
    """
    stored = packaged("digits.npz", SHA256)
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
    _fit(images, labels)
    return _named_at_the_end(jnp.swapaxes(images, 0, 1), labels, steps_a_row)


def pixel_by_pixel(images: Array, labels: Array, steps_a_pixel: int = 1) -> tuple[Array, tuple]:
    """Digits as long sequences: one pixel at a time, as one reads, named while the last is shown.

    Args:
      images: [B, 8, 8].
      labels: int [B].
      steps_a_pixel: how many steps each pixel stays, ≥ 1.

    Returns:
      xs [T, B, 1] with T = 64 · steps_a_pixel, and ys as `row_by_row` gives them.

    Raises:
      TypeError, ValueError: if `steps_a_pixel` is no int ≥ 1.
      ValueError: if the images are not [B, 8, 8] or the labels not [B].

    >>> import jax.numpy as jnp, eprop_jax.tasks as tasks
    >>> xs, (labels, weight) = tasks.pixel_by_pixel(jnp.ones((4, 8, 8)), jnp.arange(4))
    >>> xs.shape, labels.shape, int((weight[:, 0] > 0).sum())
    ((64, 4, 1), (64, 4), 1)
    """
    steps_a_pixel = checks.size("steps_a_pixel", steps_a_pixel)
    _fit(images, labels)
    pixels = jnp.swapaxes(images.reshape(images.shape[0], -1), 0, 1)[..., None]
    return _named_at_the_end(pixels, labels, steps_a_pixel)


def sequential_digits(by: str = "row", *, part: str = "train", steps_each: int = 1) -> Task:
    """A task that draws digits of one part of the data, with replacement.

    Args:
      by: "row" (8 steps of 8 pixels) or "pixel" (64 steps of one).
      part: "train" or "test".
      steps_each: how many steps each row or pixel stays, ≥ 1.

    Returns:
      (key, batch) -> (xs, ys) as `row_by_row` or `pixel_by_pixel` gives them, for
      `losses.masked(losses.softmax_cross_entropy)` with ten outputs.

    Raises:
      TypeError, ValueError: for another `by` or `part`, `steps_each` or `batch` < 1; each by its
        name.
      FileNotFoundError, ValueError: as `digits`.

    >>> import jax
    >>> from eprop_jax import tasks
    >>> xs, (label, weight) = tasks.sequential_digits("pixel")(jax.random.key(0), 16)
    >>> xs.shape, label.shape
    ((64, 16, 1), (64, 16))
    """
    present = {"row": row_by_row, "pixel": pixel_by_pixel}[
        checks.one_of("by", by, ("row", "pixel"))
    ]
    checks.one_of("part", part, ("train", "test"))
    checks.size("steps_each", steps_each)
    data = digits()
    train = part == "train"
    images = data.train_images if train else data.test_images
    labels = data.train_labels if train else data.test_labels

    def sample(key, batch):
        checks.key("key", key)
        drawn = jax.random.randint(key, (checks.size("batch", batch),), 0, len(labels))
        return present(jnp.asarray(images)[drawn], jnp.asarray(labels)[drawn], steps_each)

    return sample


def batches(key: Array, n: int, size: int, updates: int) -> Array:
    """Indices [updates, size]: epochs in random order, each without what does not fill a batch.

    Args:
      key: a PRNG key.
      n: examples to draw from.
      size: examples a batch, at most n.
      updates: how many batches.

    Raises:
      TypeError, ValueError: if `n`, `size` or `updates` is no int ≥ 1, or size > n.

    >>> import jax
    >>> from eprop_jax import tasks
    >>> tasks.batches(jax.random.key(0), n=10, size=4, updates=5).shape
    (5, 4)
    """
    checks.key("key", key)
    if checks.size("size", size) > checks.size("n", n):
        raise ValueError(f"size: got {size}, wanted at most n={n}, the examples there are")
    per_epoch = n // size
    keys = jax.random.split(key, -(-checks.size("updates", updates) // per_epoch))
    order = jax.vmap(lambda k: jax.random.permutation(k, n)[: per_epoch * size])(keys)
    return order.reshape(-1, size)[:updates]


def _named_at_the_end(xs, labels, steps_each):
    """[S, B, n_in], one entry after the other, and labels [B] -> (xs, ys)."""
    xs = jnp.repeat(xs, steps_each, axis=0)
    T, B = xs.shape[:2]
    last = (jnp.arange(T) >= T - steps_each).astype(xs.dtype) / steps_each
    return xs, (jnp.broadcast_to(labels[None], (T, B)), jnp.broadcast_to(last[:, None], (T, B)))


def _fit(images, labels):
    checks.fits("images", checks.array("images", images, 3, f"[B, {ROWS}, {COLUMNS}]"))
    checks.fits("labels", checks.array("labels", labels, 1, "[B], one an image"))
    if images.shape[1:] != (ROWS, COLUMNS):
        raise ValueError(f"images: got shape {list(images.shape)}, wanted [B, {ROWS}, {COLUMNS}]")
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"labels: got shape {list(labels.shape)}, wanted [{images.shape[0]}], one an image"
        )
