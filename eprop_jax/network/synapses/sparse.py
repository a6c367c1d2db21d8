"""A list of synapses a unit: time and memory follow the number of synapses."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax import checks
from eprop_jax.network.synapses.value import Array, Kind, Synapses, normal


def sparse(fan_in: Any = None, *, edges: Any = None, delays: Any = None, seed: int = 0) -> Kind:
    """Synapses by list: w [k, n_post], the k synapses of each unit.

    Args:
      fan_in: how many units each unit hears, drawn at random without repetition, or all where there are
        no more; or the lists themselves, ints [k, n_post], −1 for no synapse (as `by_distance` draws
        them).
      edges: ints [E, 2], each a synapse (pre, post), instead of `fan_in`. Two between the same units
        are two synapses.
      delays: of each synapse, how many further steps it takes, ints like the lists, or [E]; None: none.
        See `delayed`.
      seed: of the lists that are drawn.

    Returns:
      A kind, with weights [k, n_post] (zero, and without gradient, where a unit has fewer than k).

    Raises:
      TypeError, ValueError: for neither or both of them, or what is no list; where the kind meets its
        line, for units that it does not have.

    >>> import jax, eprop_jax as ej
    >>> cell = ej.cells.alif(3, 200, w_rec=ej.synapses.sparse(fan_in=10))
    >>> cell.init(jax.random.key(0))["w_rec"].shape
    (10, 200)
    >>> ring = [(j, (j + 1) % 6) for j in range(6)]
    >>> cell = ej.cells.alif(3, 6, w_rec=ej.synapses.sparse(edges=ring))
    >>> cell.connectivity.sum().item()
    6
    """
    if (fan_in is None) == (edges is None):
        raise ValueError(
            f"fan_in, edges: got {'neither' if fan_in is None else 'both'}, wanted one of them"
        )
    seed = checks.seed("seed", seed)
    if edges is not None:
        edges = checks.indices("edges", edges, 2)
        if edges.shape[1] != 2:
            raise ValueError(f"edges: got {list(edges.shape)}, wanted [E, 2], (pre, post) each")
    elif np.ndim(fan_in) == 0:
        fan_in = checks.size("fan_in", fan_in)
    else:
        fan_in = checks.indices("fan_in", fan_in, 2)
    delays = (
        None if delays is None else checks.indices("delays", delays, 1 if edges is not None else 2)
    )

    def kind(n_pre: int, n_post: int) -> Synapses:
        if edges is not None:
            checks.within("edges", edges[:, 0], 0, n_pre)
            checks.within("edges", edges[:, 1], 0, n_post)
            late, slowest = later(edges[:, 0], delays, n_pre)
            return of_lists(lists_of(late, edges[:, 1], n_post), n_pre, slowest)
        if np.ndim(fan_in) == 0:
            lists = drawn(n_pre, n_post, int(fan_in), seed)
        else:
            lists = fan_in
            if lists.shape[1] != n_post:
                raise ValueError(f"fan_in: got {list(lists.shape)}, wanted [k, {n_post}]")
            checks.within("fan_in", lists, -1, n_pre)
        late, slowest = later(lists, delays, n_pre)
        return of_lists(late, n_pre, slowest)

    return kind


def later(pre: np.ndarray, delays: np.ndarray | None, n_pre: int) -> tuple[np.ndarray, int]:
    """Places in what is heard, where the newest stands first; and the longest delay."""
    if delays is None:
        return pre, 0
    if delays.shape != pre.shape:
        raise ValueError(
            f"delays: got {list(delays.shape)}, wanted {list(pre.shape)}, one a synapse"
        )
    checks.within("delays", delays, 0, 2**15)
    return np.where(pre < 0, pre, pre + n_pre * delays), int(delays.max(initial=0))


def by_distance(pre: Any, post: Any, fan_in: int, width: float, *, seed: int = 0) -> np.ndarray:
    """Lists for `sparse`, drawn by distance: of each unit `fan_in` others without repetition, one at a
    distance d with a chance that falls as exp(−d²/2 width²).

    Args:
      pre, post: positions [n_pre, dimensions] and [n_post, dimensions].
      fan_in: synapses a unit, at most n_pre.
      width: in the positions' own unit.
      seed: of what is drawn.

    Returns:
      Ints [fan_in, n_post].

    Raises:
      TypeError, ValueError: for positions that do not fit, or more synapses than units.

    >>> import numpy as np, eprop_jax as ej
    >>> line = np.arange(100.0)[:, None]
    >>> lists = ej.synapses.by_distance(line, line, fan_in=5, width=3.0)
    >>> lists.shape, bool(np.abs(lists - np.arange(100)).max() < 20)
    ((5, 100), True)
    """
    pre, post = (np.asarray(checks.finite(k, x), float) for k, x in (("pre", pre), ("post", post)))
    if pre.ndim != 2 or post.ndim != 2 or pre.shape[1] != post.shape[1]:
        raise ValueError(
            f"pre, post: got {list(pre.shape)} and {list(post.shape)}, wanted [n, dimensions] each"
        )
    k, width = checks.size("fan_in", fan_in), float(checks.positive("width", width))
    if k > len(pre):
        raise ValueError(f"fan_in: got {k}, wanted at most {len(pre)}, the units that can be heard")
    rng = np.random.default_rng(checks.seed("seed", seed))
    found = np.empty((k, len(post)), np.int32)
    for j, at in enumerate(post):
        # The k largest of log p + a Gumbel number each are k draws by p without repetition.
        log_p = -((pre - at) ** 2).sum(1) / (2 * width**2)
        found[:, j] = np.sort(np.argsort(-(log_p + rng.gumbel(size=len(pre))))[:k])
    return found


def drawn(n_pre: int, n_post: int, k: int, seed: int) -> np.ndarray:
    """k of all, in order, for each unit."""
    rng, k = np.random.default_rng(seed), min(k, n_pre)
    found = np.empty((k, n_post), np.int32)
    for j in range(n_post):
        found[:, j] = np.sort(rng.choice(n_pre, k, replace=False))
    return found


def lists_of(pre: np.ndarray, post: np.ndarray, n_post: int) -> np.ndarray:
    """Edges (pre, post), as [k, n_post] with −1 for none: each unit's in the order given."""
    order = np.argsort(post, kind="stable")
    pre, post = pre[order], post[order]
    number = np.bincount(post, minlength=n_post)
    line = np.arange(len(post)) - np.repeat(np.cumsum(number) - number, number)
    found = np.full((max(int(number.max(initial=0)), 1), n_post), -1, np.int32)
    found[line, post] = pre
    return found


def of_lists(lists: np.ndarray, n_pre: int, delay: int) -> Synapses:
    there = lists >= 0
    at = np.where(there, lists, (1 + delay) * n_pre).astype(np.int32)
    s = of_places(at, there, n_pre, delay, bool(there.all()))

    def init(key: Array, gain: Any) -> Array:
        w = normal(key, at.shape, there.sum(0), gain)
        return jnp.where(there, w, 0.0)

    return s._replace(init=init)


def of_places(at: Any, there: Any, n_pre: int, delay: int, full: bool, j: Any = 0) -> Synapses:
    """Where in what is heard the synapses of units j, j + 1, … begin, [k, n]; its size for none.

    Line by line: a gather of one line is fast where one of all lines, summed, is not; and what is
    gathered lies with its examples side by side.
    """
    n, m = at.shape[1], (1 + delay) * n_pre

    def filled(pre_T):
        """[m, ...], and a zero for the lines that are not there."""
        return pre_T if full else jnp.concatenate([pre_T, jnp.zeros_like(pre_T[:1])])

    def take(pre_T, at):
        return pre_T.at[at].get(mode="promise_in_bounds")

    def drive(w: Array, pre: Array) -> Array:
        heard = filled(pre.reshape(-1, m).T)
        add = lambda a, line: (a + take(heard, line[0]) * line[1][:, None], None)
        zero = jnp.zeros((n, heard.shape[1]), jnp.result_type(w, pre))
        a, _ = jax.lax.scan(add, zero, (jnp.asarray(at), w))
        return a.T.reshape(*pre.shape[:-1], n)

    def back(w: Array, da: Array) -> Array:
        rows = da.reshape(-1, n).T
        zero = jnp.zeros((m + (not full), rows.shape[1]), jnp.result_type(w, da))
        found = zero.at[jnp.asarray(at)].add(w[..., None] * rows[None], mode="promise_in_bounds")
        return found[:m].T.reshape(*da.shape[:-1], m)

    def view(pre: Array) -> Array:
        heard = take(filled(jnp.moveaxis(pre, -1, 0)), jnp.asarray(at))
        return jnp.moveaxis(heard, (0, 1), (-2, -1))

    def collect(pre: Array, da: Array) -> Array:
        heard, rows = filled(pre.T), da.T
        return jax.lax.map(lambda line: (take(heard, line) * rows).sum(-1), jnp.asarray(at))

    def part(first: Any, size: int) -> Synapses:
        own = lambda x: jax.lax.dynamic_slice_in_dim(jnp.asarray(x), first, size, 1)
        return of_places(own(at), own(there), n_pre, delay, full, first)

    def own(w: Array) -> Array:
        return jnp.where(at % n_pre == (j + np.arange(n))[None], w, 0).sum(0)

    return Synapses(
        n_pre, n, lambda key, gain: jnp.zeros(at.shape), drive, view, back=back, collect=collect,
        own=own, part=part, delay=delay, exists=None if full else there, name="sparse",
    )  # fmt: skip
