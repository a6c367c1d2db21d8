"""Spoken vowels: real sequences of different lengths, padded and masked.

M. Kudo, J. Toyama, M. Shimbo, *Japanese Vowels* [dataset], UCI Machine Learning Repository, 1999,
https://doi.org/10.24432/C5NS47, CC BY 4.0. See data/README.md.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import core

from eprop_jax import checks
from eprop_jax.network.types import Array
from eprop_jax.tasks.files import packaged
from eprop_jax.tasks.timing import Task

CEPSTRA = 12
SPEAKERS = 9
SHA256 = "d082d11cd0948292993793a832f1ca641cf921b7864157da572da1c69c88cdb9"


class JapaneseVowels(NamedTuple):
    """640 utterances of /ae/ by nine speakers, 270 of them for training."""

    train_frames: np.ndarray
    """float32 [270, 26, 12], LPC cepstra of a frame each 6.4 ms, zero past the utterance's end"""
    train_lengths: np.ndarray
    """int32 [270], frames, 7 … 26"""
    train_speakers: np.ndarray
    """int32 [270], 0 … 8"""
    test_frames: np.ndarray
    """float32 [370, 29, 12]"""
    test_lengths: np.ndarray
    """int32 [370], 7 … 29"""
    test_speakers: np.ndarray
    """int32 [370]"""


def japanese_vowels() -> JapaneseVowels:
    """The Japanese vowels of Kudo, Toyama and Shimbo (1999), which come with the package.

    Who speaks? A logistic regression on each utterance's mean frame names 97 % of the test
    speakers, so this data shows how lengths are handled; it does not rank learning rules.

    Returns:
      `JapaneseVowels`: 12 cepstral coefficients a frame (dimensionless, as they were published),
      lengths and speakers, in the split of the source.

    Raises:
      FileNotFoundError: if the package was installed without its data.
      ValueError: if the file is not the one that was published with the package.

    >>> from eprop_jax import tasks
    >>> data = tasks.japanese_vowels()
    >>> data.train_frames.shape, data.test_frames.shape, int(data.test_lengths.max())
    ((270, 26, 12), (370, 29, 12), 29)
    """
    stored = packaged("japanese_vowels.npz", SHA256)
    return JapaneseVowels(*(
        stored[f"{name}_{part}"].astype(dtype)
        for part in ("train", "test")
        for name, dtype in (("x", np.float32), ("len", np.int32), ("y", np.int32))
    ))  # fmt: skip


def utterances(
    frames: Array, lengths: Array, speakers: Array, *, named: str = "throughout"
) -> tuple[Array, tuple]:
    """Utterances as time-major sequences in which only their own frames count.

    Args:
      frames: [B, T, d], padded.
      lengths: int [B], 1 … T.
      speakers: int [B].
      named: "throughout": every frame of an utterance has the weight 1/length; "last": its last
        frame has 1. Either way the weights of an utterance sum to 1, and those past its end are 0.

    Returns:
      xs [T, B, d] and ys = (speakers [T, B], weight [T, B]) for `losses.masked`.

    Raises:
      ValueError: if the shapes do not fit each other, for a length outside 1 … T (where it is not
        traced), or for another `named`.

    >>> import jax.numpy as jnp, eprop_jax.tasks as tasks
    >>> frames, lengths, who = jnp.ones((2, 5, 12)), jnp.array([4, 2]), jnp.array([0, 8])
    >>> xs, (speakers, weight) = tasks.utterances(frames, lengths, who)
    >>> xs.shape, weight[:, 1].tolist()
    ((5, 2, 12), [0.5, 0.5, 0.0, 0.0, 0.0])
    """
    checks.one_of("named", named, ("throughout", "last"))
    B, T = checks.fits("frames", checks.array("frames", frames, 3, "[B, T, d]")).shape[:2]
    for name, value in (("lengths", lengths), ("speakers", speakers)):
        checks.fits(name, checks.array(name, value, 1, f"[{B}], one each"))
        if value.shape != (B,):
            raise ValueError(f"{name}: got shape {list(value.shape)}, wanted [{B}], one each")
    if not isinstance(lengths, core.Tracer) and not np.all((lengths >= 1) & (lengths <= T)):
        raise ValueError(f"lengths: got {np.asarray(lengths)}, wanted from 1 to T={T} frames")
    ends = jnp.broadcast_to(jnp.asarray(lengths)[None], (T, B))
    t = jnp.broadcast_to(jnp.arange(T, dtype=ends.dtype)[:, None], (T, B))
    if named == "last":
        weight = (t == ends - 1).astype(frames.dtype)
    else:
        weight = (t < ends).astype(frames.dtype) / ends.astype(frames.dtype)
    return jnp.swapaxes(frames, 0, 1), (jnp.broadcast_to(speakers[None], (T, B)), weight)


def vowel_speakers(*, part: str = "train", named: str = "throughout") -> Task:
    """A task that draws utterances of one part of the data, with replacement.

    Args:
      part: "train" (T = 26) or "test" (T = 29).
      named: as in `utterances`.

    Returns:
      (key, batch) -> (xs [T, batch, 12], (speaker [T, batch], weight [T, batch])), for
      `losses.masked(losses.softmax_cross_entropy)` with nine outputs.

    Raises:
      TypeError, ValueError: for another `part` or `named`, or `batch` < 1; each by its name.
      FileNotFoundError, ValueError: as `japanese_vowels`.

    >>> import jax
    >>> from eprop_jax import tasks
    >>> xs, (speaker, weight) = tasks.vowel_speakers()(jax.random.key(0), 4)
    >>> xs.shape, weight.sum(0).round(4).tolist()
    ((26, 4, 12), [1.0, 1.0, 1.0, 1.0])
    """
    checks.one_of("part", part, ("train", "test"))
    checks.one_of("named", named, ("throughout", "last"))
    data = japanese_vowels()
    stored = data[:3] if part == "train" else data[3:]

    def sample(key, batch):
        checks.key("key", key)
        drawn = jax.random.randint(key, (checks.size("batch", batch),), 0, len(stored[2]))
        return utterances(*(jnp.asarray(x)[drawn] for x in stored), named=named)

    return sample
