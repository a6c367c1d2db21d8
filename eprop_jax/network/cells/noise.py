"""Noise and dropout inside a unit, by keys that travel in the carry.

Each unit of each example carries a key of 64 bits and a count of its draws, integers in its state,
and a draw is a hash of the three. So one draw belongs to one (example, unit, step), whatever the rule,
the chunk or the size of the batch: a rule's forward pass and its Jacobian blocks evaluate the same
`dynamics` at the same state, hence with the same draw, and a carry that was saved goes on bit for bit.
A hash, and not `jax.random` at every step, because the blocks evaluate it again: XLA merges plain
arithmetic, and leaves out what no derivative needs (64 GRU units under e-prop on a CPU: 12 ms for 310).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax import checks
from eprop_jax.network import unitwise
from eprop_jax.network.types import Cell
from eprop_jax.network.units import like

WORDS = ("drawn_key0", "drawn_key1", "drawn_count")
"""by their names as components, which are no cell's: a unit inside may count, too"""


@dataclasses.dataclass(frozen=True)
class DrawnState:
    """A unit's state, its key and its count. The unit's own components keep their names, `c.v` and
    "initial.v"."""

    unit: Any
    """the state of the cell inside"""
    key: Any
    """two uint32 words, which stand still"""
    count: Any
    """of draws, uint32. Like the key it has no gradient and no trace, and a reset leaves it as it is"""
    kept: Any = ()
    """of `dropout`: is the output kept? int32; −1 before the first step"""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(object.__getattribute__(self, "unit"), name)


_FIELDS = tuple(field.name for field in dataclasses.fields(DrawnState))
jax.tree_util.register_pytree_with_keys(
    DrawnState,
    # Without a name of its own, "unit" leaves those of its components as they are.
    lambda s: (
        [
            (jax.tree_util.GetAttrKey("" if name == "unit" else f"drawn_{name}"), getattr(s, name))
            for name in _FIELDS
        ],
        None,
    ),
    lambda _, children: DrawnState(*children),
)


def noisy(cell: Cell, std: Any, *, key: Any) -> Cell:
    """A cell whose drive is noisy: a_j^t + σ ξ_j^t, with ξ standard normal, drawn afresh for every
    example, unit and step.

    The keys start from `key`, the number of the example and that of the unit, and travel in the state:
    an integer there has no gradient, and all that evaluates a step sees the same noise. Whole sequences
    start from the same keys each time; for new noise make the network of another key, which may be
    traced: `ej.train` takes a function (key) -> rule, and calls it with a new key in each update.
    `rule.step` goes on in the noise from call to call, through a reset too: no two episodes are alike.

    Parameters are those of the cell inside, in the same places: train with the noise, and test without
    it by a network of that cell.

    Args:
      cell: any.
      std: σ, in the units of the drive, a number or [n]; of a cell with several drives, of each, or
        {drive: σ} of those named. It may be traced.
      key: a PRNG key; it may be traced. In a stack each layer wants a key of its own.

    Raises:
      TypeError, ValueError: for what is no cell or key, a σ that is negative or not of this cell's, a
        cell that is noisy already.

    >>> import jax, jax.numpy as jnp, eprop_jax as ej
    >>> plain = ej.cells.lif(n_in=3, n_units=4)
    >>> cell = ej.cells.noisy(plain, 0.2, key=jax.random.key(1))
    >>> net = ej.Network(cell, ej.readouts.leaky(4, 2))
    >>> params = net.init(jax.random.key(0))
    >>> run = net.apply(params, jnp.zeros((5, 2, 3)))
    >>> run.state.c.v.shape, bool((run.state.c.v[0] != run.state.c.v[1]).all())
    ((2, 4), True)
    >>> quiet = ej.Network(plain, net.readout).apply(params, jnp.zeros((5, 2, 3)))
    >>> float(abs(quiet.state.c.v).max())
    0.0
    """
    checks.instance("cell", cell, Cell, "an ej.Cell")
    drives = unitwise.gate_names(jax.eval_shape(lambda: cell.init(jax.random.key(0))))
    given = dict.fromkeys(drives, std) if not isinstance(std, Mapping) else dict(std)
    checks.names("std", tuple(given), drives)
    where = {g: f"std[{g!r}]" if isinstance(std, Mapping) else "std" for g in given}
    sizes = {
        f"noise_std_{g}": checks.per_unit(where[g], checks.nonnegative(where[g], x), cell.n_units)
        for g, x in given.items()
    }

    def dynamics(theta, s, a):
        gates = unitwise.as_gates(a)
        for g, word in zip(given, _words(s, len(given))):
            x = gates[g]
            gates = {**gates, g: x + like(theta[f"noise_std_{g}"], x) * _normal(word, x.dtype)}
        c = cell.dynamics(theta, s.unit, unitwise.of_gates(gates))
        return DrawnState(c, s.key, s.count + jnp.uint32(1))

    return _drawn(cell, "noisy", key, dynamics, lambda theta, s: cell.output(theta, s.unit), sizes)


def dropout(cell: Cell, rate: Any, *, key: Any, once: bool = False) -> Cell:
    """A cell whose output is dropped: h_j^t m_j^t / (1 − p), with m = 0 with probability p, else 1
    (Srivastava et al. 2014). What hears h, by w_rec too, hears what is left; the state inside the unit
    goes on as it is.

    Keys, new draws and parameters are as in `noisy`. h⁰, which is no step's, is not dropped.

    Args:
      cell: any.
      rate: p in [0, 1), a number or [n]; it may be traced.
      key: a PRNG key; it may be traced. In a stack each layer wants a key of its own.
      once: True: one m for a sequence, drawn at its first step and after a reset (Gal and Ghahramani
        2016); False: one for every step.

    Raises:
      TypeError, ValueError: for what is no cell or key, a rate outside [0, 1), a cell that has dropout
        already.

    >>> import jax, jax.numpy as jnp, eprop_jax as ej
    >>> cell = ej.cells.dropout(ej.cells.gru(3, 100), 0.3, key=jax.random.key(1))
    >>> net = ej.Network(cell, ej.readouts.linear(100, 2))
    >>> h = net.apply(net.init(jax.random.key(0)), jnp.ones((20, 3))).activity
    >>> round(float((h == 0).mean()), 1)
    0.3
    """
    checks.instance("cell", cell, Cell, "an ej.Cell")
    checks.flag("once", once)
    given = checks.nonnegative("rate", rate)
    rate = checks.per_unit("rate", given, cell.n_units)
    if not checks.is_traced(rate) and not np.all(rate < 1):
        raise ValueError(f"rate: got {given}, wanted probabilities in [0, 1)")

    def dynamics(theta, s, a):
        p = theta["dropout_rate"]
        kept = (_uniform(_words(s, 1)[0], p.dtype) >= p).astype(jnp.int32)
        count = s.count + jnp.uint32(1)
        if once:
            begun = s.kept >= 0
            kept, count = jnp.where(begun, s.kept, kept), jnp.where(begun, s.count, count)
        return DrawnState(cell.dynamics(theta, s.unit, a), s.key, count, kept)

    def output(theta, s):
        h = cell.output(theta, s.unit)
        share = s.kept.astype(h.dtype) / (1.0 - like(theta["dropout_rate"], h))
        return h * jnp.where(s.kept < 0, jnp.ones_like(share), share)

    return _drawn(cell, "dropout", key, dynamics, output, {"dropout_rate": rate}, kept=-1)


def _drawn(cell: Cell, name, key, dynamics, output, constants, kept=None) -> Cell:
    """The cell with keys in its state."""
    key = checks.key("key", key)
    twice = sorted(constants.keys() & cell.constants.keys())
    if twice:
        raise ValueError(f"cell: got {cell}, wanted one that is not {name} already")
    constants = {
        k: jnp.asarray(v, float) if checks.is_traced(v) else np.asarray(v, float)
        for k, v in constants.items()
    }

    def initial_state(params, batch_shape):
        number = jnp.arange(np.prod(batch_shape, dtype=int))
        of_example = jax.vmap(lambda b: jax.random.fold_in(key, b))(number)
        words = jax.vmap(lambda k: jax.random.bits(k, (2, cell.n_units), jnp.uint32))(of_example)
        shape = (*batch_shape, cell.n_units)
        words = tuple(words[:, i].reshape(shape) for i in range(2))
        m = () if kept is None else jnp.full(shape, kept, jnp.int32)
        count = jnp.zeros(shape, jnp.uint32)
        return DrawnState(cell.initial_state(params, batch_shape), words, count, m)

    return cell._replace(
        initial_state=initial_state, dynamics=dynamics, output=output,
        constants={**cell.constants, **constants}, lasting=(*cell.lasting, *WORDS),
        name=f"{name} {cell.name}",
    )  # fmt: skip


def _words(s: DrawnState, draws: int) -> list:
    """A word of 32 random bits for each draw of this step."""
    hashes, (x, y) = -(-draws // 3), s.key
    number = s.count * jnp.uint32(hashes)
    found = (_hash(x, y, number + jnp.uint32(i)) for i in range(hashes))
    return [word for three in found for word in three][:draws]


def _hash(x: Any, y: Any, z: Any) -> tuple:
    """Three words of three: pcg3d (M. Jarzynski and M. Olano, Hash Functions for GPU Rendering, 2020),
    with its shift once more at the end."""
    x, y, z = (word * jnp.uint32(1664525) + jnp.uint32(1013904223) for word in (x, y, z))
    for _ in range(2):
        x = x + y * z
        y = y + z * x
        z = z + x * y
        x, y, z = (word ^ (word >> jnp.uint32(16)) for word in (x, y, z))
    return x, y, z


def _uniform(word: Any, dtype: Any) -> Any:
    """Of its 23 highest bits, in (0, 1): the same number in float32 and float64."""
    return ((word >> jnp.uint32(9)).astype(dtype) + 0.5) * 2.0**-23


def _normal(word: Any, dtype: Any) -> Any:
    return 2.0**0.5 * jax.scipy.special.erfinv(2.0 * _uniform(word, dtype) - 1.0)
