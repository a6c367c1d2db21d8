"""Rules that no language of paths tells: SnAp-n, which bounds where a path may be, and UORO, which is
RTRL in the mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
from test_layered_reference import coupled

import eprop_jax as ej

LOSS = ej.losses.squared_error
slow = pytest.mark.slow
T, BATCH, N = 6, 2, 6


def ring(n=N):
    """Each unit hears its two neighbours."""
    one = np.eye(n, dtype=bool)
    return np.roll(one, 1, 1) | np.roll(one, -1, 1)


CELLS = {
    "leaky_rnn": lambda **k: ej.cells.leaky_rnn(2, N, decay=0.6, gain_rec=2.0, **k),
    "alif": lambda **k: ej.cells.alif(
        2, N, tau_m=5.0, v_th=0.3, gain_in=2.0, gain_rec=2.0, trainable=("v_th", "beta"), **k
    ),
    "gru": lambda **k: ej.cells.gru(2, N, **k),
}


def problem(cell, readout=ej.readouts.leaky, **options):
    net = ej.Network(CELLS[cell](**options), readout(N, 2))
    params = jax.tree.map(lambda x: x.astype(jnp.float64), net.init(jax.random.key(0)))
    xs = 2 * jax.random.normal(jax.random.key(1), (T, BATCH, 2))
    return net, params, xs, jax.random.normal(jax.random.key(2), (T, BATCH, 2))


def gradient(rule, params, xs, ys, chunk=None, **steps):
    return ej.value_and_grad(rule, chunk=chunk)(params, xs, ys, **steps)[1]


# -- SnAp ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell, chunk", [
    ("leaky_rnn", 1), ("gru", 4), pytest.param("alif", None, marks=slow),
    pytest.param("alif", 1, marks=slow),
])  # fmt: skip
def test_snap_1_keeps_a_unit_and_its_synapse_to_itself(cell, chunk):
    net, params, xs, ys = problem(cell)
    wanted = gradient(ej.by_paths(net, LOSS, paths="(i|s)*"), params, xs, ys)
    got = gradient(ej.snap(net, LOSS, order=1), params, xs, ys, chunk)
    ref.assert_same(got, wanted)


@pytest.mark.parametrize("cell, order, options", [
    ("gru", 2, {}), pytest.param("alif", 2, {}, marks=slow),
    pytest.param("gru", 4, {"connectivity": ring()}, marks=slow),
    ("alif", 9, {"connectivity": ring()}),
])  # fmt: skip
def test_saturated_it_is_rtrl(cell, order, options):
    net, params, xs, ys = problem(cell, **options)
    steps = {"resets": jax.random.bernoulli(jax.random.key(4), 0.3, (T, BATCH))}
    losses = {"activity_loss": lambda f: jnp.sum(f**2)}
    wanted = gradient(ej.rtrl(net, LOSS, **losses), params, xs, ys, **steps)
    ref.assert_same(
        gradient(ej.snap(net, LOSS, order=order, **losses), params, xs, ys, **steps), wanted
    )


STATE = lambda c: 0.3 * (c - 1) ** 2


def masked_rtrl(net, params, xs, ys, hops):
    """The influence matrix of the whole layer by `jax.jacfwd`, cut to its entries after every step; of
    a cell with one component, a linear read-out, and one example."""
    cell, p, out = net.cell, params["cell"], params["readout"]
    mask = np.asarray(cell.connectivity, float)
    near = (np.linalg.matrix_power(mask + np.eye(N), hops) > 0).astype(float)
    theta = {k: jnp.full(N, v) for k, v in cell.constants.items()}
    outputs = lambda c: jax.vmap(cell.output)(theta, c)

    def step(w, c, x):
        a = x @ w["w_in"] + outputs(c) @ (w["w_rec"] * mask) + w["bias"]
        return jax.vmap(cell.dynamics)(theta, c, a)

    c = jnp.zeros(N)
    alpha = jax.tree.map(lambda w: jnp.zeros((N, *w.shape)), p)  # [r, i, j]
    total = jax.tree.map(jnp.zeros_like, p)
    for x, y in zip(xs, ys):
        J, F = jax.jacfwd(step, 1)(p, c, x), jax.jacfwd(step)(p, c, x)
        alpha = jax.tree.map(lambda S, f: jnp.tensordot(J, S, 1) + f, alpha, F)
        cut = lambda S: S * near.T.reshape(N, *(1,) * (S.ndim - 2), N)
        alpha, c = jax.tree.map(cut, alpha), step(p, c, x)
        read = lambda c: LOSS(outputs(c) @ out["w_out"] + out["bias"], y) + jnp.sum(STATE(c))
        dL_dc = jax.grad(read)(c)
        total = jax.tree.map(lambda g, S: g + jnp.tensordot(dL_dc, S, 1), total, alpha)
    return {**total, "w_rec": total["w_rec"] * mask}


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_entries_within_the_hops_and_no_others(order):
    """On a ring with one synapse more, so that units differ in how many they reach."""
    mask = ring() | (np.add.outer(np.arange(N), -3 * np.arange(N)) == 1)
    net, params, xs, ys = problem("leaky_rnn", ej.readouts.linear, connectivity=mask)
    rule = ej.snap(net, LOSS, order=order, state_loss=STATE)  # which meets α at every place
    got = gradient(rule, params, xs[:, :1], ys[:, :1])["cell"]
    ref.assert_same(got, masked_rtrl(net, params, xs[:, 0], ys[:, 0], order - 1))


def test_it_nears_the_exact_gradient_hop_by_hop_and_holds_no_more_than_it_reaches():
    net, params, xs, ys = problem("leaky_rnn", connectivity=ring())
    exact = gradient(ej.bptt(net, LOSS), params, xs, ys)["cell"]
    far, held = [], []
    for order in (1, 2, 3, 4):
        rule = ej.snap(net, LOSS, order=order)
        far.append(ref.distance(gradient(rule, params, xs, ys)["cell"], exact))
        held.append(rule.init(params, (BATCH,)).alpha["w_rec"].shape[1])
    print("\ndistance from BPTT by order:", *(f"{x:.1e}" for x in far))
    assert held == [1, 3, 5, 6]
    assert far[0] > 1e-2 and far[0] > 2 * far[1] > 4 * far[2] and far[3] < 1e-14


# -- UORO ------------------------------------------------------------------------------------------


def small(kind, readout):
    cell = {
        "coupled": lambda: coupled(2, 3),
        "gru": lambda: ej.cells.gru(2, 3),
    }[kind]()
    net = ej.Network(cell, readout(3, 2))
    params = jax.tree.map(lambda x: x.astype(jnp.float64), net.init(jax.random.key(0)))
    params["feedback"] = ej.feedback.init(jax.random.key(5), net)
    xs = 2 * jax.random.normal(jax.random.key(1), (4, 2, 2))
    return net, params, xs, jax.random.normal(jax.random.key(2), (4, 2, 2))


@pytest.mark.parametrize("kind, readout, feedback", [
    ("coupled", ej.readouts.leaky, "symmetric"),
    ("gru", ej.readouts.linear, "random"),
])  # fmt: skip
def test_the_mean_of_uoro_is_rtrl(kind, readout, feedback):
    """20,000 draws; every parameter within 3 standard errors (of 57, one is not under one seed in
    seven). The spread is printed (`-s`)."""
    net, params, xs, ys = small(kind, readout)
    losses = {"activity_loss": lambda f: jnp.sum(f**2), "feedback": feedback}
    draws = 20_000

    @jax.jit
    @jax.vmap
    def drawn(key):
        return gradient(ej.uoro(net, LOSS, key=key, **losses), params, xs, ys)

    grads = drawn(jax.random.split(jax.random.key(8), draws))
    every = ej.by_paths(net, LOSS, paths="(i|e)*", **losses)
    wanted = gradient(every, params, xs, ys)
    ref.assert_same(jax.tree.map(lambda g: g[0], grads["readout"]), wanted["readout"])
    mean, spread = (jax.tree.map(lambda g: f(g, 0), grads["cell"]) for f in (jnp.mean, jnp.std))
    off = jax.tree.map(
        lambda m, w, s: jnp.max(jnp.abs(m - w) / (s / draws**0.5 + 1e-14)),
        mean, wanted["cell"], spread,
    )  # fmt: skip
    print(f"\n{kind}: spread {ref.norm(spread) / ref.norm(wanted['cell']):.2f} of the gradient")
    assert max(jax.tree.leaves(off)) < 3
    local = gradient(ej.eprop(net, LOSS, **losses), params, xs, ys)["cell"]
    assert (
        ref.distance(local, wanted["cell"]) > 10 * ref.norm(spread) / ref.norm(local) / draws**0.5
    )


def test_uoro_gives_the_same_in_all_chunks_and_keeps_its_key():
    net, params, xs, ys = small("gru", ej.readouts.leaky)
    rule = ej.uoro(net, LOSS, key=jax.random.key(3))
    resets = jnp.zeros((4, 2), bool).at[2, 1].set(True)
    whole = gradient(rule, params, xs, ys, resets=resets)
    for chunk in (1, 3):
        ref.assert_same(gradient(rule, params, xs, ys, chunk, resets=resets), whole, 1e-12)
    carry = rule.init(params, (2,))
    after, out = rule.step(params, carry, xs, ys)
    assert carry.key.shape == after.key.shape == (2,)
    assert not np.array_equal(*map(jax.random.key_data, (carry.key, after.key)))
    other = carry._replace(key=jax.random.split(jax.random.key(9), 2))
    assert ref.distance(rule.step(params, other, xs, ys)[1].grads["cell"], out.grads["cell"]) > 1e-3
    exact = gradient(ej.bptt(net, LOSS), params, xs[:1], ys[:1])
    one = gradient(rule, params, xs[:1], ys[:1])
    ref.assert_same(one, exact)  # the first step needs no estimate
    small_carry = ej.narrow_traces(ej.uoro(net, LOSS, key=jax.random.key(3))).init(params, (2,))
    assert small_carry.w["w_in"]["z"].dtype == jnp.bfloat16


def test_in_float32_with_x64_on_nothing_is_wide():
    net, params, xs, ys = jax.tree.map(
        lambda x: x.astype("float32") if hasattr(x, "dtype") else x, small("gru", ej.readouts.leaky)
    )
    del params["feedback"]
    for rule in (ej.uoro(net, LOSS, key=jax.random.key(3)), ej.snap(net, LOSS, order=2)):
        carry, out = rule.step(params, rule.init(params, (2,)), xs, ys)
        found = {x.dtype for x in jax.tree.leaves((out, carry._replace(key=())
                 if hasattr(carry, "key") else carry))}  # fmt: skip
        assert found == {jnp.dtype("float32")}


@pytest.mark.parametrize("call, words", [
    (lambda net: ej.snap(net, LOSS, order=0), ("order", "0")),
    (lambda net: ej.snap(ej.Network([net.cell], net.readout), LOSS, order=1), ("net", "stack")),
    (lambda net: ej.uoro(net, LOSS, key=3), ("key", "3", "PRNG")),
    (lambda net: ej.uoro(net, LOSS, key=jax.random.key(0), feedback="some"), ("feedback", "some")),
])  # fmt: skip
def test_refusals(call, words):
    net = small("gru", ej.readouts.linear)[0]
    with pytest.raises((TypeError, ValueError)) as said:
        call(net)
    assert all(word in str(said.value) for word in words)
