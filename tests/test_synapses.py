"""Synapses of every kind against the dense network with the same effective weights: gradients, states,
outputs, for cells, languages, chunks, resets and feedback; exact rules against autodiff.

The matrix of each kind is written here a second time, entry by entry.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

import eprop_jax as ej
from eprop_jax.network.synapses import use
from tests.pace import quick

slow = pytest.mark.slow
K, B, N_IN, N, N_OUT = 5, 2, 8, 8, 3
KEY = jax.random.key(3)


# -- each kind a second time -----------------------------------------------------------------------


def of_lists(lists, m, w):
    full = jnp.zeros((m, lists.shape[1]))
    for (l, j), i in np.ndenumerate(lists):
        full = full.at[i, j].add(w[l, j]) if i >= 0 else full
    return full


def of_conv(shape, channels, kernel, stride, same, w):
    """[Π shape, Π grid], from the definition: place p hears p·stride + k − low."""
    places = shape[:-1]
    sizes = [-(-x // stride) if same else (x - k) // stride + 1 for x, k in zip(places, kernel)]
    lows = [
        max((o - 1) * stride + k - x, 0) // 2 if same else 0
        for o, k, x in zip(sizes, kernel, places)
    ]
    full = jnp.zeros((*shape, *sizes, channels))
    for p in itertools.product(*map(range, sizes)):
        for k in itertools.product(*map(range, kernel)):
            at = tuple(a * stride + b - low for a, b, low in zip(p, k, lows))
            if all(0 <= a < x for a, x in zip(at, places)):
                full = full.at[(*at, slice(None), *p)].add(w[k])
    return full.reshape(math.prod(shape), -1)


def of_groups(groups, w):
    return jnp.kron(jnp.eye(groups), w)


def of_pool(shape, size, behind, w):
    *places, channels = shape
    index = np.arange(math.prod(places) // size ** len(places) * channels)
    index = index.reshape(*[x // size for x in places], channels)
    for axis in range(len(places)):
        index = np.repeat(index, size, axis)
    pool = np.eye(int(index.max()) + 1)[index.ravel()] / size ** len(places)
    return jnp.asarray(pool) @ behind(w)


HOLES = np.arange(64).reshape(8, 8) % 3 == 0
HOLES[:, 2] = False  # hears nothing
HOLES[5] = False  # is heard by none
LISTS = np.array([[1, 0, 3, 7, 4, 4, -1, 2], [2, 5, 3, -1, 6, 0, -1, 2]])
S = ej.synapses
KINDS = {
    "masked": (S.masked(HOLES), lambda w: jnp.where(HOLES, w, 0)),
    "sparse": (S.sparse(LISTS), functools.partial(of_lists, LISTS, 8)),
    "conv1": (S.conv((4, 2), 4, (3,), stride=2), functools.partial(of_conv, (4, 2), 4, (3,), 2, True)),
    "conv2": (
        S.conv((2, 2, 2), 2, (2, 2)),
        functools.partial(of_conv, (2, 2, 2), 2, (2, 2), 1, True),
    ),
    "valid": (
        S.conv((2, 4, 1), 4, (2, 3), padding="VALID"),
        functools.partial(of_conv, (2, 4, 1), 4, (2, 3), 1, False),
    ),
    "grouped": (S.grouped(2), functools.partial(of_groups, 2)),
    "pooled": (
        S.pooled(S.dense(), (4, 2), 2),
        functools.partial(of_pool, (4, 2), 2, lambda w: w),
    ),
    "dense": (S.dense(), lambda w: w),
}  # fmt: skip


def test_each_kind_is_its_matrix():
    for name, (kind, dense_of) in KINDS.items():
        s = kind(8, 8)
        w, pre, da = (jax.random.normal(k, shape) for k, shape in zip(
            jax.random.split(KEY, 3), (use.shapes(s).shape, (2, 3, 8), (2, 3, 8))))  # fmt: skip
        w = use.existing(s, w)
        full, tie = jax.vjp(dense_of, w)
        outer = jnp.einsum("tbi,tbj->ij", pre, da)
        lines = s.view(pre[0, 0]) * da[0, 0][None]
        pairs = {
            "drive": (s.drive(w, pre), pre @ full),
            "back": (use.transposed(s)(w, da), da @ full.T),
            "matrix": (use.matrix(s, w), full),
            "own": (use.own(s, w), jnp.diagonal(full)),
            "collect": (use.existing(s, use.collect(s, pre, da)), tie(outer)[0]),
            "tie": (
                use.existing(s, use.tie(s, lines)),
                tie(jnp.outer(pre[0, 0], da[0, 0]))[0],
            ),
        }
        for what, (got, wanted) in pairs.items():
            np.testing.assert_allclose(got, wanted, atol=1e-12, err_msg=f"{name}: {what}")
        assert s.init(KEY, 1.0).shape == w.shape
        assert np.array_equal(use.there(s), np.asarray(dense_of(use.number(s))) != 0), name


# -- networks of them ------------------------------------------------------------------------------


CELLS = {
    "alif": lambda **lines: ej.cells.alif(N_IN, N, tau_m=3.0, v_th=0.6, trainable=("v_th",), **lines),
    "gru": lambda **lines: ej.cells.gru(N_IN, N, **lines),
    "leaky": lambda **lines: ej.cells.leaky_rnn(N_IN, N, tau=4.0, **lines),
    "lstm": lambda **lines: ej.cells.lstm(N_IN, N, **lines),
}  # fmt: skip


def network(cell, kinds, readout=ej.readouts.leaky, stacked=False):
    w_in, w_rec = (KINDS[k][0] for k in kinds[:2])
    readout_of = functools.partial(readout, N, N_OUT, **({"tau": 4.0} if readout is LEAKY else {}))
    if kinds[2] == "dense":
        out = readout_of()
    else:
        out = readout_of(w_out=S.masked(HOLES[:, :N_OUT]))
    first = CELLS[cell](w_in=w_in, w_rec=w_rec)
    if not stacked:
        return ej.Network(first, out)
    return ej.Network([first, CELLS["alif"](w_in=w_rec, w_rec=w_in)], out)


LEAKY = ej.readouts.leaky


def effective(net, kinds, tree, transposed=False):
    """Parameters as matrices."""
    of = {"w_in": KINDS[kinds[0]][1], "w_rec": KINDS[kinds[1]][1]}
    upper = {"w_in": of["w_rec"], "w_rec": of["w_in"]}
    out = (lambda w: w) if kinds[2] == "dense" else (lambda w: jnp.where(HOLES[:, :N_OUT], w, 0))

    def layer(p, of):
        return {k: jax.tree.map(of[k], v) if k in of else v for k, v in p.items()}

    cell = tree["cell"]
    cell = (layer(cell[0], of), layer(cell[1], upper)) if net.stacked else layer(cell, of)
    readout = {**tree["readout"], "w_out": out(tree["readout"]["w_out"])}
    return {**tree, "cell": cell, "readout": readout}


def data():
    keys = jax.random.split(jax.random.key(11), 2)
    return 2 * jax.random.normal(keys[0], (K, B, N_IN)), jax.random.normal(keys[1], (K, B, N_OUT))


def same(got, wanted, tol=1e-10):
    for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=tol, atol=tol, err_msg=jax.tree_util.keystr(path))


def held(rule_of, cell, kinds, chunk, *, stacked=False, feedback="symmetric", readout=LEAKY,
         resets=None):  # fmt: skip
    """The rule on these synapses is the rule on the dense network, its gradients tied."""
    net, full = (
        network(cell, kinds, readout, stacked),
        network(cell, ("dense",) * 3, readout, stacked),
    )
    params = jax.tree.map(lambda x: x + 0.05, net.init(KEY))
    if feedback != "symmetric":
        params["feedback"] = ej.feedback.init(jax.random.key(5), net)
    matrices, tie = jax.vjp(lambda p: effective(net, kinds, p), params)
    xs, ys = data()
    run = lambda net, p: ej.value_and_grad(rule_of(net, feedback), chunk=chunk, has_aux=True)(
        p, xs, ys, resets=resets
    )
    (loss, out), grads = run(net, params)
    (wanted, out_of_full), full_grads = run(full, matrices)
    same((loss, out.outputs, out.activity), (wanted, out_of_full.outputs, out_of_full.activity))
    tied = tie({**full_grads})[0]
    if feedback == "adaptive" and kinds[2] != "dense":
        B_of = params["feedback"] if net.stacked else (params["feedback"],)
        masked = lambda g: jnp.where(HOLES[:, :N_OUT], g, 0)
        last = len(B_of) - 1
        found = tied["feedback"] if net.stacked else (tied["feedback"],)
        found = tuple(masked(g) if l == last else g for l, g in enumerate(found))
        tied["feedback"] = found if net.stacked else found[0]
    same(grads, tied)
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads["cell"])) > 1e-3
    return net, params, loss, grads


def rule_of(name):
    sq = ej.losses.squared_error
    of = {
        "bptt": lambda net, fb: ej.bptt(net, sq, state_loss=squares),
        "rtrl": lambda net, fb: ej.rtrl(net, sq, activity_loss=ej.losses.firing_rate(0.2)),
        "eprop": lambda net, fb: ej.eprop(net, sq, feedback=fb, activity_loss=rates),
        "order 2": lambda net, fb: ej.m_order_eprop(net, sq, order=2),
        "order 3": lambda net, fb: ej.m_order_eprop(net, sq, order=3),
        # Saturated: which entries it keeps before that, follows the synapses that there are.
        "snap": lambda net, fb: ej.snap(net, sq, order=N),
    }
    return of.get(name) or (lambda net, fb: ej.by_paths(net, sq, paths=name, feedback=fb))


squares = lambda c: 0.1 * sum(jnp.sum(x**2) for x in jax.tree.leaves(c))
rates = lambda f: jnp.sum((f - 0.2) ** 2)
LINES = [
    ("sparse", "sparse", "dense"),
    ("masked", "masked", "masked"),
    ("conv2", "grouped", "dense"),
    ("conv1", "sparse", "masked"),
    ("pooled", "conv2", "dense"),
    ("grouped", "masked", "dense"),
    ("valid", "pooled", "dense"),
]
RULES = ("bptt", "eprop", "rtrl", "order 2", "order 3", "snap", "(i|s)*", "(i|e)*", "i*(ei*)?")
ONE_LAYER = [
    (cell, kinds, rule, chunk)
    for cell, kinds, rule, chunk in itertools.product(CELLS, LINES, RULES, (None, 1, 3))
    if not (rule in ("bptt",) and chunk)
]


def first_of_each(cases, *places):
    """A few cases in which each value of each place stands."""
    seen, kept = set(), []
    for case in (cases[k * 37 % len(cases)] for k in range(len(cases))):
        new = {(p, str(case[p])) for p in places} - seen
        if new:
            kept.append(case)
            seen |= new
    return kept


FEW = first_of_each(ONE_LAYER, 1, 2)
MORE = [x for k, x in enumerate(ONE_LAYER) if x not in FEW and k % 9 == 0]


@pytest.mark.parametrize(
    "cell, kinds, rule, chunk", [*FEW, *(pytest.param(*x, marks=slow) for x in MORE)]
)
def test_a_layer_is_the_dense_one(cell, kinds, rule, chunk):
    held(rule_of(rule), cell, kinds, chunk)


def test_exact_rules_are_autodiff():
    xs, ys = data()
    for kinds in (LINES[0], LINES[2]):
        net = network("alif", kinds)
        params = net.init(KEY)

        def plain(p, net=net):
            y = net.apply(p, xs).outputs
            return jnp.mean(jax.vmap(lambda y, t: jax.vmap(ej.losses.squared_error)(y, t))(y, ys)
                            .sum(0))  # fmt: skip

        wanted = jax.grad(plain)(params)
        for rule in (ej.bptt, ej.rtrl):
            same(ej.value_and_grad(rule(net, ej.losses.squared_error))(params, xs, ys)[1], wanted)


TO_THE_LOWEST = (
    "i*f*", "(i|f)*", "(i|e|f)*", "i*(ei*)?f*", "(i|s)*f*", "(i|e)*f*", "i*(fi*f*)?", "f*",
    "i*((e|f)i*){0,1}",
)  # fmt: skip
STACKED = [
    (kinds, rule, chunk)
    for kinds, rule, chunk in itertools.product(LINES, TO_THE_LOWEST, (None, 1, 3))
]
FEW_STACKED = first_of_each(STACKED, 2)


@pytest.mark.parametrize(
    "kinds, rule, chunk",
    [*FEW_STACKED, *(pytest.param(*x, marks=slow) for x in STACKED[::5] if x not in FEW_STACKED)],
)
def test_a_stack_is_the_dense_one(kinds, rule, chunk):
    held(rule_of(rule), "leaky", kinds, chunk, stacked=True)


@pytest.mark.parametrize(
    "case",
    quick(
        [(False, "random", 3), (False, "adaptive", 1), (True, "adaptive", 1),
         (True, "random", None), (True, "adaptive", 3)],
        (False, "adaptive", 1),
        (True, "adaptive", 1),
    ),
)  # fmt: skip
def test_feedback(case):
    stacked, feedback, chunk = case
    rule = rule_of("i*f*" if stacked else "eprop")
    held(rule, "leaky", LINES[1], chunk, stacked=stacked, feedback=feedback)


def test_resets():
    resets = jnp.zeros((K, B), bool).at[2, 0].set(True).at[4, 1].set(True)
    for rule, chunk in (("eprop", 3), ("rtrl", 1)):
        held(rule_of(rule), "leaky", LINES[0], chunk, resets=resets)


def test_traces_have_the_lines_of_their_synapses():
    net = network("gru", ("sparse", "sparse", "dense"))
    params = net.init(KEY)
    sq = ej.losses.squared_error
    eps = ej.eprop(net, sq).init(params, (B,)).epsilon["w_rec"]
    assert {x.shape for x in jax.tree.leaves(eps)} == {(B, 2, N)}
    alpha = ej.rtrl(net, sq).init(params, (B,)).alpha["w_rec"]
    assert {x.shape for x in jax.tree.leaves(alpha)} == {(B, N, 2, N)}


def test_a_shared_voltage_is_held_by_the_unit_that_is_heard():
    """Also where the read-out has lists, and where ε passes from chunk to chunk."""
    sq, lists = ej.losses.squared_error, S.sparse(np.arange(6).reshape(2, 3))
    net = ej.Network(
        CELLS["alif"](w_in=S.sparse(3), w_rec=S.sparse(LISTS)), LEAKY(N, 3, w_out=lists)
    )
    params, (xs, ys) = net.init(KEY), data()
    carry = ej.eprop(net, sq).init(params, (B,))
    assert carry.epsilon["w_rec"].v.shape == (B, N, 1)
    assert carry.epsilon["w_rec"].a.shape == (B, 2, N)
    assert carry.gamma.readout["w_out"].shape == (B, N, 1)
    _, wanted = ej.value_and_grad(ej.eprop(net, sq))(params, xs, ys)
    for rule, chunk in ((ej.eprop(net, sq), 1), (ej.by_paths(net, sq, paths="i*"), 3)):
        same(ej.value_and_grad(rule, chunk=chunk)(params, xs, ys)[1], wanted)


# -- absent synapses stay absent -------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [("masked", "masked", "masked"), ("sparse", "sparse", "dense")])
def test_absent_synapses_stay_absent(kinds):
    """Drawn, differentiated, updated by Adam with weight decay, or imported."""
    import optax

    net = network("leaky", kinds)
    params, (xs, ys) = net.init(KEY), data()
    absent = lambda tree: [
        np.asarray(w)[~np.asarray(s.exists)]
        for layer, p in ((net.cell, tree["cell"]), (net.readout, tree["readout"]))
        for line, s in layer.synapses.items()
        if s.exists is not None
        for w in jax.tree.leaves(p[line])
    ]
    assert absent(params) and not any(x.any() for x in absent(params))
    grad = ej.value_and_grad(ej.eprop(net, ej.losses.squared_error))
    optimizer = optax.adamw(0.1, weight_decay=0.1)
    state = optimizer.init(params)
    for _ in range(3):
        _, grads = grad(params, xs, ys)
        assert not any(x.any() for x in absent(grads))
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
    assert not any(x.any() for x in absent(params))
    imported = jax.tree.map(lambda p: p + 0.0, params)
    imported["cell"]["w_in"] = jnp.where(params["cell"]["w_in"] == 0, 7.0, params["cell"]["w_in"])
    same(net.apply(imported, xs).outputs, net.apply(params, xs).outputs)


def test_spread_follows_the_true_fan_in():
    mask = np.zeros((400, 400), bool)
    mask[:4, :200] = mask[:100, 200:] = True
    w = S.masked(mask)(400, 400).init(KEY, 1.0)
    assert abs(float(w[:4, :200].std()) - 0.5) < 0.05
    assert abs(float(w[:100, 200:].std()) - 0.1) < 0.01
    lists = np.full((100, 400), -1)
    lists[:4] = np.arange(4)[:, None]
    lists[:, 200:] = np.arange(100)[:, None]
    w = S.sparse(lists)(400, 400).init(KEY, 1.0)
    assert abs(float(w[:4, :200].std()) - 0.5) < 0.05
    assert abs(float(w[:, 200:].std()) - 0.1) < 0.01


def test_connectivity_is_the_short_form_of_masked():
    a = ej.cells.gru(3, 8, connectivity=HOLES).init(KEY)
    same(a, ej.cells.gru(3, 8, w_rec=S.masked(HOLES)).init(KEY))


def test_self_connections_can_be_left_out_of_lists():
    cell = ej.cells.lif(3, 8, w_rec=S.sparse(LISTS), self_connections=False)
    wanted = np.asarray(of_lists(LISTS, 8, np.ones((2, 8)))) != 0
    assert wanted.diagonal().any()
    assert np.array_equal(cell.connectivity, wanted & ~np.eye(8, dtype=bool))
    w = cell.init(KEY)["w_rec"]
    assert not np.asarray(use.own(cell.synapses["w_rec"], w)).any()
    with pytest.raises(ValueError, match="self_connections: got False with conv"):
        ej.cells.lif(3, 8, w_rec=S.conv((8, 1), 1, (3,)), self_connections=False)


# -- drawn -----------------------------------------------------------------------------------------


@settings(max_examples=6, deadline=None)
@given(st.data())
def test_drawn_lists_are_their_matrix(data):
    m, n = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 7))
    edges = data.draw(
        st.lists(st.tuples(st.integers(0, m - 1), st.integers(0, n - 1)), max_size=12)
    )
    s = S.sparse(edges=np.array(edges, int).reshape(-1, 2))(m, n)
    number = np.zeros((m, n))
    for i, j in edges:
        number[i, j] += 1
    np.testing.assert_array_equal(use.matrix(s, use.number(s)), number)
    pre = jax.random.normal(KEY, (3, m))
    np.testing.assert_allclose(s.drive(use.number(s), pre), pre @ number, atol=1e-12)
    same_units = m == n
    if same_units:
        off = number - np.diag(number.diagonal())
        assert use.kinds(s) == (bool(off.any()), bool(number.diagonal().any()))


def test_lists_by_distance():
    line = np.arange(60.0)[:, None]
    lists = S.by_distance(line, line, 6, 2.0, seed=1)
    assert all(len(set(column)) == 6 for column in lists.T)
    far = np.abs(lists - np.arange(60))
    assert far.mean() < 4 and np.array_equal(lists, S.by_distance(line, line, 6, 2.0, seed=1))


CELLS_OF = {
    "rnn": lambda m, n, **lines: ej.cells.rnn(m, n, **lines),
    "leaky": lambda m, n, **lines: ej.cells.leaky_rnn(m, n, tau=4.0, **lines),
    "lif": lambda m, n, **lines: ej.cells.lif(m, n, tau_m=3.0, v_th=0.6, **lines),
    "alif": lambda m, n, **lines: ej.cells.alif(m, n, v_th=0.6, trainable=("v_th",), **lines),
    "gru": lambda m, n, **lines: ej.cells.gru(m, n, **lines),
    "lstm": lambda m, n, **lines: ej.cells.lstm(m, n, **lines),
    "coupled": lambda m, n, **lines: ej.cells.custom(
        m, n, lambda theta, c, a: (0.7 * c[0] - 0.3 * jnp.tanh(c[1]) + a, 0.8 * c[1] + c[0] * a),
        lambda theta, c: jnp.tanh(c[0] + c[1]), (0.1, -0.2), **lines,
    ),
}  # fmt: skip


@st.composite
def kinds_between(draw, m, n):
    """(a kind, its matrix) of m -> n units, empty rows and columns among them."""
    masks = st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=m, max_size=m)
    pairs = st.lists(st.tuples(st.integers(0, m - 1), st.integers(0, n - 1)), max_size=8)
    of = draw(st.sampled_from(["dense", "masked", "edges", "drawn", "grouped", "conv"]))
    if of == "masked":
        mask = np.array(draw(masks), bool)
        return S.masked(mask), lambda w: jnp.where(mask, w, 0)
    if of == "edges":
        edges = np.array(draw(pairs), int).reshape(-1, 2)
        return S.sparse(edges=edges), functools.partial(of_edges, edges, (m, n))
    if of == "drawn":
        k, seed = draw(st.integers(1, 4)), draw(st.integers(0, 9))
        return S.sparse(k, seed=seed), functools.partial(of_random, k, seed, (m, n))
    if of == "grouped":
        groups = draw(st.sampled_from([g for g in range(1, m + 1) if m % g == n % g == 0]))
        return S.grouped(groups), functools.partial(of_groups, groups)
    if of == "conv" and n % m == 0:
        size = draw(st.integers(1, 3))
        return S.conv((m, 1), n // m, (size,)), functools.partial(
            of_conv, (m, 1), n // m, (size,), 1, True
        )
    return S.dense(), lambda w: w


def of_edges(edges, shape, w):
    full, used = jnp.zeros(shape), [0] * shape[1]
    for i, j in edges:
        full = full.at[i, j].add(w[used[j], j])
        used[j] += 1
    return full


def of_random(k, seed, shape, w):
    """The lists themselves are the library's; that they repeat nothing is what is seen here."""
    s = S.sparse(k, seed=seed)(*shape)
    there = use.there(s)
    assert (there.sum(0) == min(k, shape[0])).all()
    full = jnp.zeros(shape)
    for j in range(shape[1]):
        for l, i in enumerate(np.flatnonzero(there[:, j])):
            full = full.at[i, j].set(w[l, j])
    return full


@slow
@settings(max_examples=15, deadline=None)
@given(st.data())
def test_drawn_networks_are_the_dense_ones(data):
    draw = data.draw
    m, n, n_out = (draw(st.integers(1, high)) for high in (4, 5, 3))
    cell = CELLS_OF[draw(st.sampled_from(sorted(CELLS_OF)))]
    lines = {"w_in": (m, n), "w_rec": (n, n), "w_out": (n, n_out)}
    found = {line: draw(kinds_between(*sizes)) for line, sizes in lines.items()}
    kind = {line: of for line, (of, _) in found.items()}
    readout_of = draw(st.sampled_from([ej.readouts.linear, ej.readouts.leaky]))
    net = ej.Network(
        cell(m, n, w_in=kind["w_in"], w_rec=kind["w_rec"]),
        readout_of(n, n_out, w_out=kind["w_out"]),
    )
    full = ej.Network(cell(m, n), readout_of(n, n_out))
    T, chunk = 4, draw(st.sampled_from([None, 1, 3]))
    rule = draw(
        st.sampled_from([r for r in RULES if r != "snap" and (r != "bptt" or chunk is None)])
    )
    keys = jax.random.split(jax.random.key(draw(st.integers(0, 99))), 3)
    params = jax.tree.map(lambda x: x + 0.05, net.init(keys[0]))
    xs, ys = jax.random.normal(keys[1], (T, 2, m)), jax.random.normal(keys[2], (T, 2, n_out))
    resets = np.array(draw(st.lists(st.booleans(), min_size=T * 2, max_size=T * 2))).reshape(T, 2)

    def as_matrices(p):
        of = lambda p: {k: jax.tree.map(found[k][1], v) if k in found else v for k, v in p.items()}
        return {k: of(v) for k, v in p.items()}

    matrices, tie = jax.vjp(as_matrices, params)
    run = lambda net, p: ej.value_and_grad(rule_of(rule)(net, "symmetric"), chunk=chunk)(
        p, xs, ys, resets=jnp.asarray(resets)
    )
    loss, grads = run(net, params)
    wanted, full_grads = run(full, matrices)
    same(loss, wanted)
    same(grads, tie(full_grads)[0])


@slow
def test_uoro_is_unbiased_whatever_lines_share():
    """Its w̃ has a number a line and unit, and is tied where a gradient is made of it."""
    cell = ej.cells.leaky_rnn(
        4, 4, tau=3.0, gain_rec=1.5, w_in=S.sparse(2), w_rec=S.conv((4, 1), 1, (3,))
    )
    net = ej.Network(cell, ej.readouts.leaky(4, 2, w_out=S.sparse(2)))
    params, keys = net.init(KEY), jax.random.split(jax.random.key(1), 2)
    xs, ys = 2 * jax.random.normal(keys[0], (5, 2, 4)), jax.random.normal(keys[1], (5, 2, 2))
    flat = lambda rule: ravel_pytree(
        ej.value_and_grad(rule(net, ej.losses.squared_error))(params, xs, ys)[1]
    )[0]
    draw = jax.jit(jax.vmap(lambda key: flat(functools.partial(ej.uoro, key=key))))
    draws = np.asarray(draw(jax.random.split(jax.random.key(7), 6000)))
    error = np.abs(draws.mean(0) - flat(ej.rtrl))
    assert (error < 3 * draws.std(0) / len(draws) ** 0.5 + 1e-12).all()
