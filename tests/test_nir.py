"""NIR graphs as networks, against NumPy's integration of NIR's equations; and written back."""

import pathlib

import jax
import jax.numpy as jnp
import nir_reference as ref
import numpy as np
import pytest
import reference
from nir_graphs import DT, GRAPHS, graph, nir
from pace import quick

import eprop_jax as ej
from eprop_jax.interop.nir import maps, read, write
from eprop_jax.network.synapses import use

T = 25
DATA = pathlib.Path(__file__).parent / "data"


def inputs(net, T=T):
    return np.random.default_rng(1).normal(size=(T, net.n_in))


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("scheme, reset", [("exact", "value"), ("euler", "subtract")])
def test_a_graph_is_what_numpy_integrates(name, scheme, reset):
    given, late = GRAPHS[name]
    net, params = read(given, DT, discretise=scheme, reset=reset)
    xs = inputs(net)
    wanted = ref.run(given, xs, DT, scheme=scheme, reset=reset, late=late)
    found = net.apply(params, jnp.asarray(xs))
    y = wanted["y"].reshape(T, -1)
    assert np.ptp(y) > 0
    np.testing.assert_allclose(found.outputs, y, rtol=1e-10, atol=1e-10)
    for k, node in given.nodes.items():
        if type(node).__name__ in ("LIF", "CubaLIF", "IF", "Threshold"):
            assert np.ptp(wanted[k]) > 0, k  # it spikes, and not always


def test_a_unit_at_its_threshold_is_silent_as_with_numpy():
    one = np.ones(2)
    given = graph(2, 2, "x i, i t, t y", i=nir.IF(one / DT, one), t=nir.Threshold(0.5 * one))
    xs = np.array([[0.5, 1.0], [0.5, 0.25], [0.25, 0.0]])
    net, params = read(given, DT)
    found = net.apply(params, jnp.asarray(xs))
    assert found.activity[0].tolist() == [[0, 0], [0, 1], [1, 0]]
    assert np.array_equal(found.outputs, ref.run(given, xs, DT)["y"])


# -- written back ----------------------------------------------------------------------------------


def same_graph(got, wanted):
    assert list(got.nodes) == list(wanted.nodes)
    assert got.edges == wanted.edges
    for k, node in wanted.nodes.items():
        assert type(got.nodes[k]) is type(node)
        if isinstance(node, nir.NIRGraph):
            same_graph(got.nodes[k], node)
            continue
        for field, value in vars(node).items():
            if field not in ("input_type", "output_type"):
                found = getattr(got.nodes[k], field)
                assert np.array_equal(found, value), (k, field)
                assert np.shape(found) == np.shape(value), (k, field)


@pytest.mark.parametrize("name", GRAPHS)
def test_what_is_read_is_written_back_node_by_node(name):
    given = GRAPHS[name][0]
    net, params = read(given, DT)
    same_graph(write(net, params, DT, like=given), given)
    moved = jax.tree.map(lambda x: 1.5 * x, params)
    again, found = read(write(net, moved, DT, like=given), DT)
    assert repr(again) == repr(net)
    assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), found, moved))


S = ej.synapses
NETS = {  # those whose constants NIR has; what a spike does in them; with which schemes
    "lif": (
        lambda: ej.Network(ej.cells.lif(3, 4, tau_m=[5.0, 9.0, 20.0, 30.0], v_th=0.4, gain_in=2.0),
                           ej.readouts.leaky(4, 2)),
        "subtract_late", ("exact", "euler"),
    ),
    "trained, delayed, scaled": (
        lambda: ej.Network(
            ej.cells.lif(3, 4, tau_m=7.0, v_th=0.1, dt=0.5, gain_in=2.0, scale_input=True,
                         trainable=("tau_m", "v_th"), w_rec=S.delayed(S.dense(), 2)),
            ej.readouts.leaky(4, 2, tau=9.0, scale_input=True, trainable=("tau",), bias=False)),
        "subtract_late", ("exact",),
    ),
    "stack": (
        lambda: ej.Network(
            [ej.cells.cuba_lif(3, 4, r=1.7, v_leak=0.1, v_reset=-0.1, v_th=0.5, gain_in=2.0),
             ej.cells.integrate_fire(7, 5, r=0.6, v_reset=0.1),
             ej.cells.li(9, 4, tau_m=[3.0, 4.0, 5.0, 6.0], r=0.5, v_leak=0.2, trainable=("v_leak",))],
            ej.readouts.linear(9, 2), inputs=[("x",), ("x", 0), (0, 1)], reads=(1, 2)),
        "value", ("euler",),
    ),
    "no leak at all": (
        lambda: ej.Network(ej.cells.lif(3, 4, tau_m=np.inf), ej.readouts.leaky(4, 2, kappa=1.0)),
        "subtract_late", ("exact", "euler"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "name, scheme", [(name, scheme) for name, (_, _, all_) in NETS.items() for scheme in all_]
)
def test_a_network_written_and_read_is_the_same(name, scheme, tmp_path):
    make, reset, _ = NETS[name]
    net = make()
    params = jax.tree.map(
        lambda p: p + 0.1 * np.random.default_rng(2).normal(size=p.shape),
        net.init(jax.random.key(0)),
    )
    dt = 5e-4 if name.startswith("trained") else DT
    nir.write(tmp_path / "net.nir", write(net, params, dt, discretise=scheme, reset=reset))
    same, weights = read(tmp_path / "net.nir", dt, discretise=scheme, reset=reset)
    alone = lambda tree: jax.tree.map(
        lambda p: {k: x for k, x in p.items() if k != "theta"}, tree,
        is_leaf=lambda p: isinstance(p, dict) and ("w_in" in p or "w_out" in p),
    )  # fmt: skip
    got, wanted = jax.tree.leaves_with_path(weights), jax.tree.leaves_with_path(alone(params))
    assert [k for k, _ in got] == [k for k, _ in wanted]
    for (path, a), (_, b) in zip(got, wanted):
        assert np.array_equal(a, b), path
    assert same.inputs == net.inputs and same.reads == net.reads
    xs = jnp.asarray(2 * inputs(net))
    one, two = net.apply(params, xs), same.apply(weights, xs)
    np.testing.assert_allclose(two.outputs, one.outputs, rtol=1e-11, atol=1e-12)
    assert all(np.ptp(h) > 0 for h in jax.tree.leaves(one.activity))


def test_a_synapse_that_does_not_exist_is_written_as_0():
    """Whatever number stands in its place: the network does not hear it."""
    cell = ej.cells.lif(2, 3, v_th=0.3, gain_in=2.0, gain_rec=2.0, self_connections=False)
    net = ej.Network(cell, ej.readouts.leaky(3, 1))
    params = jax.tree.map(lambda p: p + 0.3, net.init(jax.random.key(0)))
    same, weights = read(write(net, params, DT, reset="subtract_late"), DT, reset="subtract_late")
    xs = jax.random.normal(jax.random.key(1), (20, 2, 2))
    one, two = net.apply(params, xs).outputs, same.apply(weights, xs).outputs
    np.testing.assert_allclose(two, one, rtol=1e-11, atol=1e-12)


def test_a_leak_far_from_0_leaves_the_resistance_its_digits():
    """In mV, and in float32: v_leak is a thousand times what a drive of 1 adds."""
    cell = ej.cells.li(2, 3, v_leak=-70.0, scale_input=True)
    net = ej.Network(cell, ej.readouts.linear(3, 1))
    params = jax.tree.map(lambda p: p.astype(jnp.float32), net.init(jax.random.key(0)))
    node = write(net, params, DT).nodes["cell_0"]
    np.testing.assert_allclose(node.r, 1.0, rtol=2e-7)


def test_a_step_of_what_was_read_is_exported():
    """Nothing is registered by hand."""
    pytest.importorskip("flatbuffers", reason="jax.export writes by it")
    net, params = read(GRAPHS["recurrence, two biases"][0], DT)
    rule = ej.eprop(net, ej.losses.squared_error)
    xs, ys = jnp.ones((2, 1, net.n_in)), jnp.ones((2, 1, net.readout.n_out))
    given = params, rule.init(params, (1,)), xs, ys
    blob = jax.export.export(jax.jit(rule.step))(*given).serialize()
    after, _ = jax.export.deserialize(blob).call(*given)
    assert jax.tree.structure(after) == jax.tree.structure(given[1])


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["nested", "convolutions", "convolution of one dimension", "delays"]
)
def test_a_file_is_its_graph(name, tmp_path):
    given = GRAPHS[name][0]
    nir.write(tmp_path / "a.nir", given)
    net, params = read(tmp_path / "a.nir", DT)
    wanted = read(given, DT)[1]
    assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), params, wanted))
    written = write(net, params, DT, like=tmp_path / "a.nir")
    nir.write(tmp_path / "b.nir", written)
    # nir's own check of types takes a kernel for square.
    one, two = (nir.read(tmp_path / f"{k}.nir", type_check=False) for k in "ba")
    same_graph(one, two)


def test_a_file_of_snntorch_is_what_snntorch_and_numpy_make_of_it():
    """snnTorch 1.0.0 with nirtorch 2.6 and nir 1.0.8 (tests/data/snntorch_graph.py): dt=0.1 ms, Euler,
    reset by subtraction at the next step."""
    run = np.load(DATA / "snntorch.npz")
    says = dict(discretise="euler", reset="subtract_late")
    net, params = read(DATA / "snntorch.nir", 1e-4, **says)
    assert repr(net) == "Network([CubaLIF 4 -> 6, LIF 6 -> 3], linear 3 -> 3)"
    found = net.apply(params, jnp.asarray(run["xs"], float))
    assert np.array_equal(found.outputs, run["spikes"])
    assert np.all(np.ptp(run["spikes"], 0) > 0)
    given = nir.read(DATA / "snntorch.nir")
    late = {("1.lif", "1.w_rec")}
    wanted = ref.run(given, run["xs"], 1e-4, scheme="euler", reset="subtract_late", late=late)
    np.testing.assert_allclose(found.outputs, wanted["output"], rtol=1e-10)
    np.testing.assert_allclose(found.activity[0], wanted["1.lif"], rtol=1e-10)


# -- learning --------------------------------------------------------------------------------------


def integrate(given, params, xs, cut):
    """The graph "recurrence, two biases" by hand; e-prop's cut where `cut`."""
    l, o = given.nodes["l"], given.nodes["o"]
    p, out = params["cell"], params["readout"]
    alpha, kappa = np.exp(-DT / l.tau), np.exp(-DT / o.tau)
    width = np.abs(l.v_threshold)
    psi = lambda x: 0.3 / width * jnp.maximum(0.0, 1 - jnp.abs(x) / width)
    v, z, y, ys = jnp.zeros(5), jnp.zeros(5), jnp.zeros(2), []
    for x in xs:
        heard = jax.lax.stop_gradient(z) if cut else z
        a = x @ p["w_in"]["in"] + p["bias"]["in"] + heard @ p["w_rec"]["rec"] + p["bias"]["rec"]
        v = v + jax.lax.stop_gradient(z) * (l.v_reset - v)
        v = l.v_leak + alpha * (v - l.v_leak) + (1 - alpha) * l.r * a
        z = reference.spike(v - l.v_threshold, psi)
        y = o.v_leak + kappa * (y - o.v_leak)
        y = y + (1 - kappa) * o.r * (z @ out["w_out"] + out["bias"])
        ys.append(y)
    return jnp.stack(ys)


@pytest.mark.parametrize("rule, cut", [(ej.bptt, False), (ej.eprop, True)])
def test_a_network_that_was_read_learns_as_autodiff_says(rule, cut):
    given = GRAPHS["recurrence, two biases"][0]
    net, params = read(given, DT)
    xs = jnp.asarray(inputs(net, 12))
    ys = jnp.zeros((12, 2))
    loss = lambda p: 0.5 * jnp.sum((integrate(given, p, xs, cut) - ys) ** 2)
    f = ej.value_and_grad(rule(net, ej.losses.squared_error))
    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    found, got = f(params, xs, ys)
    assert float(found) == pytest.approx(float(value), rel=1e-12)
    reference.assert_same(got, grads)
    p = params
    for _ in range(20):
        now, g = f(p, xs, ys)
        p = jax.tree.map(lambda p, g: p - 0.05 * g, p, g)
    assert now < 0.8 * found


@pytest.mark.parametrize(
    "name",
    quick(
        ["convolutions", "delays", "skips", "edges without maps", "thresholds and scales"],
        "edges without maps",
    ),
)  # fmt: skip
def test_the_synapses_of_a_graph_have_their_gradients(name):
    wide = ej.surrogates.fast_sigmoid(0.3, 2.0)
    net, params = read(GRAPHS[name][0], DT, surrogate=wide)
    xs, ys = jnp.asarray(inputs(net, 12)), jnp.zeros((12, net.readout.n_out))
    loss = lambda p: 0.5 * jnp.sum((net.apply(p, xs).outputs - ys) ** 2)
    wanted = jax.jit(jax.grad(loss))(params)
    exact = ej.value_and_grad(ej.bptt(net, ej.losses.squared_error))(params, xs, ys)[1]
    reference.assert_same(exact, wanted)
    assert all(np.any(g != 0) for g in jax.tree.leaves(wanted) if g.size)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convolution of one dimension", "edges without maps"])
def test_traces_over_the_synapses_of_a_graph_are_the_sweep_over_them(name):
    wide = ej.surrogates.fast_sigmoid(0.3, 2.0)
    net, params = read(GRAPHS[name][0], DT, surrogate=wide)
    xs, ys = jnp.asarray(inputs(net, 6)), jnp.zeros((6, net.readout.n_out))
    rule = ej.by_paths(net, ej.losses.squared_error, paths="i*f*")
    sweep, traces = (ej.value_and_grad(rule, chunk=k)(params, xs, ys) for k in (None, 2))
    reference.assert_same(traces, sweep)


KINDS = {
    "as is": (maps.as_is, 4, 4),
    "scaled": (maps.scaled, 4, 4),
    "sums": (maps.hearing(S.dense(), maps.Sums(np.array([[0, 2], [1, -1], [3, 3]]),
                                               np.array([[0, 0], [2, 0], [1, 0]]), 0.5)), 4, 5),
    "ordered": (maps.hearing(S.conv((5, 2), 3, (2,), padding="VALID"), maps.plain(10),
                             np.arange(12).reshape(4, 3).T.ravel()), 10, 12),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_what_its_drive_says(name):
    kind, n_pre, n_post = KINDS[name]
    s = kind(n_pre, n_post)
    w = s.init(jax.random.key(0), 1.0)
    pre = jax.random.normal(jax.random.key(1), (3, (1 + s.delay) * n_pre))
    da = jax.random.normal(jax.random.key(2), (3, n_post))

    @jax.jit
    def both(w, pre, da):
        """What the kind says, and what its drive does."""
        driven, pull = jax.vjp(s.drive, w, pre)
        seen, line = s.view(pre), jnp.zeros((s.view(pre).shape[1], n_post))
        lines = jax.vjp(s.tie, line)[1](w)[0]
        said = (seen * lines[None]).sum(1), use.collect(s, pre, da), use.transposed(s)(w, da)
        return said, (driven, *pull(da))

    said, does = both(w, pre, da)
    first = 0 if len(w) else 1  # what has no weights has no lines of them
    for one, other in list(zip(said, does))[first:]:
        np.testing.assert_allclose(one, other, **NEAR)


NEAR = dict(rtol=1e-12, atol=1e-12)
