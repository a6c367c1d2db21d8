"""What a rule costs a step: multiply-adds and bytes, from the sizes alone (the paper's Table 1, with
its constants, and with the chunk length as a variable)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax import checks
from eprop_jax.engine import definition, influence, layers
from eprop_jax.engine.adjoint import LOCAL
from eprop_jax.network import unitwise
from eprop_jax.network.synapses import use
from eprop_jax.network.types import Cell, LearningRule, PyTree, RuleSpec, by_layer
from eprop_jax.network.units import compute_dtype


class Cost(NamedTuple):
    """Predicted cost of one step of a whole batch."""

    multiply_adds: float
    """multiply-adds a step, the products alone (elementwise work is not counted)"""
    trace_bytes: int
    """bytes of the carry, which live from call to call"""
    chunk_bytes: int
    """bytes that a step call keeps of its chunk until its sweep is done"""


def cost(
    rule: LearningRule, params: PyTree, batch_shape: tuple[int, ...] = (), chunk: int | None = 1
) -> Cost:
    """Predicted multiply-adds and bytes a step of one of the library's rules.

    With n units, m lines, d components, g drives, P = m·n·g synapses, S = d·n + n_out and batch B:
    forward 1·BP; backward through W_rec (order − 1)·Bn²g (RTRL, BPTT: 1); gradient 1·BP; and where
    traces are kept, for e-prop 1·BP a live trace and 3/K passes over each; for RTRL and
    order m > 1, a grade: S·Bn²g (sweep), S·BP (source), S·d·n·BP/K (transition).

    Args:
      rule: `ej.bptt`, `ej.eprop`, `ej.m_order_eprop`, `ej.rtrl` or `ej.by_paths` of a network; of a
        stack the sum over layers.
      params: its parameters, or their shapes (`jax.eval_shape`).
      batch_shape: as in `rule.init`.
      chunk: K, the steps a call; None: the whole sequence at once without traces, in which case
        chunk_bytes is what *each step* of the sequence keeps.

    Returns:
      A `Cost`.

    Raises:
      TypeError, ValueError: for what is none of the library's rules, or chunk < 1.

    >>> import jax, eprop_jax as ej
    >>> net = ej.Network(ej.cells.lif(40, 100), ej.readouts.leaky(100, 2))
    >>> params = net.init(jax.random.key(0))
    >>> online, chunked = (ej.cost(ej.rtrl(net, ej.losses.squared_error), params, chunk=K)
    ...                    for K in (1, 100))
    >>> online.multiply_adds > 30 * chunked.multiply_adds
    True
    """
    spec = definition.of_library("rule", rule)
    batch_shape = checks.batch(batch_shape)
    K = None if chunk is None else checks.size("chunk", chunk)
    carry = jax.eval_shape(lambda q: rule.init(q, batch_shape), params)  # refuses wrong params
    B, n_out = math.prod(batch_shape), spec.network.readout.n_out
    trace_bytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(carry))
    if spec.costates is not None:
        return _of_layers(spec, params, carry, B, trace_bytes, K)
    p, n = params["cell"], spec.network.cell.n_units

    cell = spec.network.cell
    recurrent = synapses(cell, p, "w_rec")
    P = synapses(cell, p, "w_in") + recurrent
    gates = len(unitwise.gate_names(p))
    d = len(unitwise.floats(carry.state.c))
    of, jumps = spec.influence, len({m.e for m in spec.moves} - {None})

    work = 2 * B * P + 3 * B * n * n_out  # forward and gradient, of cell and read-out
    work += B * recurrent * jumps
    floats = jnp.dtype(compute_dtype(params)).itemsize * B
    kept = floats * (n * (d + 2 * gates + 1) + 4 * n_out)
    if of is not None and K is not None:
        # Scanned, a trace of width 1 is free.
        at = influence.At(spec, params, carry.state, of.filtered(spec))
        local, others = influence.sizes(of, at, carry)
        dense = sum(size for size, _ in others)
        ends, states = d * n + n_out, len(spec.moves)
        if not dense:
            work += local * (1 + 3 / K)
        elif of.over is None or K == 1:
            work += sum(size * (d + units * gates) for size, units in others) + local
        else:
            work += states * ends * B * (recurrent + P) + (states + 1) / 2 * dense * d * n / K
        if dense:
            kept += floats * states * ends * n * gates
    return Cost(float(work), int(trace_bytes), int(kept * (K or 1)))


def synapses(cell: Cell, p: PyTree, line: str) -> int:
    """How many, whatever weights they share: lines times units, for each gate."""
    lines, n, _ = use.trace_shape(cell.synapses[line])
    return lines * n * len(jax.tree.leaves(p.get(line, {})))


def _of_layers(
    spec: RuleSpec, params: PyTree, carry: Any, B: int, trace_bytes: int, K: int | None
) -> Cost:
    """By co-state: a product with W_rec for each that a recurrent edge leads to, and with W_in for each
    hop. Where traces are kept, the same for each seed of an α (d·n of them a co-state)."""
    net, nodes, n_out = spec.network, spec.costates(params), spec.network.readout.n_out
    floats = jnp.dtype(compute_dtype(params)).itemsize * B
    work, kept = 0.0, 4.0 * floats * n_out
    cells, states = by_layer(net, params["cell"]), by_layer(net, carry.state.c)
    size = lambda l, line: synapses(net.cells[l], cells[l], line)
    back = lambda l: B * (size(l, "w_in") * (l > 0) + size(l, "w_rec"))
    for l, (cell, p, c) in enumerate(zip(net.cells, cells, states)):
        mine = [x for x in nodes if x.layer == l]
        P, jumps = size(l, "w_in") + size(l, "w_rec"), len({x.e for x in mine} - {None})
        work += 2 * B * P + 3 * B * cell.n_units * n_out + jumps * B * size(l, "w_rec")
        d, gates = len(unitwise.floats(c)), len(unitwise.gate_names(p))
        kept += floats * cell.n_units * (d + (1 + len(mine)) * gates + 1)
    hops = {hop for x in nodes for hop in x.f}
    work += sum(B * size(above, "w_in") for above, _ in hops)
    if K is not None and trace_bytes:
        local, ends = layers.sizes(carry)
        work += local * (1 + 3 / K)
        for seeds, size_of in ends:
            work += seeds * (sum(map(back, range(len(cells)))) + size_of / K)
    return Cost(float(work), int(trace_bytes), int(kept * (K or 1)))


def auto_chunk(rule: LearningRule, params: PyTree, batch_shape: tuple[int, ...], T: int) -> int:
    """The chunk that `value_and_grad(rule, chunk="auto")` takes (stated there)."""
    if rule.spec is None:
        raise TypeError("chunk: 'auto' needs one of the library's rules; give an int")
    if rule.spec.name == "BPTT":
        return T  # a shorter chunk would be truncated
    local = rule.spec.moves == LOCAL
    if rule.spec.costates is not None:
        carry = jax.eval_shape(lambda q: rule.init(q, batch_shape), params)
        local = not layers.sizes(carry)[1]
    if local:
        sizes = cost(rule, params, batch_shape, 512)
        small, large = sizes.chunk_bytes < 3e6, sizes.trace_bytes > 4e6
        longest = 512 if small else 256 if large else 128
    else:
        longest = max(2 * max(cell.n_units for cell in rule.spec.network.cells), 16)
    return math.ceil(T / math.ceil(T / longest))  # parts of one length, where T allows it
