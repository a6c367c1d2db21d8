"""How long a step takes: what it does, by kind, times what one of each kind takes on a machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Kinds(NamedTuple):
    """A number for each kind of work: how many of it a step has, or the seconds that one takes."""

    call: float
    """step calls, one a chunk"""
    loop: float
    """small kernels of a scan, one after the other, whatever their size"""
    number: float
    """numbers of units: components and drives, and their co-states"""
    weight: float
    """weights, read anew by each product of a scan"""
    product: float
    """multiply-adds of a product of the whole batch, of one step or over time"""
    each_example: float
    """multiply-adds of a product for each example alone: over time, or with its traces"""
    trace: float
    """numbers of traces that are passed over"""


RATES = Kinds(
    call=4.07e-07, loop=2.14e-07, number=1.03e-09, weight=1.44e-11, product=1.64e-11,
    each_example=2.08e-11, trace=3.47e-11,
)  # fmt: skip
"""Seconds of one, in float32, and"""
YARDSTICKS = (6.11e-08, 1.98e-05, 0.00135, 1.59e-05)
"""those of `yardsticks`, on 2 cores of an AMD EPYC (`python -m benchmarks.model` prints both)"""


def add(work: Kinds, **more: float) -> Kinds:
    """With so much more of these kinds."""
    return work._replace(**{kind: getattr(work, kind) + amount for kind, amount in more.items()})


def seconds(work: Kinds, rates: Kinds, width: int = 4) -> float:
    """Σ amount · rate. What is made of numbers takes longer as they are wider than 4 bytes."""
    by_kind = Kinds(*(amount * rate for amount, rate in zip(work, rates)))
    fixed = by_kind.call + by_kind.loop
    return fixed + (sum(by_kind) - fixed) * width / 4


def yardsticks() -> tuple[float, ...]:
    """Seconds, on the default device, of four things like those that a step is made of: a step of a
    scan of next to nothing; a product within a scan; one large product; a pass over a megabyte."""
    full = lambda *shape: jnp.full(shape, 0.01, jnp.float32)
    x, w, long = full(16, 256), full(256, 256), full(1 << 18)
    return (
        _a_step(lambda x, w: jnp.tanh(x @ w), full(1, 8), full(8, 8), steps=2048),
        _a_step(jnp.matmul, x, w),
        _least(jnp.matmul, full(256, 2048), full(2048, 256)),
        _a_step(lambda x, y: 0.9 * x + y, long, long),
    )


def _a_step(f: Callable, x: jax.Array, *args: jax.Array, steps: int = 64) -> float:
    scan = lambda x, *args: jax.lax.scan(lambda x, _: (f(x, *args), None), x, length=steps)[0]
    return _least(scan, x, *args) / steps


def _least(f: Callable, *args: jax.Array, runs: int = 10) -> float:
    """Seconds of the fastest of several runs."""
    f, found = jax.jit(f).lower(*args).compile(), []
    for _ in range(runs):
        begin = time.perf_counter()
        jax.block_until_ready(f(*args))
        found.append(time.perf_counter() - begin)
    return min(found)


def measured_rates() -> Kinds:
    """Rates for `ej.cost` on this machine's default device, measured in about a second.

    Four small programs are timed, and the rates of each kind of work are those that the library knows,
    times how much longer or shorter the program that is like it takes here. Call it while nothing else
    computes. On accelerators the rates are of the right kind only roughly.

    Returns:
      Seconds of one of each kind of work in float32, for `ej.cost(..., rates=...)`.

    >>> import jax, eprop_jax as ej
    >>> rates = ej.measured_rates()
    >>> net = ej.Network(ej.cells.lif(40, 100), ej.readouts.leaky(100, 2))
    >>> params = net.init(jax.random.key(0))
    >>> rule = ej.eprop(net, ej.losses.squared_error)
    >>> 0 < ej.cost(rule, params, (16,), chunk=128, rates=rates).seconds < 1
    True
    """
    loop, product, at_once, passing = (x / y for x, y in zip(yardsticks(), YARDSTICKS))
    like = Kinds(loop, loop, passing, product, at_once, at_once, passing)
    return Kinds(*(rate * ratio for rate, ratio in zip(RATES, like)))
