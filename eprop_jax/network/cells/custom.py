"""A cell from a user's own unit; every other cell is built by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax import checks
from eprop_jax.network import traced, unitwise
from eprop_jax.network.synapses import Kind, use
from eprop_jax.network.types import Array, Cell
from eprop_jax.network.units import compute_dtype

LINES = ("w_in", "w_rec", "bias")


def custom(
    n_in: int,
    n_units: int,
    dynamics: Callable[[dict, Any, Any], Any],
    output: Callable[[dict, Any], Array],
    state: Any,
    *,
    drives: Mapping[str, tuple[str, ...]] | tuple[str, ...] = LINES,
    theta: Mapping[str, Any] | None = None,
    constants: Mapping[str, Any] | None = None,
    connectivity: Any = None,
    self_connections: bool = True,
    gain_in: float = 1.0,
    gain_rec: float = 1.0,
    shared: tuple[str, ...] = (),
    w_in: Kind | None = None,
    w_rec: Kind | None = None,
    trainable: tuple[str, ...] = (),
) -> Cell:
    """Your own neuron: write one unit, get every learning rule.

    Args:
      n_in, n_units: sizes.
      dynamics: (theta_j, c_j^{t-1}, a_j^t) -> c_j^t for one unit; all leaves are scalars. `a_j` is
        the drive Σ_i pre_i w_ij, or a dict of drives.
      output: (theta_j, c_j^t) -> h_j^t for one unit, a scalar. What either reads besides its arguments
        is read when a cell's first call traces it: after a change make the cell anew.
      state: the initial state of one unit, a pytree of numbers such as `State(v=0.0, a=0.0)`. An
        int is a component without gradient and without trace (a counter).
      drives: which lines make up the drive, from ("w_in", "w_rec", "bias"); or a dict of drives,
        {name: lines}, for a cell with gates.
      theta: {name: initial value, a number or [n]}: per-unit parameters, trained by every rule.
      constants: {name: a number or [n]}: per-unit values that are not trained, integers in int32.
        `dynamics` and `output` find both in `theta_j`. Numbers here may be traced, so that a sweep
        can vmap over them.
      connectivity: bool [n, n], which recurrent synapses [pre, post] exist; None: all. The short form
        of w_rec=ej.synapses.masked(connectivity).
      self_connections: False removes the diagonal of `w_rec`.
      gain_in, gain_rec: initial weights are normal with standard deviation gain/√fan_in; a unit's
        recurrent fan-in is the number of synapses that it has.
      shared: a promise that saves memory and time, see `Cell.shared`; the name of a state's only
        component is "".
      w_in, w_rec: the kinds of these lines' synapses, from `ej.synapses`; None: dense. All gates of a
        line have the same.
      trainable: ("initial",) trains the initial state of each unit, params["initial"][component] [n]
        (of a state without components "c"), which starts at `state`; ("initial.v",) that of component
        v alone.

    Raises:
      TypeError, ValueError: for an argument of the wrong kind, shape or name, or an integer beyond
        int32.

    >>> import jax, jax.numpy as jnp, eprop_jax as ej
    >>> cell = ej.cells.custom(
    ...     n_in=3, n_units=4, state=0.0, theta={"decay": 0.9},
    ...     dynamics=lambda theta, c, a: theta["decay"] * c + a,
    ...     output=lambda theta, c: jnp.tanh(c))
    >>> jax.tree.map(jnp.shape, cell.init(jax.random.key(0)))
    {'bias': (4,), 'theta': {'decay': (4,)}, 'w_in': (3, 4), 'w_rec': (4, 4)}
    """
    n_in, n = checks.size("n_in", n_in), checks.size("n_units", n_units)
    checks.is_callable("dynamics", dynamics)
    checks.is_callable("output", output)
    traced.forget(dynamics, output)
    gain_in = checks.nonnegative("gain_in", checks.number("gain_in", gain_in))
    gain_rec = checks.nonnegative("gain_rec", checks.number("gain_rec", gain_rec))
    state = checks.state(state)
    trained = initial_of(state, checks.names("trainable", trainable, initial_of(state)))
    components = [jax.tree_util.keystr(path, simple=True)
                  for path, _ in jax.tree.leaves_with_path(state)]  # fmt: skip
    shared = checks.names("shared", shared, components)
    checks.flag("self_connections", self_connections)
    gated = isinstance(drives, Mapping)
    if not drives:
        raise ValueError(f"drives: got {drives!r}, wanted at least one line of {LINES}")
    for name, lines in (drives if gated else {"": drives}).items():
        where = f"drives[{name!r}]" if gated else "drives"
        if not checks.names(where, lines, LINES):
            raise ValueError(f"{where}: got {lines!r}, wanted at least one line of {LINES}")
    drives = (
        {name: tuple(lines) for name, lines in drives.items()}
        if isinstance(drives, Mapping)
        else tuple(drives)
    )
    theta = {
        k: checks.per_unit(f"theta[{k!r}]", v, n)
        for k, v in checks.mapping("theta", theta or {}).items()
    }
    constants = {
        k: checks.fits(f"constants[{k!r}]", checks.per_unit(f"constants[{k!r}]", v, n), np.int32)
        for k, v in checks.mapping("constants", constants or {}).items()
    }
    both = sorted(theta.keys() & constants.keys())
    if both:
        raise ValueError(
            f"theta, constants: got {both} in both, wanted each value trained or constant"
        )
    if connectivity is not None and w_rec is not None:
        raise ValueError("connectivity, w_rec: got both, wanted one of them")
    mask = None if connectivity is None else checks.mask("connectivity", connectivity, (n, n))
    if not self_connections and w_rec is None:
        mask = (np.ones((n, n), bool) if mask is None else mask) & ~np.eye(n, dtype=bool)
    of_rec = use.line("w_rec", w_rec, n, n) if w_rec else use.plain(n, n, mask)
    of_rec = of_rec if self_connections else use.without_own(of_rec)
    kinds = {"w_in": use.line("w_in", w_in, n_in, n), "w_rec": of_rec}
    gains = {"w_in": gain_in, "w_rec": gain_rec}

    def init(key):
        checks.key("key", key)

        def weights(line, key):
            return jnp.zeros(n) if line == "bias" else kinds[line].init(key, gains[line])

        params = {}
        for line, k_line in zip(LINES, jax.random.split(key, len(LINES))):
            if isinstance(drives, Mapping):
                names = [name for name, lines in drives.items() if line in lines]
                keys = jax.random.split(k_line, max(len(names), 1))
                gates = {name: weights(line, k) for name, k in zip(names, keys)}
                params |= {line: gates} if gates else {}
            elif line in drives:
                params[line] = weights(line, k_line)
        if theta:
            dtype = jnp.zeros(()).dtype
            params["theta"] = {
                k: jnp.broadcast_to(jnp.asarray(v, dtype), (n,)) for k, v in theta.items()
            }
        if trained:
            dtype, values = jnp.zeros(()).dtype, unitwise.floats(state)
            params["initial"] = {
                k: jnp.full(n, values[r], dtype)
                for k, r in unitwise.components(state).items()
                if f"initial.{k}" in trained
            }
        return params

    def initial_state(params, batch_shape):
        dtype = compute_dtype(params)

        def full(value):
            integer = jnp.issubdtype(value.dtype, jnp.integer)
            return jnp.full((*batch_shape, n), value, jnp.int32 if integer else dtype)

        leaves, structure = jax.tree.flatten(jax.tree.map(full, state))
        at, trained = unitwise.float_positions(state), params.get("initial", {})
        for name, r in unitwise.components(state).items():
            if name in trained:
                c_0 = trained[name].astype(dtype)
                leaves[at[r]] = jnp.broadcast_to(c_0, (*batch_shape, *c_0.shape))
        return structure.unflatten(leaves)

    return Cell(init, initial_state, dynamics, output, constants, n_in, n, kinds, tuple(shared))


def initial_of(state: Any, chosen: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """What a cell of this state may be asked to train of it ("initial": all); or, of what is `chosen`,
    component by component."""
    each = tuple(f"initial.{k}" for k in unitwise.components(checks.state(state)))
    if chosen is None:
        return ("initial", *each)
    return tuple(k for k in each if k in chosen or "initial" in chosen)
