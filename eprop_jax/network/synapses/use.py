"""What the library does with synapses of any kind, from the functions that each is."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax import checks
from eprop_jax.network.synapses.dense import dense
from eprop_jax.network.synapses.masked import masked
from eprop_jax.network.synapses.value import Array, Kind, Synapses

Gates = Mapping[Any, Any]
"""by gate"""


def plain(n_pre: int, n_post: int, mask: Any = None) -> Synapses:
    """What a line has if nothing else is said: a matrix, or of a mask what is there of it."""
    return (dense() if mask is None else masked(mask))(n_pre, n_post)


def line(name: str, kind: Kind | None, n_pre: int, n_post: int) -> Synapses:
    """The synapses of a line; None: a matrix."""
    if kind is None:
        return plain(n_pre, n_post)
    wanted = "a kind of synapses, such as ej.synapses.sparse(40)"
    try:
        found = checks.is_callable(name, kind)(n_pre, n_post)
    except TypeError as error:
        raise TypeError(f"{name}: got {kind!r}, wanted {wanted}: {error}") from error
    if not isinstance(found, Synapses):
        raise TypeError(f"{name}: got {type(found).__name__} from it, wanted {wanted}")
    if (found.n_pre, found.n_post) != (n_pre, n_post):
        raise ValueError(
            f"{name}: got synapses {found.n_pre} -> {found.n_post}, wanted {n_pre} -> {n_post}"
        )
    return found


def shapes(s: Synapses) -> Any:
    """Of w."""
    return jax.eval_shape(lambda: s.init(jax.random.key(0), 1.0))


def heard_size(s: Synapses) -> int:
    """Of what `drive` is given."""
    return (1 + s.delay) * s.n_pre


def trace_shape(s: Synapses, dtype: Any = jnp.float32) -> tuple[int, int, bool]:
    """(lines, n_post, do all units hear the same lines?)"""
    seen = jax.eval_shape(s.view, jax.ShapeDtypeStruct((heard_size(s),), dtype))
    return seen.shape[0], s.n_post, seen.shape[1] == 1


def existing(s: Synapses, w: Array) -> Array:
    """w, or its gradient, with zeros for the weights that do not exist."""
    return w if s.exists is None else jnp.where(jnp.asarray(s.exists), w, 0)


def drive(s: Synapses, w: Gates) -> Callable[[Array], dict[str, Array]]:
    """pre -> {gate: a}; all gates in one product where they are matrices."""
    if not w:
        return lambda pre: {}
    if not s.matrix:
        return lambda pre: {g: s.drive(x, pre) for g, x in w.items()}
    joined = jnp.concatenate(list(w.values()), 1)
    return lambda pre: split(s.drive(joined, pre), list(w))


def split(a: Array, names: list[str]) -> dict[str, Array]:
    return dict(zip(names, jnp.split(a, len(names), axis=-1)))


def back(s: Synapses, w: Gates) -> Callable[[Gates], Array]:
    """{gate: ∂̃a [..., n_post]} of some gates, or of all -> ∂̃pre."""
    one = transposed(s)
    beside = lambda gates: jnp.concatenate([w[g] for g in gates], 1)
    # Transposed here, so that a scan over steps does not do it at each.
    joined_T: Any = beside(w).T if s.matrix and w else ()

    def product(da: Gates) -> Array:
        # (∂̃a of a component that is the same for all units is one number for all.)
        da = {g: jnp.broadcast_to(x, (*x.shape[:-1], s.n_post)) for g, x in da.items()}
        if not s.matrix:
            first, *others = (one(w[g], x) for g, x in da.items())
            return functools.reduce(jnp.add, others, first)
        of = joined_T.T if list(da) == list(w) else beside(da)
        return one(of, jnp.concatenate(list(da.values()), -1))

    return product


def transposed(s: Synapses) -> Callable[[Array, Array], Array]:
    """(w, ∂̃a) -> ∂̃pre, of one gate."""

    def derived(w: Array, da: Array) -> Array:
        like = jax.ShapeDtypeStruct((*da.shape[:-1], heard_size(s)), da.dtype)
        return jax.linear_transpose(lambda pre: s.drive(w, pre), like)(da)[0]

    return s.back or derived


def collected(s: Synapses) -> Callable[[Array, Array], Array]:
    """(pre [R, n_pre], ∂̃a [R, n_post]) -> Σ_R of the gradient, of one gate."""

    def derived(pre: Array, da: Array) -> Array:
        like = jax.ShapeDtypeStruct(shapes(s).shape, da.dtype)
        return jax.linear_transpose(lambda w: s.drive(w, pre), like)(da)[0]

    return s.collect or derived


def collect(s: Synapses, pre: Array, da: Array) -> Array:
    """Σ over all leading axes of pre ⊗ ∂̃a (Eq. 4), like w."""
    return collected(s)(pre.reshape(-1, pre.shape[-1]), da.reshape(-1, s.n_post))


def of_examples(s: Synapses, heard: Array, da: Array) -> Array:
    """Σ_t pre^t ⊗ ∂̃a^t line by line: what is heard [K, B, m], ∂̃a [B, K, seeds, n_post] -> [B, seeds,
    lines, n_post]."""
    lines, _, same = trace_shape(s)
    if same:
        return _product(s.view(heard)[..., 0], da)

    def add(x, at):
        heard_t, da_t = at
        return x + s.view(heard_t)[:, None] * da_t[:, :, None], None

    zero = jnp.zeros((da.shape[0], da.shape[2], lines, s.n_post), da.dtype)
    return jax.lax.scan(add, zero, (heard, jnp.moveaxis(da, 1, 0)))[0]


def of_heard(heard: Array, da: Array) -> Array:
    """The same where ∂̃a is one for all units, [B, K, seeds, 1], by what is heard: [B, seeds, m, 1]."""
    return _product(heard, da)


def _product(pre: Array, da: Array) -> Array:
    """[K, B, i], [B, K, seeds, j] -> [B, seeds, i, j]"""
    B, K, seeds, n = da.shape
    found = jnp.moveaxis(pre, 0, -1) @ da.reshape(B, K, -1)
    return jnp.moveaxis(found.reshape(B, -1, seeds, n), 1, 2)


def tie(s: Synapses, x: Array) -> Array:
    """A gradient line by line, [lines, n_post] (or [lines, 1], the same for all units) -> like w."""
    return s.tie(jnp.broadcast_to(x, (x.shape[0], s.n_post)))


def matrix(s: Synapses, w: Array) -> Array:
    """[n_pre, n_post]: the weights as a dense layer would have them."""
    if s.matrix:
        return w
    return back(s, {"": w})({"": jnp.eye(s.n_post, dtype=w.dtype)}).T


def own(s: Synapses, w: Array) -> Array:
    """w_jj [n]: of each unit to itself."""
    return jnp.diagonal(matrix(s, w)) if s.own is None else s.own(w)


def number(s: Synapses) -> Array:
    """1 for each weight that exists, like w."""
    w = jnp.ones(shapes(s).shape)
    return existing(s, w)


def there(s: Synapses) -> np.ndarray:
    """bool [n_pre, n_post]: which units each hears, at whatever delay."""
    with jax.ensure_compile_time_eval():
        found = np.asarray(matrix(s, number(s))) != 0
    return found.reshape(-1, s.n_pre, s.n_post).any(0)


def kinds(s: Synapses) -> tuple[bool, bool]:
    """Of synapses between the same units: (does one lead to another unit?, does one lead to itself?)"""
    with jax.ensure_compile_time_eval():
        all_of, itself = (
            np.asarray(x) for x in (s.drive(number(s), jnp.ones(heard_size(s))), own(s, number(s)))
        )
    least = 1e-5 * all_of  # means of blocks round
    return bool((all_of - itself > least).any()), bool((itself > least).any())


def without_own(s: Synapses) -> Synapses:
    """The same without the synapses of units to themselves."""
    if not kinds(s)[1]:
        return s
    lines, n, same = trace_shape(s)
    if same or shapes(s).shape != (lines, n):
        raise ValueError(
            f"self_connections: got False with {s.name} synapses, some of whose weights lead units to "
            "themselves and to others; wanted True, or synapses with a weight each"
        )
    with jax.ensure_compile_time_eval():
        w = jnp.ones((lines, n))
        one = jax.grad(lambda w: own(s, w).sum())(w)
    exists = np.asarray(number(s) * (1 - one)) != 0
    init = lambda key, gain: jnp.where(exists, s.init(key, gain), 0.0)
    return s._replace(init=init, exists=exists)


# -- what is heard late ----------------------------------------------------------------------------


def kept(s: Synapses, heard: Array) -> Array:
    """Of what a line has heard, what it will hear again one step later: [..., D n_pre]."""
    return heard[..., : s.delay * s.n_pre]


def lagged(s: Synapses, past: Array, pre: Array, resets: Array | None) -> Array:
    """What a line hears over a chunk: pre [K, B, m], past [B, D m] -> [K, B, (1 + D) m], the newest
    first. Of examples that start afresh before a step, what was sent before it is zero."""
    K, m, D = pre.shape[0], s.n_pre, s.delay
    before = [past[:, k * m : (k + 1) * m][None] for k in reversed(range(D))]
    rows = jnp.concatenate([*before, pre])
    slots = [rows[D - k : D - k + K] for k in range(D + 1)]
    return jnp.concatenate([unbroken(x, k, resets) for k, x in enumerate(slots)], -1)


def unlagged(s: Synapses, dheard: Array, resets: Array | None) -> Array:
    """`lagged`, transposed, to the steps of the chunk: ∂̃heard [K, ..., B, (1 + D) m] -> ∂̃pre."""
    K, found = dheard.shape[0], []
    for k, x in enumerate(jnp.split(dheard, 1 + s.delay, -1)):
        x = unbroken(x, k, resets)[min(k, K) :]
        found.append(jnp.concatenate([x, jnp.zeros((min(k, K), *x.shape[1:]), x.dtype)]))
    return functools.reduce(jnp.add, found)


def unbroken(x: Array, k: int, resets: Array | None) -> Array:
    """x [K, ..., B, m], heard k steps late, where no step between has started afresh."""
    if resets is None or k == 0:
        return x
    since = jnp.cumsum(resets, 0)
    then = jnp.concatenate([jnp.zeros_like(since[:k]), since])[: len(since)]
    there = (since == then).reshape(since.shape[0], *(1,) * (x.ndim - 3), since.shape[1], 1)
    return jnp.where(there, x, 0)
