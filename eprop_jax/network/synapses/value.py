"""What synapses are to the rest of the library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


class Synapses(NamedTuple):
    """The synapses of one line, from n_pre units to n_post: linear in what they hear, and in w.

    a_j = Σ_l view(pre)_lj lines(w)_lj, where lines(w) [lines, n_post] is `tie`, transposed: a trace of
    w has one number a line and unit, before the lines that share a weight are added.
    """

    n_pre: int
    n_post: int
    init: Callable[[Array, Any], Array]
    """(key, gain) -> w, of standard deviation gain/√fan_in"""
    drive: Callable[[Array, Array], Array]
    """(w, pre [..., n_pre]) -> a [..., n_post]"""
    view: Callable[[Array], Array]
    """pre [..., n_pre] -> what each unit hears, line by line: [..., lines, n_post], or [..., lines, 1]
    where all units hear the same lines"""
    tie: Callable[[Array], Array] = lambda x: x
    """[lines, n_post] -> like w: lines that share a weight, added"""
    back: Callable[[Array, Array], Array] | None = None
    """(w, ∂̃a [..., n_post]) -> ∂̃pre [..., n_pre]; None: `drive`, transposed"""
    collect: Callable[[Array, Array], Array] | None = None
    """(pre [R, n_pre], ∂̃a [R, n_post]) -> Σ_R of the gradient, like w; None: `drive`, transposed"""
    own: Callable[[Array], Array] | None = None
    """w -> w_jj [n_post], of the synapses of each unit to itself; None: the diagonal of all"""
    part: Callable[[Any, int], Any] | None = None
    """(j, n) -> the synapses of units j … j + n − 1 alone, whose weights are w's last axis there, and
    whose `own` is still that of the same unit; None: units share weights"""
    delay: int = 0
    """D: what `drive`, `view` and `collect` are given is what the line hears now and at each of D steps
    before, side by side, the newest first: [..., (1 + D) n_pre]"""
    hear: Callable[[Array], Array] | None = None
    """the units' outputs -> what `drive`, `view` and `collect` are given of them, once a step, where
    that is not the same (units on other devices); `back` leads to the outputs themselves"""
    exists: Any = None
    """bool, like w: which weights exist; None: all. The others are zero, and have no gradient."""
    matrix: bool = False
    """is w the matrix [n_pre, n_post] itself? Then gates stand side by side in one product"""
    name: str = "custom"
    """what it is called where it is printed"""


Kind = Callable[[int, int], Synapses]
"""(n_pre, n_post) -> the synapses of a line of these sizes."""


def normal(key: Array, shape: tuple[int, ...], fan_in: Any, gain: Any) -> Array:
    """Standard deviation gain/√fan_in; `gain` may be traced."""
    root = np.sqrt(np.maximum(fan_in, 1))  # what hears no unit has no weights
    spread = gain / root if isinstance(gain, jax.Array) else np.asarray(gain, float) / root
    w = jax.random.normal(key, shape)
    return w * jnp.broadcast_to(jnp.asarray(spread, w.dtype), w.shape)
