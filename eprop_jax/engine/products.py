"""What co-states and traces give together: gradients, and the traces after a chunk."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax.engine import traces as tr
from eprop_jax.engine.adjoint import Reached
from eprop_jax.engine.operators import Parts, total
from eprop_jax.network import unitwise
from eprop_jax.network.types import Array, Maybe, PyTree


def gradient(params: dict, s: Reached, lines: dict[str, Array]) -> list[Array]:
    """Σ_t Σ_batch pre^t ⊗ ∂̃a^t (Eq. 4), one a parameter leaf: one product over time and batch."""

    def leaf(path, p):
        line = path[0].key
        x = s.dtheta[path[1].key] if line == "theta" else s.da[tr.gate_of(path)]
        if x is None:
            return jnp.zeros_like(p)
        if line in lines:
            return lines[line].reshape(-1, p.shape[0]).T @ x.reshape(-1, p.shape[1])
        return x.reshape(-1, *p.shape).sum(0)

    return [leaf(path, p) for path, p in jax.tree.leaves_with_path(params)]


def sources(params: dict, swept: list[Reached], lines: dict[str, Array]) -> list[list[Maybe]]:
    """Σ_t pre^t ⊗ ∂̃a^t an example, [B, *lead, lines, n], for each parameter leaf and seed.

    All gates and seeds share one product a line: [B, i, K] @ [B, K, columns].
    """
    products = {line: _products(x, swept, params[line]) for line, x in lines.items()
                if line in params}  # fmt: skip

    def leaf(path, seed, s):
        line = path[0].key
        if line == "theta":
            return _examples_first(s.dtheta[path[1].key])
        if line in lines:
            return products[line].get((tr.gate_of(path), seed))
        da = s.da[tr.gate_of(path)]
        return None if da is None else _examples_first(da.sum(0))

    paths = [path for path, _ in jax.tree.leaves_with_path(params)]
    return [[leaf(path, i, s) for i, s in enumerate(swept)] for path in paths]


def _products(pre: Array, swept: list[Reached], weights: PyTree) -> dict[tuple[str, int], Array]:
    columns = {}
    for gate in unitwise.as_gates(weights):
        for i, s in enumerate(swept):
            if s.da[gate] is not None:
                columns[gate, i] = jnp.moveaxis(s.da[gate], -2, 0)  # [B, K, *lead, n]
    lines, out = jnp.moveaxis(pre, 0, -1), {}
    # Shared components have one column; beside the others it would put every row out of line.
    for narrow in (True, False):
        group = {key: x for key, x in columns.items() if (x.shape[-1] == 1) == narrow}
        if not group:
            continue
        flat = [x.reshape(*x.shape[:2], -1) for x in group.values()]
        stops = np.cumsum([x.shape[-1] for x in flat])[:-1]
        parts = jnp.split(lines @ jnp.concatenate(flat, -1), stops, axis=-1)
        for (key, x), part in zip(group.items(), parts):
            out[key] = jnp.moveaxis(part.reshape(*part.shape[:2], *x.shape[2:]), 1, -2)
    return out


def _examples_first(x: Maybe) -> Maybe:
    """[*lead, B, n] -> [B, *lead, n]."""
    return None if x is None else jnp.moveaxis(x, -2, 0)


def reach(dc_0: tuple[Maybe, ...], trace: Parts) -> Maybe:
    """Σ_c ∂̃c_c⁰ S_c for a trace that ends at its own unit: [B, *lead, lines, n]."""

    def term(dc, S):
        if dc is None or S is None:
            return None
        dc, lead = _examples_first(dc), dc.ndim - 2
        S = S.reshape(S.shape[0], *(1,) * lead, *S.shape[1:])
        return jnp.expand_dims(dc, range(1 + lead, S.ndim - 1)) * S

    return total(*(term(dc, S) for dc, S in zip(dc_0, trace)))


def reach_ends(dc_0: tuple[Maybe, ...], trace: Parts) -> Maybe:
    """Σ_c Σ_r ∂̃c_cr⁰ S_cr for a trace that ends at every unit: [B, *lead, lines, n]."""

    def term(dc, S):
        if dc is None or S is None:
            return None
        lead = dc.shape[:-2]
        out = jnp.einsum("sbr,br...->bs...", dc.reshape(-1, *dc.shape[-2:]), S)
        return out.reshape(S.shape[0], *lead, *S.shape[2:])

    return total(*(term(dc, S) for dc, S in zip(dc_0, trace)))


def meet(dc_0: tuple[Maybe, ...], trace: Parts) -> Maybe:
    """Σ_batch of `reach`, in one pass over the trace."""
    return total(
        *(
            jnp.einsum("bj,b...j->...j", dc, S if S.shape[-1] == dc.shape[-1] else _wide(S, dc))
            for dc, S in zip(dc_0, trace)
            if dc is not None and S is not None
        )
    )


def _wide(S: Array, dc: Array) -> Array:
    return jnp.broadcast_to(S, (*S.shape[:-1], dc.shape[-1]))


def meet_ends(dc_0: tuple[Maybe, ...], trace: Parts) -> Maybe:
    """Σ_batch of `reach_ends`, in one pass over the trace."""
    return total(
        *(
            jnp.einsum("br,br...->...", dc, S)
            for dc, S in zip(dc_0, trace)
            if dc is not None and S is not None
        )
    )


def add(grads: list[Array], more: Sequence[Maybe]) -> list[Array]:
    return [g if x is None else g + x for g, x in zip(grads, more)]
