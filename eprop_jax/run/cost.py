"""What a rule costs a step: multiply-adds and bytes, from the sizes alone (the paper's Table 1, with
its constants, and with the chunk length as a variable)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax import checks
from eprop_jax.engine import definition, influence, layers
from eprop_jax.network import unitwise
from eprop_jax.network.synapses import use
from eprop_jax.network.types import Cell, LearningRule, PyTree, RuleSpec, by_layer
from eprop_jax.network.units import compute_dtype
from eprop_jax.run.rates import RATES, Kinds, add, seconds

SHORTEST = 16
"""steps of a chunk that `auto_chunk` takes, where T has them"""
ROOM = {False: (2, 2**22), True: (1, 2**23)}
"""What a chunk may keep: so many times what its traces take, or so many bytes. True: of traces that end
at other units too, which are many; each chunk costs whole products of them."""


class Cost(NamedTuple):
    """Predicted cost of one step of a whole batch."""

    multiply_adds: float
    """multiply-adds a step, the products alone (elementwise work is not counted)"""
    trace_bytes: int
    """bytes of the carry, which live from call to call"""
    chunk_bytes: int
    """bytes that a step call keeps of its chunk until its sweep is done"""
    seconds: float
    """seconds a step, at these rates"""
    work: Kinds
    """what a step does, by kind"""


def cost(
    rule: LearningRule,
    params: PyTree,
    batch_shape: tuple[int, ...] = (),
    chunk: int | None = 1,
    rates: Kinds = RATES,
) -> Cost:
    """Predicted multiply-adds, bytes and seconds a step of one of the library's rules.

    With n units, m lines, d components, g drives, P = m·n·g synapses, S = d·n + n_out and batch B:
    forward 1·BP; backward through W_rec (order − 1)·Bn²g (RTRL, BPTT: 1); gradient 1·BP; and where
    traces are kept, for e-prop 1·BP a live trace and 3/K passes over each; for RTRL and
    order m > 1, a grade: S·Bn²g (sweep), S·BP (source), S·d·n·BP/K (transition).

    Seconds are Σ over kinds of work of how much a step does, `work`, times what one of it takes: at
    the default rates those of 2 cores of an AMD EPYC, from which `chunk="auto"` takes K, so that it is
    the same everywhere; at those of `ej.measured_rates()` those of this machine. How near they come is
    told in docs/SPEED.md; RTRL at K = 1 takes longer than they say.

    Args:
      rule: `ej.bptt`, `ej.eprop`, `ej.m_order_eprop`, `ej.rtrl` or `ej.by_paths` of a network; of a
        stack the sum over layers.
      params: its parameters, or their shapes (`jax.eval_shape`).
      batch_shape: as in `rule.init`.
      chunk: K, the steps a call; None: the whole sequence at once without traces, in which case
        chunk_bytes is what *each step* of the sequence keeps.
      rates: seconds of one of each kind of work, in float32.

    Returns:
      A `Cost`.

    Raises:
      TypeError, ValueError: for what is none of the library's rules, chunk < 1, or what are no rates.

    >>> import jax, eprop_jax as ej
    >>> net = ej.Network(ej.cells.lif(40, 100), ej.readouts.leaky(100, 2))
    >>> params = net.init(jax.random.key(0))
    >>> online, chunked = (ej.cost(ej.rtrl(net, ej.losses.squared_error), params, chunk=K)
    ...                    for K in (1, 100))
    >>> online.multiply_adds > 30 * chunked.multiply_adds
    True
    >>> online.seconds > 10 * chunked.seconds
    True
    """
    spec = definition.of_library("rule", rule)
    batch_shape = checks.batch(batch_shape)
    K = None if chunk is None else checks.size("chunk", chunk)
    checks.instance("rates", rates, Kinds, "what ej.measured_rates() gives")
    return _by_chunk(rule, spec, params, batch_shape, rates)(K)


def _by_chunk(
    rule: LearningRule, spec: RuleSpec, params: PyTree, batch_shape: tuple[int, ...], rates: Kinds
) -> Callable[[int | None], Cost]:
    """K -> its cost."""
    B = math.prod(batch_shape)
    carry = jax.eval_shape(lambda q: rule.init(q, batch_shape), params)  # refuses wrong params
    trace_bytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(carry))
    width = jnp.dtype(compute_dtype(params)).itemsize
    of = _of_layer if spec.costates is None else _of_stack

    def at(K: int | None) -> Cost:
        work, kept = of(spec, params, carry, B, K)
        products = work.product + work.each_example + work.trace
        return Cost(
            float(products),
            int(trace_bytes),
            int(width * kept * (K or 1)),
            seconds(work, rates, width),
            work,
        )

    return at


def _of_layer(
    spec: RuleSpec, params: PyTree, carry: Any, B: int, K: int | None
) -> tuple[Kinds, float]:
    """(what a step does, numbers that it keeps)."""
    cell, p, n_out = spec.network.cell, params["cell"], spec.network.readout.n_out
    d, of = len(unitwise.floats(carry.state.c)), spec.influence
    states, jumps = len(spec.moves), len({m.e for m in spec.moves} - {None})
    n, gates, recurrent = cell.n_units, len(unitwise.gate_names(p)), synapses(cell, p, "w_rec")
    work = _without_traces(cell, p, d, B, n_out, states, jumps, K)
    kept = B * (n * (d + 2 * gates + 1) + 4 * n_out)
    if of is None or K is None:
        return work, kept
    P, unit = recurrent + synapses(cell, p, "w_in"), B * n * (d + gates)
    # Scanned, a trace of width 1 is free.
    at = influence.At(spec, params, carry.state, of.filtered(spec))
    local, others = influence.sizes(of, at, carry)
    dense, ends = sum(size for size, _ in others), d * n + n_out
    if not dense:
        return _with_local(work, local, d * unit, K), kept
    if of.over is None or K == 1:
        products = sum(size * (d + units * gates) for size, units in others)
        work = add(work, each_example=products, trace=local)
    else:
        work = add(
            work,
            number=states * ends * unit,
            product=states * ends * B * recurrent,
            each_example=states * ends * B * P + (states + 1) / 2 * dense * d * n / K,
        )
    return work, kept + B * states * ends * n * gates


def _without_traces(
    cell: Cell, p: PyTree, d: int, B: int, n_out: int, states: int, jumps: int, K: int | None
) -> Kinds:
    """A layer's forward pass, co-states and gradient."""
    n, gates, recurrent = cell.n_units, len(unitwise.gate_names(p)), synapses(cell, p, "w_rec")
    P, unit = recurrent + synapses(cell, p, "w_in"), B * n * (d + gates)
    within = recurrent * (1 + jumps)
    work = Kinds(
        call=0 if K is None else 1 / K,
        loop=2 + (2 if K in (None, 1) else 3) * (1 + gates),  # forward and back; the traces' seeds
        number=unit * (1 + states) + B * n,
        weight=within,
        product=B * (within + 2 * P - recurrent) + 3 * B * n * n_out,
        each_example=0,
        trace=0,
    )
    if K == 1:  # nothing over time: W_in is read too, and each example's gradient passed over
        rest = P - recurrent
        work = add(work, weight=rest, product=-B * P, trace=B * P)
    return work


def _with_local(work: Kinds, local: int, seeds: int, K: int) -> Kinds:
    """Traces that end at their own unit."""
    if K == 1:
        return add(work, trace=4 * local)
    return add(work, number=seeds, each_example=local, trace=3 * local / K)


def synapses(cell: Cell, p: PyTree, line: str) -> int:
    """How many, whatever weights they share: lines times units, for each gate."""
    lines, n, _ = use.trace_shape(cell.synapses[line])
    return lines * n * len(jax.tree.leaves(p.get(line, {})))


def _of_stack(
    spec: RuleSpec, params: PyTree, carry: Any, B: int, K: int | None
) -> tuple[Kinds, float]:
    """By co-state: a product with W_rec for each that a recurrent edge leads to, and with W_in for each
    hop. Where traces are kept, the same for each seed of an α (d·n of them a co-state)."""
    net, nodes, n_out = spec.network, spec.costates(params), spec.network.readout.n_out
    cells, states = by_layer(net, params["cell"]), by_layer(net, carry.state.c)
    size = lambda l, line: synapses(net.cells[l], cells[l], line)
    back = B * sum(size(l, "w_in") * (l > 0) + size(l, "w_rec") for l in range(len(cells)))
    kept, each, seeds_of_units = 4.0 * B * n_out, [], 0
    for l, (cell, p, c) in enumerate(zip(net.cells, cells, states)):
        mine = [x for x in nodes if x.layer == l]
        d, gates = len(unitwise.floats(c)), len(unitwise.gate_names(p))
        jumps = len({x.e for x in mine} - {None})
        each.append(_without_traces(cell, p, d, B, n_out, len(mine), jumps, K))
        kept += B * cell.n_units * (d + (1 + len(mine)) * gates + 1)
        seeds_of_units += d * B * cell.n_units * (d + gates)
    work = Kinds(*map(sum, zip(*each)))._replace(call=each[0].call)
    hops = {hop for x in nodes for hop in x.f}
    work = add(work, product=sum(B * size(above, "w_in") for above, _ in hops))
    if K is not None:
        local, ends = layers.sizes(carry)
        work = _with_local(work, local, seeds_of_units, K)
        for seeds, size_of in ends:
            work = add(work, product=seeds * back, each_example=seeds * size_of / K)
    return work, kept


def auto_chunk(rule: LearningRule, params: PyTree, batch_shape: tuple[int, ...], T: int) -> int:
    """The chunk that `value_and_grad(rule, chunk="auto")` takes (stated there)."""
    if rule.spec is None:
        raise TypeError("chunk: 'auto' needs one of the library's rules; give an int")
    if rule.spec.name == "BPTT":
        return T  # a shorter chunk would be truncated
    at = _by_chunk(rule, rule.spec, params, batch_shape, RATES)
    longest = room(at(1))
    if longest >= T:
        return T
    parts = [K for K in range(SHORTEST, longest + 1) if T % K == 0]
    if 2 * max(parts, default=0) < longest:
        parts = [math.ceil(T / math.ceil(T / longest))]  # the last chunk is shorter
    return min(parts, key=lambda K: at(K).seconds)


def room(of_a_step: Cost) -> int:
    """The steps that have room."""
    ends_elsewhere = of_a_step.work.each_example > 0  # of one step, nothing else is
    times, least = ROOM[ends_elsewhere]
    most = max(times * of_a_step.trace_bytes, least)
    return max(int(most / of_a_step.chunk_bytes), SHORTEST)
