"""Cells × read-outs × rules × sizes × chunkings × dtypes, drawn at random, against the reference.

A configuration (what has to be compiled) is drawn from a table, itself drawn once from a fixed
seed; hypothesis draws which one, and the numbers: so the 2,400 examples of `make fuzz`, 400 for
each family of rules, share some hundreds of compiled functions. CI draws a few from all rules.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
from cases import CELLS, READOUTS, VARIANTS, problem
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import eprop_jax as ej

LOSS = ej.losses.squared_error
DEEP = settings().max_examples >= 100
CONFIGURATIONS = 28  # a family
RULES = {
    "e-prop": lambda net: ej.eprop(net, LOSS),
    "random e-prop": lambda net: ej.eprop(net, LOSS, feedback="random"),
    "adaptive e-prop": lambda net: ej.eprop(net, LOSS, feedback="adaptive"),
    "order 2": lambda net: ej.m_order_eprop(net, LOSS, order=2),
    "order 3": lambda net: ej.m_order_eprop(net, LOSS, order=3),
    "random order 2": lambda net: ej.m_order_eprop(net, LOSS, order=2, feedback="random"),
    "adaptive order 3": lambda net: ej.m_order_eprop(net, LOSS, order=3, feedback="adaptive"),
    "rtrl": lambda net: ej.rtrl(net, LOSS),
    "bptt": lambda net: ej.bptt(net, LOSS),
}
ORDERS = {name: 1 if "e-prop" in name else None for name in RULES}
ORDERS |= {name: int(name[-1]) for name in RULES if "order" in name}
FAMILIES = {
    "e-prop": ("e-prop",),
    "e-prop with other feedback": ("random e-prop", "adaptive e-prop"),
    "m-order": ("order 2", "order 3"),
    "m-order with other feedback": ("random order 2", "adaptive order 3"),
    "rtrl": ("rtrl",),
    "bptt": ("bptt",),
}
FAMILIES = FAMILIES if DEEP else {"any rule": tuple(RULES)}
ROUNDING = {"float64": 1e-10, "float32": 1e-3, "bfloat16": 0.03}


class Configuration(NamedTuple):
    cell: str
    readout: str
    rule: str
    n: int
    n_in: int
    n_out: int
    T: int
    batch: tuple[int, ...]
    chunk: Any


@functools.cache
def table(family):
    """Every cell in turn; all else drawn."""
    rng = np.random.default_rng(sorted(FAMILIES).index(family))
    names = [*CELLS, *VARIANTS]
    found = []
    for i in range(CONFIGURATIONS):
        T = int(rng.integers(1, 6))
        rule = FAMILIES[family][i % len(FAMILIES[family])]
        chunks = [None, "auto", *(range(1, T + 1) if rule != "bptt" else ())]
        found.append(
            Configuration(
                cell=names[(i + i // len(names)) % len(names)],
                readout=[*READOUTS][rng.integers(len(READOUTS))],
                rule=rule,
                n=int(rng.integers(1, 5)),
                n_in=int(rng.integers(1, 4)),
                n_out=int(rng.integers(1, 4)),
                T=T,
                batch=[(), (2,), (2, 2)][rng.integers(3)],
                chunk=chunks[rng.integers(len(chunks))],
            )
        )
    return found


@functools.cache
def compiled(c):
    """(problem, rule, its gradient, the reference's gradient of (params, B, xs, ys))."""
    p = problem(c.cell, c.readout, n=c.n, n_in=c.n_in, n_out=c.n_out, T=c.T, batch=c.batch)
    rule = RULES[c.rule](p.net)
    order = ORDERS[c.rule]
    order = None if order is not None and order >= p.exact_order else order
    cell, readout = p.cell.reference(c.n), p.readout

    def total(params, B, xs, ys):
        return ref.total_loss(
            cell, readout.reference, params, xs, ys, ref.squared_error,
            order=order, B=B, y_0=readout.y_0,
        )  # fmt: skip

    return (
        p,
        rule,
        ej.value_and_grad(rule, c.chunk, has_aux=True),
        jax.jit(jax.value_and_grad(total)),
    )


def draw_inputs(rng, shape, kind):
    """Noise, silence, rare pulses, or drives that saturate every unit."""
    noise = rng.normal(size=shape)
    return {
        "noise": noise,
        "silence": np.zeros(shape),
        "pulses": np.where(rng.random(shape) < 0.2, 3.0, 0.0),
        "large": 20.0 * noise,
    }[kind]


def check(c, seed, scale, inputs, dtype):
    p, rule, f, wanted_of = compiled(c)
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda w: w + 0.3 * jnp.asarray(rng.normal(size=w.shape)), p.params)
    if "w_rec" in params["cell"]:
        w_rec = jax.tree.map(lambda w: scale * w, params["cell"]["w_rec"])
        params["cell"] = {**params["cell"], "w_rec": w_rec}
    if rule.spec.feedback != "symmetric":
        params["feedback"] = jnp.asarray(rng.normal(size=(c.n, c.n_out)))
    xs = jnp.asarray(draw_inputs(rng, p.xs.shape, inputs))
    ys = jnp.asarray(rng.normal(size=p.ys.shape))

    given = jax.tree.map(lambda x: x.astype(dtype), (params, xs, ys))
    (loss, aux), grads = f(*given)
    exact = jax.tree.map(lambda x: x.astype("float64"), given)
    if dtype != "float64":  # without the same spikes there is nothing to compare
        (_, in_float64), _ = f(*exact)
        gap = jnp.abs(aux.activity.astype("float64") - in_float64.activity)
        assume(bool(jnp.all(gap < 0.1)))
    assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype(dtype)}
    params, xs, ys = exact
    B = params.pop("feedback", None)
    wanted_loss, wanted = wanted_of(params, B, xs, ys)
    grads = dict(jax.tree.map(lambda g: g.astype("float64"), grads))
    of_B = grads.pop("feedback", None)
    assert jax.tree.all(jax.tree.map(lambda g: bool(jnp.all(jnp.isfinite(g))), grads))
    tolerance = ROUNDING[dtype]
    assert float(loss) == pytest.approx(float(wanted_loss), rel=tolerance, abs=1e-12)
    # A saturated derivative, 1 − tanh², has an absolute error of a rounding, here as in any autodiff:
    # a share of what the gradient would be if all derivatives were 1.
    miss = ref.norm(aux.outputs.astype("float64") - ys)
    unsaturated = ref.norm(xs) * miss * ref.norm(params["readout"]["w_out"] if B is None else B)
    floor = 16 * (2.0**-53 if dtype == "float64" else 2.0**-24) * unsaturated
    assert jax.tree.structure(grads) == jax.tree.structure(wanted)
    for (path, got), leaf in zip(jax.tree.leaves_with_path(grads), jax.tree.leaves(wanted)):
        size = ref.norm(leaf if dtype == "float64" else wanted)
        gap = ref.norm(got - leaf)
        assert gap <= tolerance * size + floor, (jax.tree_util.keystr(path), gap, size, floor)
    if of_B is not None:
        adaptive = rule.spec.feedback == "adaptive"
        assert jnp.array_equal(of_B, grads["readout"]["w_out"] if adaptive else 0 * of_B)


@pytest.fixture(autouse=True)
def clear_between_families():
    """XLA maps memory for each compiled function, and a process has only so many maps."""
    yield
    compiled.cache_clear()
    jax.clear_caches()


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=settings().max_examples if DEEP else 3)
@given(
    which=st.integers(0, CONFIGURATIONS - 1),
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([1.0, 0.1, 3.0]),
    inputs=st.sampled_from(["noise", "silence", "pulses", "large"]),
    dtype=st.sampled_from(["float64", "float64", "float32", "bfloat16"]),
)
def test_any_configuration(family, which, seed, scale, inputs, dtype):
    check(table(family)[which], seed, scale, inputs, dtype)
