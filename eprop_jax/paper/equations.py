"""The oracle: the paper's definitions, as explicit sums over paths, for tiny networks.

Nothing here is a recursion in time and nothing is fast: each variable is the sum that defines it
(Eq. 7, 14, 21, 33), over all paths that it counts. The recursions and sweeps of the library are
held against these sums. Only the local derivatives come from JAX, by dense `jax.jacfwd` of one
step of the whole network, written here a second time.

All cell parameters are one flat vector p of P entries (`jax.flatten_util.ravel_pytree`), so the
paper's ε_ij is a row vector of ∂/∂p, zero where p is no parameter of unit j. A per-unit θ_j also
reaches h_j directly, so that e_j = ∂h_j/∂c_j ε_j + ∂h_j/∂p; for weights the last term is zero, as
in the paper. h^0 = output(c^0) is a unit's output like any other: h^0 → c^1 is an explicit jump.

Departures from the paper's print: the sums of Eq. 6, 7, 13, 20 run to t' ≤ t, as Eq. 8 needs;
Eq. 38 has κ^{t−t'}; the last unit of a chain meets the loss in Eq. 19.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from eprop_jax import checks
from eprop_jax.network.synapses import Synapses, use
from eprop_jax.network.types import Array, Cell, Network, PyTree, Readout

Chain = tuple[int, ...]  # units, read from the end of a path backwards: (k, k', …, j)
Sides = tuple[np.ndarray, np.ndarray]  # a variable by its definition, and by its increment


class LocalDerivatives(NamedTuple):
    """Every ∂ of the paper (never a d), at t = 0 … T, in float64.

    n units of d components, P parameters, n_out read-out units. c^0 is given: at t = 0 the
    derivatives of c and y are zero, those of h are not.
    """

    dc_dc: np.ndarray
    """[T+1, n, d, d]: ∂c_j^t/∂c_j^{t-1}"""
    dc_dh: np.ndarray
    """[T+1, n, d, n]: ∂c_k^t/∂h_j^{t-1} stands at [t, k, :, j]"""
    dc_dp: np.ndarray
    """[T+1, n, d, P]: ∂c_j^t/∂p"""
    dh_dc: np.ndarray
    """[T+1, n, d]: ∂h_j^t/∂c_j^t"""
    dh_dp: np.ndarray
    """[T+1, n, P]: ∂h_j^t/∂p with c_j^t held, which is zero for weights"""
    dy_dy: np.ndarray
    """[T+1, n_out]: ∂y_k^t/∂y_k^{t-1}"""
    dy_dh: np.ndarray
    """[T+1, n_out, n]: ∂y_k^t/∂h_j^t"""
    y: np.ndarray
    """[T+1, n_out]: the read-out's values, where the loss is differentiated"""


def local_derivatives(net: Network, params: dict, xs: Any) -> LocalDerivatives:
    """All local derivatives along the forward trajectory of one example, xs [T, n_in].

    Raises TypeError, ValueError: if `net` is no Network, or `xs` not [T, n_in].

    >>> import jax, jax.numpy as jnp, eprop_jax as ej
    >>> from eprop_jax import equations as eq
    >>> net = ej.Network(ej.cells.leaky_rnn(1, 2, decay=0.5), ej.readouts.linear(2, 1))
    >>> d = eq.local_derivatives(net, net.init(jax.random.key(0)), jnp.ones((3, 1)))
    >>> d.dc_dc[3, 0], d.dc_dp.shape  # 2 + 4 weights, 2 biases
    (array([[0.5]]), (4, 2, 1, 8))
    """
    checks.one_layer("net", checks.instance("net", net, Network, "an ej.Network(cell, readout)"))
    checks.no_delays("net", net)
    checks.no_initial(params)
    if jnp.ndim(xs) != 2 or jnp.shape(xs)[1] != net.cell.n_in:
        shape = list(jnp.shape(xs))
        raise ValueError(f"xs: got shape {shape}, wanted [T, {net.cell.n_in}], one example")
    (p, unravel), readout = ravel_pytree(params["cell"]), params["readout"]
    c_0 = net.cell.initial_state(params["cell"], ())
    C_0, counters_0 = _floats_and_counters(c_0)

    def next_c(C_tm1, h_tm1, p, counters, x_t):
        c_tm1, cell_params = _state(c_0, C_tm1, counters), unravel(p)
        a_t = _drives(net.cell, cell_params, h_tm1, x_t)
        theta = _per_unit_values(net.cell, cell_params)
        return _floats_and_counters(jax.vmap(net.cell.dynamics)(theta, c_tm1, a_t))

    def h(C_t, p, counters):
        theta = _per_unit_values(net.cell, unravel(p))
        return jax.vmap(net.cell.output)(theta, _state(c_0, C_t, counters))

    def next_y(y_tm1, h_t):
        a_t = _heard(net.readout.synapses["w_out"], readout["w_out"], h_t)
        a_t = a_t + readout.get("bias", 0.0)
        return jax.vmap(net.readout.dynamics)(_per_unit_values(net.readout, readout), y_tm1, a_t)

    @jax.jit
    def output(C_t, counters):
        return h(C_t, p, counters), jax.jacfwd(h, (0, 1))(C_t, p, counters)

    @jax.jit
    def step(C_tm1, counters_tm1, h_tm1, y_tm1, x_t):
        """The whole network at time t, and its dense Jacobians."""
        args = (C_tm1, h_tm1, p, counters_tm1, x_t)
        C_t, counters_t = next_c(*args)
        h_t, dh = output(C_t, counters_t)
        y_t, dy = next_y(y_tm1, h_t), jax.jacfwd(next_y, (0, 1))(y_tm1, h_t)
        dc, _ = jax.jacfwd(next_c, (0, 1, 2), has_aux=True)(*args)
        return (C_t, counters_t, h_t, y_t), (*dc, *dh, *dy, y_t)

    h_0, dh_0 = output(C_0, counters_0)
    y_0 = net.readout.initial_state(readout, ())
    now, steps = (C_0, counters_0, h_0, y_0), []
    for x_t in jnp.asarray(xs, p.dtype):
        now, found = step(*now, x_t)
        steps.append(found)
    zeros = [jnp.zeros_like(x) for x in found]
    steps = zip([*zeros[:3], *dh_0, *zeros[5:7], y_0], *steps)
    dc_dc, dc_dh, dc_dp, dh_dc, dh_dp, dy_dy, dy_dh, y = (np.array(x, np.float64) for x in steps)
    # units meet only through h: the diagonal is all there is of what leads from c to c and to h
    dc_dc, dh_dc = np.einsum("tjajb->tjab", dc_dc), np.einsum("tjja->tja", dh_dc)
    dy_dy = np.einsum("tkk->tk", dy_dy)
    return LocalDerivatives(dc_dc, dc_dh, dc_dp, dh_dc, dh_dp, dy_dy, dy_dh, y)


def _heard(s: Synapses, w, pre) -> Array:
    return s.drive(use.existing(s, w), pre)


def _drives(cell: Cell, params: dict, h_tm1, x_t) -> PyTree:
    """a_j^t = Σ_i x_i^t w^in_ij + Σ_i h_i^{t-1} w^rec_ij + b_j, gate by gate."""
    a_t = {}
    for line, pre in (("w_in", x_t), ("w_rec", h_tm1), ("bias", None)):
        gates = params.get(line, {})
        for gate, w in (gates if isinstance(gates, dict) else {None: gates}).items():
            drive = w if pre is None else _heard(cell.synapses[line], w, pre)
            a_t[gate] = a_t[gate] + drive if gate in a_t else drive
    return a_t[None] if None in a_t else a_t


def _per_unit_values(layer: Cell | Readout, params: dict) -> dict:
    """What every unit finds in theta_j: constants and trained values, [n] each."""
    dtypes = {True: jax.tree.leaves(params)[0].dtype, False: jnp.int32}
    constants = {k: jnp.asarray(v, dtypes[_is_floating(v)]) for k, v in layer.constants.items()}
    return {**constants, **params.get("theta", {})}


def _is_floating(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _floats_and_counters(c: PyTree):
    """The components that carry a derivative as one array [n, d], and those that do not."""
    leaves = jax.tree.leaves(c)
    floats = jnp.stack([leaf for leaf in leaves if _is_floating(leaf)], -1)
    return floats, [leaf for leaf in leaves if not _is_floating(leaf)]


def _state(like: PyTree, floats, counters: list) -> PyTree:
    leaves, treedef = jax.tree.flatten(like)
    values = {True: iter(floats.T), False: iter(counters)}
    return treedef.unflatten([next(values[_is_floating(x)]) for x in leaves])


def linear_units(T: int, n: int = 2, decay: float = 0.5, weight: float = 1.0) -> LocalDerivatives:
    """Local derivatives to multiply in the head, for the examples below: d = 1, P = n,
    c_j^t = decay c_j^{t-1} + weight Σ_k h_k^{t-1} + p_j, h = c, y^t = decay y^{t-1} + Σ_j h_j^t.
    With decay = weight = 1 every path counts 1.

    >>> linear_units(T=4).dc_dp.shape
    (5, 2, 1, 2)
    """
    after_0 = np.ones((T + 1, 1, 1, 1)) * (np.arange(T + 1) > 0)[:, None, None, None]
    return LocalDerivatives(
        dc_dc=decay * after_0 * np.ones((n, 1, 1)),
        dc_dh=weight * after_0 * np.ones((n, 1, n)),
        dc_dp=after_0 * np.eye(n)[:, None, :],
        dh_dc=np.ones((T + 1, n, 1)),
        dh_dp=np.zeros((T + 1, n, n)),
        dy_dy=decay * after_0[..., 0, 0],
        dy_dh=after_0[..., 0] * np.ones((1, n)),
        y=np.zeros((T + 1, 1)),
    )


def implicit_path(d: LocalDerivatives, j: int, t: int, t_from: int) -> np.ndarray:
    """∂c_j^t/∂c_j^{t-1} ⋯ ∂c_j^{t'+1}/∂c_j^{t'} [d, d], t' = `t_from`: the one way inside unit j.

    >>> implicit_path(linear_units(T=3), j=0, t=3, t_from=1)
    array([[0.25]])
    """
    product = np.eye(d.dc_dc.shape[-1])
    for s in range(t, t_from, -1):
        product = product @ d.dc_dc[s, j]
    return product


def implicit_variable(d: LocalDerivatives, j: int, t: int) -> np.ndarray:
    """Eq. 7, ε_j^t [d, P] = Σ_{t'≤t} ∂c_j^t/∂c_j^{t-1} ⋯ ∂c_j^{t'+1}/∂c_j^{t'} ∂c_j^{t'}/∂p.

    >>> implicit_variable(linear_units(T=3), j=0, t=3)  # 1 + 1/2 + 1/4
    array([[1.75, 0.  ]])
    """
    paths = [implicit_path(d, j, t, s) @ d.dc_dp[s, j] for s in range(1, t + 1)]
    return sum(paths, np.zeros(d.dc_dp.shape[2:]))


def eligibility_trace(d: LocalDerivatives, j: int, t: int) -> np.ndarray:
    """Eq. 9, e_j^t [P] = ∂h_j^t/∂c_j^t ε_j^t (+ ∂h_j^t/∂p, which only θ_j has).

    >>> eligibility_trace(linear_units(T=3), j=1, t=2)
    array([0. , 1.5])
    """
    return d.dh_dc[t, j] @ implicit_variable(d, j, t) + d.dh_dp[t, j]


def explicit_variable(d: LocalDerivatives, chain: Chain, t: int) -> np.ndarray:
    """Eq. 14, β^t(k, k', …, j) [d, P], for the chain (k, k', …, j) read from the end backwards:

    Σ_{t'≤t-1} ∂c_k^t/∂c_k^{t-1} ⋯ ∂c_k^{t'+2}/∂c_k^{t'+1} ∂c_k^{t'+1}/∂h_k'^{t'} b^{t'}(k', …, j)

    where b = ∂h/∂c β (Eq. 16), and β^t(j) = ε_j^t. It descends the chain, never time.

    >>> d = linear_units(T=3, decay=1.0)
    >>> explicit_variable(d, (1, 0), t=3)  # from p_0: enter at 1, jump to 2 or 3; 2 → 3
    array([[3., 0.]])
    """
    k, rest = chain[0], chain[1:]
    if not rest:
        return implicit_variable(d, k, t)
    beta = np.zeros(d.dc_dp.shape[2:])
    for s in range(t):
        jump = np.outer(d.dc_dh[s + 1, k, :, rest[0]], explicit_eligibility_trace(d, rest, s))
        beta += implicit_path(d, k, t, s + 1) @ jump
    return beta


def explicit_eligibility_trace(d: LocalDerivatives, chain: Chain, t: int) -> np.ndarray:
    """Eq. 16, b^t(k, k', …, j) [P] = ∂h_k^t/∂c_k^t β^t(k, k', …, j), with b^t(j) = e_j^t.

    >>> explicit_eligibility_trace(linear_units(T=3), (1, 0), t=2)
    array([1., 0.])
    """
    if len(chain) == 1:
        return eligibility_trace(d, chain[0], t)
    return d.dh_dc[t, chain[0]] @ explicit_variable(d, chain, t)


def chains(n: int, r: int, j: int, jumps: int) -> Iterator[Chain]:
    """Every chain (r, k_{s-1}, …, k_1, j) of s jumps among n units; with none, r must be j itself.

    >>> list(chains(2, 1, 0, 2)), list(chains(2, 1, 0, 0))
    ([(1, 0, 0), (1, 1, 0)], [])
    """
    if jumps == 0:
        return iter([(j,)] if r == j else [])
    return ((r, *between, j) for between in itertools.product(range(n), repeat=jumps - 1))


def recurrence_variable(d: LocalDerivatives, r: int, j: int, t: int) -> np.ndarray:
    """Eq. 21, α_j^{t,r} [d, P] = Σ_{s≤t} Σ_{k_1 … k_{s-1}} β^t(r, k_{s-1}, …, k_1, j): all chains
    from j to r, of all lengths, as none jumps more than t times in t steps.

    >>> d = linear_units(T=2, decay=1.0)
    >>> recurrence_variable(d, r=0, j=0, t=2)  # enter at 1 or at 2; enter at 1 and jump at 2
    array([[3., 0.]])
    """
    n = d.dc_dc.shape[1]
    betas = (explicit_variable(d, chain, t) for s in range(t + 1) for chain in chains(n, r, j, s))
    return sum(betas, np.zeros(d.dc_dp.shape[2:]))


def recurrence_eligibility_trace(d: LocalDerivatives, r: int, j: int, t: int) -> np.ndarray:
    """Eq. 23, a_j^{t,r} [P] = ∂h_r^t/∂c_r^t α_j^{t,r} (+ ∂h_j^t/∂p at r = j).

    >>> recurrence_eligibility_trace(linear_units(T=2), r=1, j=0, t=2)
    array([1., 0.])
    """
    direct = d.dh_dp[t, j] if r == j else 0.0
    return d.dh_dc[t, r] @ recurrence_variable(d, r, j, t) + direct


def readout_implicit_variable(
    d: LocalDerivatives, k: int, j: int, t: int, trace: Callable | None = None
) -> np.ndarray:
    """Eq. 33, γ_j^{t,k} [P] =
    Σ_{t'≤t} ∂y_k^t/∂y_k^{t-1} ⋯ ∂y_k^{t'+1}/∂y_k^{t'} ∂y_k^{t'}/∂h_j^{t'} e_j^{t'}.

    `trace(j, t)` [P] is what unit j's output depends on; by default e_j^t, as in the paper.

    >>> readout_implicit_variable(linear_units(T=2), k=0, j=0, t=2)  # e^2 + e^1/2
    array([2., 0.])
    """
    trace = trace or (lambda j, t: eligibility_trace(d, j, t))
    paths = [
        np.prod(d.dy_dy[s + 1 : t + 1, k]) * d.dy_dh[s, k, j] * trace(j, s) for s in range(1, t + 1)
    ]
    return sum(paths, np.zeros(d.dc_dp.shape[-1]))


def leaky_readout_implicit_variable(
    d: LocalDerivatives, kappa: float, w_jk: float, j: int, t: int
) -> np.ndarray:
    """Eq. 38, γ_j^{t,k} [P] = Σ_{t'≤t} κ^{t−t'} w_jk e_j^{t'}: Eq. 33 for the leaky read-out.

    >>> leaky_readout_implicit_variable(linear_units(T=2), kappa=0.5, w_jk=1.0, j=0, t=2)
    array([2., 0.])
    """
    paths = [kappa ** (t - s) * w_jk * eligibility_trace(d, j, s) for s in range(1, t + 1)]
    return sum(paths, np.zeros(d.dc_dp.shape[-1]))


def path_sum_gradient(
    net: Network, loss: Callable, params: dict, xs: Any, ys: Any, order: int | None = None
) -> PyTree:
    """Eq. 19-20, read out by Eq. 33, 36: dL/dp = Σ_t Σ_k ∂L/∂y_k^t Σ_r γ_r^{t,k}, where γ_r holds
    Σ_{s<m} b(r, k_{s-1}, …, k_1, j) in place of e_r: paths of at most m − 1 explicit jumps.

    Args:
      net: a tiny network: the cost is of order n (n+1)^T.
      loss: loss(y [n_out], target) -> [], summed over steps.
      params, xs: as in `local_derivatives`.
      ys: any pytree of [T, ...].
      order: m; None: all paths.

    Returns:
      A tree like `params["cell"]`.

    Raises:
      TypeError, ValueError: as `local_derivatives`, and for order < 1.

    >>> import jax, jax.numpy as jnp, eprop_jax as ej
    >>> net = ej.Network(ej.cells.rnn(1, 2), ej.readouts.linear(2, 1))
    >>> params, xs, ys = net.init(jax.random.key(0)), jnp.ones((3, 1)), jnp.ones((3, 1))
    >>> exact = path_sum_gradient(net, ej.losses.squared_error, params, xs, ys)
    >>> _, bptt = ej.value_and_grad(ej.bptt(net, ej.losses.squared_error))(params, xs, ys)
    >>> bool(jnp.allclose(exact["w_rec"], bptt["cell"]["w_rec"], rtol=1e-4))
    True
    """
    order = None if order is None else checks.size("order", order)
    d = local_derivatives(net, params, xs)
    T, n, n_out = d.y.shape[0] - 1, net.cell.n_units, net.readout.n_out
    b = np.zeros((T + 1, n, d.dc_dp.shape[-1]))
    for t, r, j in itertools.product(range(T + 1), range(n), range(n)):
        for s in range(min(order or t + 1, t + 1)):
            b[t, r] += sum(explicit_eligibility_trace(d, chain, t) for chain in chains(n, r, j, s))

    p, unravel = ravel_pytree(params["cell"])
    per_step = jax.grad(lambda y, target: jnp.sum(loss(y, target)))
    dL_dy = np.asarray(jax.vmap(per_step)(jnp.asarray(d.y[1:], p.dtype), ys), np.float64)
    dL_dp = np.zeros(p.size)
    for t, k, r in itertools.product(range(1, T + 1), range(n_out), range(n)):
        gamma = readout_implicit_variable(d, k, r, t, lambda r, t: b[t, r])
        dL_dp += dL_dy[t - 1, k] * gamma
    return unravel(jnp.asarray(dL_dp, p.dtype))


def implicit_increment(d: LocalDerivatives, j: int, t: int) -> Sides:
    """D.1: Eq. 7 at t, and Eq. 8's ∂c_j^t/∂c_j^{t-1} ε_j^{t-1} + ∂c_j^t/∂p from Eq. 7 at t−1.

    >>> implicit_increment(linear_units(T=3), j=0, t=3)
    (array([[1.75, 0.  ]]), array([[1.75, 0.  ]]))
    """
    increment = d.dc_dc[t, j] @ implicit_variable(d, j, t - 1) + d.dc_dp[t, j]
    return implicit_variable(d, j, t), increment


def readout_increment(d: LocalDerivatives, k: int, j: int, t: int) -> Sides:
    """D.1's "equivalent proof": Eq. 33, Eq. 34's ∂y_k^t/∂y_k^{t-1} γ^{t-1} + ∂y_k^t/∂h_j^t e_j^t.

    >>> readout_increment(linear_units(T=2), k=0, j=0, t=2)
    (array([2., 0.]), array([2., 0.]))
    """
    jump = d.dy_dh[t, k, j] * eligibility_trace(d, j, t)
    increment = d.dy_dy[t, k] * readout_implicit_variable(d, k, j, t - 1) + jump
    return readout_implicit_variable(d, k, j, t), increment


def explicit_increment(d: LocalDerivatives, chain: Chain, t: int) -> Sides:
    """D.2: Eq. 14 at t, and Eq. 15's
    ∂c_k^t/∂c_k^{t-1} β^{t-1}(k, k', …, j) + ∂c_k^t/∂h_k'^{t-1} b^{t-1}(k', …, j).

    >>> explicit_increment(linear_units(T=3), (1, 0), t=3)
    (array([[2., 0.]]), array([[2., 0.]]))
    """
    k, rest = chain[0], chain[1:]
    increment = d.dc_dc[t, k] @ explicit_variable(d, chain, t - 1)
    jump = np.outer(d.dc_dh[t, k, :, rest[0]], explicit_eligibility_trace(d, rest, t - 1))
    return explicit_variable(d, chain, t), increment + jump


def recurrence_increment(d: LocalDerivatives, r: int, j: int, t: int) -> Sides:
    """D.3: Eq. 21 at t, and Eq. 22's ∂c_r^t/∂c_r^{t-1} α^{t-1,r} + Σ_k ∂c_r^t/∂h_k^{t-1} a^{t-1,k}
    + ∂c_r^t/∂p, whose last term is zero for r ≠ j.

    >>> recurrence_increment(linear_units(T=2), r=0, j=0, t=2)
    (array([[2.5, 0. ]]), array([[2.5, 0. ]]))
    """
    increment = d.dc_dc[t, r] @ recurrence_variable(d, r, j, t - 1)
    for k in range(d.dc_dc.shape[1]):
        a_tm1 = recurrence_eligibility_trace(d, k, j, t - 1)
        increment = increment + np.outer(d.dc_dh[t, r, :, k], a_tm1)
    direct = d.dc_dp[t, r] if r == j else 0.0
    return recurrence_variable(d, r, j, t), increment + direct
