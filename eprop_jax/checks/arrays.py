"""Refusals of a user's own arrays: examples, their lengths and their targets."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from eprop_jax.checks.values import array, fits, flag, is_traced, real


def examples(X, lengths, batch_major: bool, n_in: int | None = None) -> tuple[Any, Any]:
    """X as [N, T, F], finite where it counts, and lengths [N] (or None). Values that are traced are
    not known, and not checked."""
    first = "[N, T, F]" if flag("batch_major", batch_major) else "[T, N, F]"
    X = real("X", X)
    if X.ndim != 3:
        raise ValueError(f"X: got shape {list(X.shape)}, wanted {first}, the features last")
    if 0 in X.shape:
        raise ValueError(f"X: got shape {list(X.shape)}, wanted sizes >= 1 in {first}")
    if n_in not in (None, X.shape[-1]):
        raise ValueError(
            f"X: got shape {list(X.shape)}, wanted {first[:-2]}{n_in}]: the network has n_in={n_in}"
        )
    X = X if batch_major else X.swapaxes(0, 1)
    N, T = X.shape[:2]
    if lengths is not None:
        lengths = _lengths(lengths, N, T)
    if not is_traced((X, lengths)) and jnp.issubdtype(X.dtype, jnp.floating):
        bad = ~np.isfinite(np.asarray(X))
        bad &= inside(lengths, N, T)[..., None]
        if bad.any():
            n, t, f = map(int, np.argwhere(bad)[0])
            raise ValueError(
                f"X: got {X[n, t, f]} at example {n}, step {t}, feature {f}, wanted finite numbers"
            )
    return X, lengths


def targets(y, lengths, N: int, T: int, batch_major: bool) -> tuple[Any, bool]:
    """(y with its examples first, is it of each step?)."""
    steps = "N, T" if batch_major else "T, N"
    wanted = (
        f"classes as integers [N] or [{steps}], or real targets as floats [N, n_out] or "
        f"[{steps}, n_out], with N={N} and T={T} as in X"
    )
    y = real("y", y)
    floating = jnp.issubdtype(y.dtype, jnp.floating)
    of_steps = y.ndim == (3 if floating else 2)
    y_first = y.swapaxes(0, 1) if of_steps and not batch_major else y
    lead = (N, T) if of_steps else (N,)
    if y.ndim != len(lead) + floating or y_first.shape[: len(lead)] != lead or 0 in y.shape:
        raise ValueError(f"y: got {y.dtype}{list(y.shape)}, wanted {wanted}")
    if not is_traced((y, lengths)):
        values = np.asarray(y_first)
        bad = ~np.isfinite(values).reshape(*lead, -1).all(-1) if floating else values < 0
        bad = bad & inside(lengths, N, T) if of_steps else bad
        if bad.any():
            at = tuple(map(int, np.argwhere(bad)[0]))
            want = "finite targets" if floating else "classes >= 0"
            where = f"example {at[0]}" + (f", step {at[1]}" if of_steps else "")
            raise ValueError(f"y: got {values[at]} at {where}, wanted {want}")
    return y_first, of_steps


def inside(lengths, N: int, T: int) -> np.ndarray:
    """Which steps are before their sequence's end, [N, T]."""
    ends = np.full(N, T) if lengths is None else np.asarray(lengths)
    return np.arange(T) < ends[:, None]


def _lengths(value, N: int, T: int):
    value = value if is_traced(value) else np.asarray(value)
    if array("lengths", value).shape != (N,) or not jnp.issubdtype(value.dtype, jnp.integer):
        raise ValueError(
            f"lengths: got {value.dtype}{list(value.shape)}, wanted ints [{N}], one an example"
        )
    if not is_traced(value):
        bad = np.flatnonzero((value < 1) | (value > T))
        if bad.size:
            raise ValueError(
                f"lengths: got {value[bad[0]]} at example {bad[0]}, wanted from 1 to T={T} steps"
            )
    return fits("lengths", value)
