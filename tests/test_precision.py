"""Numbers that stay right over 1e5 steps, and the same in every way of running them.

One law bounds every trace (docs/PRECISION.md): a value that decays by Φ between two roundings of
relative size u is wrong by at most u / (1 − Φ) of the largest that it has been. A decay that is
itself rounded costs as much again.
Each test prints what it measured as a share of its bound (`pytest -s`).
"""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
from cases import problem

import eprop_jax as ej
from eprop_jax.engine import influence, objective

LOSS = ej.losses.squared_error
T = 100_000
ROUNDING = {"float32": 2.0**-24, "bfloat16": 2.0**-8}
SMALLEST = float(np.finfo(np.float32).tiny)  # below it float32 loses digits, then flushes to zero

DECAYS = np.array([0.5, 0.9, 0.99, 0.999, 0.9999])
ADAPTATION = np.array([0.9, 0.99, 0.999, 0.9999, 0.99999])
KAPPA = 0.999


def cast(tree, dtype):
    real = lambda x: jnp.issubdtype(x.dtype, jnp.floating)
    return jax.tree.map(lambda x: x.astype(dtype) if real(x) else x, tree)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


# -- float32 against float64, on one forward pass --------------------------------------------------


def imposed(rule, chunk):
    """f(params, xs, ys) -> (carry, grads) in float32, the same in float64, how large each trace of
    the latter has been, and the mean activity.

    Spikes amplify a rounding to a whole spike, so float64 is given the float32 forward pass. What
    is compared is the arithmetic of the traces and of the sweep. Float64 has the exact decays.
    """
    spec, of = rule.spec, rule.spec.influence

    def advance(params, carry, at):
        held = influence.At(spec, params, carry.state, of.filtered(spec))
        S = influence.opened(of, held, carry)
        if chunk == 1:
            S, cell, readout = influence.advanced(of, held, S, at)
        else:
            after, _, cell, readout = of.over(spec, params, S, at)
            S = influence.fitted(S, after)
        return influence.closed(of, held, S), cell, readout

    @jax.jit
    def run(params, xs, ys):
        given = {dtype: cast(params, dtype) for dtype in ("float32", "float64")}
        start = {dtype: rule.init(p, (xs.shape[1],)) for dtype, p in given.items()}
        zero = {k: [jnp.zeros_like(w) for w in jax.tree.leaves(p)] for k, p in given.items()}

        def body(total, part):
            (carries, grads), peaks = total
            at = objective.meet(
                spec, given["float32"], carries["float32"].state, objective.Data(*part, None)
            )
            before, after = carries["float32"].state, ej.State(at.run.c_K, at.run.y[-1])
            now, found = {}, {}
            for dtype, p in given.items():
                carry = carries[dtype]._replace(state=cast(before, dtype))
                carry, cell, readout = advance(p, carry, cast(at, dtype))
                now[dtype] = carry._replace(state=cast(after, dtype))
                found[dtype] = [a + b for a, b in zip(grads[dtype], [*cell, *readout])]
            peaks = jax.tree.map(jnp.maximum, peaks, sizes(now["float64"]))
            return ((now, found), peaks), at.run.h.mean(0)

        parts = jax.tree.map(lambda x: x.reshape(-1, chunk, *x.shape[1:]), (xs, ys))
        begin = (start, zero), sizes(start["float64"])
        ((carries, grads), peaks), h = jax.lax.scan(body, begin, parts)
        narrow, wide = ((carries[k], grads[k]) for k in ("float32", "float64"))
        return narrow, wide, peaks, h.mean(0)

    return run


def sizes(carry):
    """|S| of each trace by example and unit, [B, n]; norms are over the presynaptic lines."""
    norm = lambda x: jnp.sqrt(jnp.sum(x * x, tuple(range(1, x.ndim - 1))))
    return jax.tree.map(norm, carry._replace(state=()))


def trace_errors(got, wanted, peaks=None):
    """|got − wanted| / |the largest that it has been| of each trace: {name: [B, n]}."""
    got, wanted = (cast(carry, jnp.float64) for carry in (got, wanted))
    gap = sizes(jax.tree.map(jnp.subtract, got, wanted))
    peaks = sizes(wanted) if peaks is None else peaks
    return {
        jax.tree_util.keystr(path): np.maximum(x - SMALLEST, 0) / (np.asarray(peak) + SMALLEST)
        for (path, x), peak in zip(jax.tree.leaves_with_path(gap), jax.tree.leaves(peaks))
    }


@functools.cache
def adaptive(chunk):
    """Five ALIF units whose decays come nearer to 1, and a slow leaky read-out."""
    net = ej.Network(
        ej.cells.alif(3, 5, alpha=DECAYS, rho=ADAPTATION, beta=0.001, v_th=0.5),
        ej.readouts.leaky(5, 2, kappa=KAPPA),
    )
    rule = ej.eprop(net, LOSS)
    return net, imposed(rule, chunk)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [1, 100])
def test_float32_traces_over_100_000_steps(chunk):
    """Three examples: a silent network, one that spikes now and then, one that spikes at every
    step. Then the same with recurrent weights 1000 times as large."""
    net, run = adaptive(chunk)
    params = cast(net.init(jax.random.key(0)), jnp.float32)
    params["cell"]["w_in"] = jnp.abs(params["cell"]["w_in"])
    noise = normal(T, 3)
    xs = jnp.stack([jnp.zeros_like(noise), noise, jnp.full_like(noise, 20.0)], 1)
    ys = normal(T, 3, 2, seed=1)
    # Own decay and adaptation in a row, and the read-out behind them; twice: the decay is rounded.
    slow = 1 / (1 - DECAYS) + 1 / (1 - ADAPTATION) + 1 / (1 - KAPPA)
    bound = 2 * ROUNDING["float32"] * slow

    for gain in (1.0, 1000.0):
        w_rec = gain * params["cell"]["w_rec"]
        given = {**params, "cell": {**params["cell"], "w_rec": w_rec}}
        (carry, grads), (wide, wanted), peaks, h = run(given, xs, ys)
        if gain == 1.0:
            assert np.all(h[0] == 0) and np.all(h[2] == 1)
            assert np.all((h[1] > 0.001) & (h[1] < 0.9)), h[1]
        errors = trace_errors(carry, wide, peaks)
        shares = [
            e[example] / (bound if e.shape[1] == 5 else bound.max())
            for e in errors.values()
            for example in range(3)
        ]
        worst = max(np.max(s) for s in shares)
        gradient = max(ref.distance(a, b) for a, b in zip(grads, wanted))
        print(
            f"\nK={chunk}, w_rec × {gain:g}: worst trace {max(e.max() for e in errors.values()):.1e}, "
            f"{worst:.2f} of its bound; worst gradient {gradient:.1e}"
        )
        assert worst < 1
        assert gradient < 2e-3  # of |gradient|, a leaf: sums over all steps and units


def test_rtrl_with_exploding_weights_is_right_until_it_overflows_and_then_not_finite():
    """α grows by a factor of about 2.5 a step: float32 holds that for about 90 steps."""
    cell = ej.cells.custom(
        3, 8, state=0.0, gain_rec=4.0,
        dynamics=lambda theta, c, a: 0.1 * c + a, output=lambda theta, c: jnp.sin(c),
    )  # fmt: skip
    net = ej.Network(cell, ej.readouts.leaky(8, 2, kappa=0.9))
    run = imposed(ej.rtrl(net, LOSS), 1)
    params = cast(net.init(jax.random.key(0)), jnp.float32)
    (carry, grads), (wide, wanted), _, _ = run(params, normal(50, 1, 3), normal(50, 1, 2))
    size = max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(wide.alpha))
    error = ref.distance(carry.alpha, wide.alpha)
    print(f"\nafter 50 steps: |α| up to {size:.1e}, error {error:.1e}")
    assert size > 1e15
    assert error < 50 * 16 * ROUNDING["float32"]  # a step rounds sums of 8 + 8 terms
    assert ref.distance(grads, wanted) < 1e-3  # sums over units, in which much cancels

    (carry, grads), (wide, wanted), _, _ = run(params, normal(150, 1, 3), normal(150, 1, 2))
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(wide.alpha))
    for x in (*jax.tree.leaves(carry.alpha), *grads[:3]):  # the cell's; no number that looks right
        assert not bool(jnp.any(jnp.isfinite(x)))


# -- float32 against float64, from end to end ------------------------------------------------------


@pytest.mark.slow
def test_a_float32_gradient_over_100_000_steps_from_end_to_end():
    """Smooth and stable units: the forward pass is compared too. RTRL holds all paths."""
    decays = np.array([0.5, 0.99, 0.999])
    cell = ej.cells.leaky_rnn(2, 3, decay=decays, gain_rec=0.5)
    net = ej.Network(cell, ej.readouts.leaky(3, 2, kappa=0.99))
    f = ej.value_and_grad(ej.rtrl(net, LOSS), chunk=500)
    params = cast(net.init(jax.random.key(0)), jnp.float32)
    given = params, normal(T, 1, 2), normal(T, 1, 2, seed=1)
    loss, grads = f(*given)
    wanted_loss, wanted = f(*cast(given, jnp.float64))
    error = ref.distance(grads, wanted)
    print(f"\nloss {float(loss) / float(wanted_loss) - 1:.1e}, gradient {error:.1e}")
    assert loss == pytest.approx(float(wanted_loss), rel=1e-5)
    assert error < 2 * ROUNDING["float32"] * np.sum(1 / (1 - decays))


# -- traces in bfloat16 ----------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 16, 128])
def test_the_error_of_bfloat16_traces(chunk):
    """ε of one unit after 2048 steps, against u / (1 − Φ) with Φ = α^K. Where 1 − Φ < u a trace of
    one sign stalls: what is added is less than half a unit in the last place."""
    decays = np.array([0.5, 0.9, 0.99, 0.999])
    net = ej.Network(ej.cells.leaky_rnn(2, 4, decay=decays), ej.readouts.linear(4, 2))
    rule = ej.eprop(net, LOSS)
    params = cast(net.init(jax.random.key(0)), jnp.float32)
    noise, ys = normal(2048, 2), normal(2048, 2, 2, seed=1)
    xs = jnp.stack([jnp.abs(noise), noise], 1)  # two examples: of one sign, of both signs

    def run(rule):
        def body(carry, at):
            carry, out = rule.step(params, carry, *at)
            return carry, out.grads

        parts = jax.tree.map(lambda x: x.reshape(-1, chunk, *x.shape[1:]), (xs, ys))
        carry, grads = jax.lax.scan(body, rule.init(params, (2,)), parts)
        return carry, jax.tree.map(lambda g: g.sum(0), grads)

    both = jax.jit(lambda: (run(ej.narrow_traces(rule, jnp.bfloat16)), run(rule)))
    (carry, grads), (wide, wanted) = both()
    kinds = {x.dtype for x in jax.tree.leaves((carry.epsilon, carry.gamma))}
    assert kinds == {jnp.dtype(jnp.bfloat16)}
    assert {x.dtype for x in jax.tree.leaves(carry.state)} == {jnp.dtype(jnp.float32)}
    bound = ROUNDING["bfloat16"] / (1 - decays**chunk) * 1.01
    errors = trace_errors(carry, wide)
    one_sign, both_signs = errors[".epsilon['w_in']"]
    constant = errors[".epsilon['bias']"][0]
    gradient = ref.distance(cast(grads["cell"], "float64"), cast(wanted["cell"], "float64"))
    shown = [np.round(x, 4) for x in (constant, one_sign, both_signs)]
    print(f"\nK={chunk}: ε of α {decays}, constant, of one sign, of both {shown}; {gradient:.1e}")
    assert np.all(constant < bound) and np.all(one_sign < bound)
    if chunk == 1:
        assert constant[-1] > 0.3  # it stalls, and this is not hidden
    else:
        assert np.all(constant < 0.03) and np.all(both_signs < 0.03) and gradient < 0.02
    ref.assert_same(grads["readout"], wanted["readout"], 1e-5)  # a read-out without memory


@pytest.mark.parametrize("name", ["order 2", "rtrl"])
def test_narrow_traces_of_other_rules_and_only_of_traces(name):
    p = problem("rnn", "leaky", T=4)
    if name == "rtrl":
        rule = ej.rtrl(p.net, LOSS)
    else:
        rule = ej.m_order_eprop(p.net, LOSS, order=2)
    given = cast((p.params, p.xs, p.ys), jnp.float32)
    loss, grads = ej.value_and_grad(ej.narrow_traces(rule), chunk=2)(*given)
    wanted_loss, wanted = ej.value_and_grad(rule, chunk=2)(*given)
    assert loss == wanted_loss  # the network does not read its traces
    assert 0 < ref.distance(grads["cell"], wanted["cell"]) < 4 * ROUNDING["bfloat16"]
    assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype(jnp.float32)}
    assert ej.narrow_traces(rule).whole is rule.whole


def test_narrow_traces_run_over_a_mesh():
    p = problem("rnn", "linear", T=2)
    rule = ej.narrow_traces(ej.eprop(p.net, LOSS))
    params, xs, ys = cast((p.params, p.xs, p.ys), jnp.float32)
    over = ej.sharding.parallel(rule, ej.sharding.mesh(batch=1), batch="batch")
    carry, out = over.step(params, over.init(params, (2,)), xs, ys)
    wanted, plain = rule.step(params, rule.init(params, (2,)), xs, ys)
    assert {x.dtype for x in jax.tree.leaves(carry.epsilon)} == {jnp.dtype(jnp.bfloat16)}
    ref.assert_same(out.grads, plain.grads, 1e-6)
    ref.assert_same(carry.epsilon, wanted.epsilon, ROUNDING["bfloat16"])


def test_narrow_traces_refuse():
    p = problem("rnn", "linear")
    rule = ej.eprop(p.net, LOSS)
    with pytest.raises(TypeError, match="dtype: got float32, wanted"):
        ej.narrow_traces(rule, jnp.float32)
    with pytest.raises(TypeError, match="dtype: got int16, wanted"):
        ej.narrow_traces(rule, jnp.int16)
    with pytest.raises(TypeError, match="rule: got int, wanted"):
        ej.narrow_traces(3)
    with pytest.raises(TypeError, match=r"carry.*: got float64, wanted bfloat16"):
        ej.narrow_traces(rule).step(p.params, rule.init(p.params, (2,)), p.xs, p.ys)


# -- the same numbers in every way of running ------------------------------------------------------


def test_jit_and_no_jit_agree():
    p = problem("rnn", "linear", n=2, n_in=1, n_out=1, T=3, batch=())
    f = ej.value_and_grad(ej.eprop(p.net, LOSS), chunk=2)  # a sweep, and a step of the recursion
    jitted = f(p.params, p.xs, p.ys)
    with jax.disable_jit():
        plain = f(p.params, p.xs, p.ys)
    ref.assert_same(plain, jitted, 1e-13)


def test_a_batch_is_the_mean_of_its_examples():
    p = problem("leaky_rnn", "leaky", T=6, batch=(3,))
    rule = ej.eprop(p.net, LOSS)
    alone = jax.jit(lambda x, y: rule.step(p.params, rule.init(p.params, (1,)), x, y))
    found = [alone(p.xs[:, b : b + 1], p.ys[:, b : b + 1]) for b in range(3)]
    carry, out = rule.step(p.params, rule.init(p.params, (3,)), p.xs, p.ys)
    mean = jax.tree.map(lambda *g: sum(g) / 3, *(o.grads for _, o in found))
    ref.assert_same(out.grads, mean, 1e-13)
    joined = jax.tree.map(lambda *x: jnp.concatenate(x), *(c for c, _ in found))
    ref.assert_same(carry._replace(state=()), joined._replace(state=()), 1e-13)


AGAIN = """
import hashlib, jax, numpy as np
import eprop_jax as ej

net = ej.Network(ej.cells.gru(3, 8), ej.readouts.leaky(8, 2))
rule = ej.m_order_eprop(net, ej.losses.squared_error, order=2)
params = net.init(jax.random.key(0))
draw = lambda seed, k: jax.random.normal(jax.random.key(seed), (7, 2, k))
f = jax.jit(ej.value_and_grad(rule, chunk=3))
program = f.lower(params, draw(1, 3), draw(2, 2))
found = f(params, draw(1, 3), draw(2, 2))
for x in program.as_text().encode(), *(np.asarray(x).tobytes() for x in jax.tree.leaves(found)):
    print(hashlib.sha256(x).hexdigest())
"""


def test_another_process_builds_the_same_program_and_gets_the_same_bits():
    """Whatever order its sets and dicts have: processes of one mesh must agree on their program."""
    found = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(
            [sys.executable, "-c", AGAIN],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        found.append(done.stdout.split())
    assert found[0] == found[1]
    assert len(set(found[0])) == len(found[0]) > 10
