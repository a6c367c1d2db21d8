"""Tasks: what a network sees, and what is wanted of it.

Functions such as `evidence_accumulation` make a task, a pure function (key, batch) -> (xs, ys) with
xs [T, batch, n_in] and targets ys that start with [T, batch]. Times are in ms, rates in Hz, the
step is dt in ms. Compile it with `jax.jit(task, static_argnums=1)`, or use it inside what is
compiled. In a classification ys is (class, weight), for
`losses.masked(losses.softmax_cross_entropy)`; the weights of one sequence sum to 1.

Real data come as arrays (`digits`, `japanese_vowels`), as sequences made of chosen examples
(`row_by_row`, `pixel_by_pixel`, `utterances`) and as tasks (`sequential_digits`, `vowel_speakers`).
Your own arrays are made `sequences` of, and shuffled batches by `from_arrays`: docs/OWN_DATA.md.
"""

from eprop_jax.tasks.arrays import Epochs, from_arrays, sequences
from eprop_jax.tasks.cues import delayed_xor, evidence_accumulation, store_recall
from eprop_jax.tasks.images import (
    CLASSES,
    COLUMNS,
    ROWS,
    Digits,
    batches,
    digits,
    pixel_by_pixel,
    row_by_row,
    sequential_digits,
)
from eprop_jax.tasks.patterns import copy_memory, pattern_generation
from eprop_jax.tasks.speech import (
    CEPSTRA,
    SPEAKERS,
    JapaneseVowels,
    japanese_vowels,
    utterances,
    vowel_speakers,
)
from eprop_jax.tasks.timing import Task

__all__ = [
    "CEPSTRA",
    "CLASSES",
    "COLUMNS",
    "ROWS",
    "SPEAKERS",
    "Digits",
    "Epochs",
    "JapaneseVowels",
    "Task",
    "batches",
    "copy_memory",
    "delayed_xor",
    "digits",
    "evidence_accumulation",
    "from_arrays",
    "japanese_vowels",
    "pattern_generation",
    "pixel_by_pixel",
    "row_by_row",
    "sequences",
    "sequential_digits",
    "store_recall",
    "utterances",
    "vowel_speakers",
]
