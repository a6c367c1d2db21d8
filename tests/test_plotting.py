"""The pictures: what is drawn where, what is refused, and that the computational graph is true."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import problem
from jax.flatten_util import ravel_pytree

import eprop_jax as ej
from eprop_jax import equations, plotting
from eprop_jax.paper import graph

Figure = pytest.importorskip("matplotlib.figure").Figure
backend = pytest.importorskip("matplotlib.backends.backend_agg")
LOSS = ej.losses.squared_error


@pytest.fixture
def ax():
    return Figure(figsize=(8, 6), dpi=72).subplots()  # a pixel is a point


def points(line):
    return [tuple(map(float, xy)) for xy in zip(*line.get_data())]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


# -- over time ------------------------------------------------------------------------------------


def test_raster_draws_a_mark_a_spike_and_the_inputs_in_a_band_below(ax):
    spikes = np.zeros((5, 10))
    spikes[1, 3] = spikes[4, 9] = 1
    inputs = np.zeros((5, 2))
    inputs[2, 0] = inputs[3, 1] = 1
    plotting.raster(ax, spikes, dt=2.0, inputs=inputs)
    band, units = (line for line in ax.lines if line.get_marker() == "|")
    assert points(units) == [(2.0, 3.0), (8.0, 9.0)]
    assert [t for t, _ in points(band)] == [4.0, 6.0]
    low, high = ax.get_ylim()
    first, second = (y for _, y in points(band))
    assert low < second < first < -1 and high > 9
    assert band.get_color() != units.get_color()
    assert [text.get_text() for text in ax.get_yticklabels()][-1] == "2 inputs"


def test_membrane_draws_the_voltage_the_moving_threshold_and_the_spikes(ax):
    plotting.membrane(ax, [0.5, 1.2, 0.1], [1.0, 1.0, 1.4], [0, 1, 0], dt=2.0)
    v, threshold, spikes = ax.lines
    assert points(v) == [(0.0, 0.5), (2.0, 1.2), (4.0, 0.1)]
    assert points(threshold) == [(0.0, 1.0), (2.0, 1.0), (4.0, 1.4)]
    ((t, y),) = points(spikes)
    assert t == 2.0 and 1.4 < y < ax.get_ylim()[1]
    plotting.membrane(ax, [0.5, 1.2], 1.0)
    assert points(ax.lines[-1]) == [(0.0, 1.0), (1.0, 1.0)]


def test_targets_are_dashed_and_steps_without_weight_are_shaded(ax):
    outputs, wanted = np.arange(10.0).reshape(5, 2), np.ones((5, 2))
    plotting.targets(ax, outputs, wanted, dt=2.0, mask=[0, 0, 1, 0.5, 0])
    y_0, target_0, y_1, target_1 = ax.lines
    assert points(y_1)[2] == (4.0, 5.0) and points(target_1)[2] == (4.0, 1.0)
    assert (y_0.get_linestyle(), target_0.get_linestyle()) == ("-", "--")
    assert y_0.get_color() == target_0.get_color() != y_1.get_color()
    # A span is a polygon before matplotlib 3.9, and a rectangle from then on.
    outlines = [p.get_patch_transform().transform_path(p.get_path()) for p in ax.patches]
    shaded = [(x.vertices[:, 0].min(), x.vertices[:, 0].max()) for x in outlines]
    assert shaded == [(-1.0, 3.0), (7.0, 9.0)]
    assert legend(ax) == ["output 0", "target 0", "output 1", "target 1", "not scored"]


def test_learning_signals_have_a_line_a_unit_and_one_at_zero(ax):
    plotting.learning_signals(ax, [[0.0, 1.0], [2.0, 3.0]], ["a", "b"], dt=0.5, digits=[(0.5, "x")])
    zero, a, b, part = ax.lines
    assert set(zero.get_ydata()) == {0.0}
    assert points(a) == [(0.0, 0.0), (0.5, 2.0)] and points(b) == [(0.0, 1.0), (0.5, 3.0)]
    assert set(part.get_xdata()) == {0.25} and legend(ax) == ["a", "b"]


# -- curves ---------------------------------------------------------------------------------------


def test_learning_curves_draw_the_mean_and_the_range_over_seeds(ax):
    loss = np.array([[4.0, 1.0], [2.0, 3.0]])
    plotting.learning_curves(ax, [1, 2], {"BPTT": loss}, label="loss", yscale="log")
    (mean,) = ax.lines
    assert points(mean) == [(1.0, 3.0), (2.0, 2.0)]
    corners = {tuple(map(float, xy)) for xy in ax.collections[0].get_paths()[0].vertices}
    assert {(1.0, 4.0), (1.0, 2.0), (2.0, 3.0), (2.0, 1.0)} <= corners
    assert (ax.get_ylabel(), ax.get_yscale()) == ("loss", "log")


def test_learning_curves_are_accuracies_in_percent_unless_named(ax):
    plotting.learning_curves(ax, [1, 2], {"BPTT": [[0.5, 0.75]]})
    assert points(ax.lines[0]) == [(1.0, 50.0), (2.0, 75.0)]
    assert ax.get_ylabel() == "test accuracy (%)" and ax.get_yscale() == "linear"


def test_many_points_are_a_line_without_marks(ax):
    for n, mark in ((25, "o"), (26, "")):
        plotting.learning_curves(ax, range(n), {"BPTT": np.ones((1, n))}, label="loss")
        assert ax.lines[-1].get_marker() == mark


def test_a_curve_of_many_pauses_is_some_points_with_their_range():
    from eprop_jax.cli import runs

    rng = np.random.default_rng(0)
    loss = rng.random(200)
    size = -(-200 // runs.POINTS)
    found = runs.points(loss.tolist(), size)
    assert found.shape == (5, 40)
    for k in (0, 7, 39):
        assert sorted(found[:, k]) == sorted(loss[5 * k : 5 * k + 5])
    assert runs.points([3.0, 1.0, 2.0], 1).tolist() == [[3.0, 1.0, 2.0]]


def ended_at(cell, **accuracies):
    """Results of the demo as if the rules had ended so."""
    from eprop_jax.cli import demo

    steps = np.arange(1, 21)
    curve = lambda end: end - 0.8 * np.exp(-steps / 3) * np.ones((2, 1))
    none = dict.fromkeys(demo.Result._fields)
    return [
        demo.Result(**none | {"cell": cell, "name": name.replace("_", " "), "steps": steps,
                              "curve": curve(end), "accuracy": curve(end)[:, -1]})
        for name, end in accuracies.items()
    ]  # fmt: skip


def test_a_frozen_layer_does_not_squeeze_the_rules_together(ax):
    from eprop_jax.plotting.figures import error_curves as draw

    draw(ax, ended_at("gru", BPTT=0.98, e_prop=0.96, all_right=1.0, frozen_layer=0.5))
    height = ax.get_window_extent().height
    ends = [ax.transData.transform(line.get_xydata()[-1])[1] for line in ax.lines]
    exact, local, right, frozen = ends
    assert frozen > local > exact > right and local - exact > 0.05 * height
    assert [line.get_ydata()[-1] for line in ax.lines[:2]] == pytest.approx([2.1, 4.1], abs=0.2)


def test_every_panel_of_the_demo_names_task_and_cell_and_who_trained():
    from eprop_jax.cli import demo
    from eprop_jax.plotting.figures import demo_panels
    from eprop_jax.run.compare import Fidelity

    some = Fidelity(*np.full((len(Fidelity._fields), 2, 2), 0.5))
    by_order = demo.OrderFidelity((1, 2), some, some)
    results = {"gru": ended_at("gru", order_4=0.9, BPTT=0.9), "alif": ended_at("alif", BPTT=0.9)}
    seen = demo.Recording(np.ones((6, 4)), np.ones((6, 1)), [(0, 1)], 3, [3, 5])
    panels = demo_panels(results, {"gru": by_order, "alif": by_order}, seen)
    assert len(panels) == 6
    for title, _ in panels:
        assert title.startswith("digits, ") and ("GRU" in title or "ALIF" in title)
    assert [title.endswith("trained by BPTT") for title, _ in panels] == 4 * [False] + 2 * [True]
    for _, draw in panels[2:4]:
        assert legend(draw(Figure().subplots())) == [
            "GRU, untrained", "GRU, trained by order 4", "ALIF, untrained", "ALIF, trained by BPTT",
        ]  # fmt: skip


@pytest.mark.parametrize(
    "draw, message",
    [
        (lambda ax: plotting.raster(ax, [1.0]), r"spikes: got shape \[1\], wanted 2 axes"),
        (lambda ax: plotting.raster(ax, np.ones((3, 2)), inputs=np.ones((4, 2))),
         "inputs: got 4 steps, wanted 3"),
        (lambda ax: plotting.traces(ax, [[0.0, 1.0]], ["one"]), "labels: got 1, wanted 2"),
        (lambda ax: plotting.learning_signals(ax, [0.0], ["one"]), "L: got shape"),
        (lambda ax: plotting.membrane(ax, [[0.0]], 1.0), "v: got shape"),
        (lambda ax: plotting.membrane(ax, [0.0, 1.0], [1.0]), "threshold: got shape"),
        (lambda ax: plotting.membrane(ax, [0.0], 1.0, [0, 1]), r"spikes: got .* wanted \[1\]"),
        (lambda ax: plotting.targets(ax, np.ones((3, 2)), np.ones((3, 1))), "targets: got shape"),
        (lambda ax: plotting.targets(ax, np.ones((3, 2)), np.ones((3, 2)), mask=[1]), "mask: got"),
        (lambda ax: plotting.fidelity(ax, {"x": ([1], [[1.0]])}, quantity="angle"),
         "quantity: got 'angle'"),
        (lambda ax: plotting.learning_curves(ax, [1, 2, 3], {"x": [[0.5]]}), "wanted 3"),
        (lambda ax: plotting.learning_curves(ax, [1], {"x": [[0.0]]}, yscale="log"), "positive"),
        (lambda ax: plotting.learning_curves(ax, [1], {"x": [[0.5]]}, yscale="logit"), "yscale: got"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(ax, draw, message):
    with pytest.raises(ValueError, match=message):
        draw(ax)


# -- the computational graph ----------------------------------------------------------------------


def network(cell="alif", readout="leaky"):
    return problem(cell, readout, n=3, T=3, batch=()).net


def statuses(g, kind):
    return {edge.status for edge in g.edges if edge.kind == kind}


def test_the_graph_has_the_edges_that_the_network_has():
    def kinds(cell, readout):
        return set(graph.unroll(ej.bptt(network(cell, readout), LOSS)).kinds)

    every = {"input", "implicit", "explicit", "output", "readout", "readout_recurrence", "loss"}
    assert kinds("alif", "leaky") == every
    assert kinds("alif", "linear") == every - {"readout_recurrence"}
    assert kinds("rnn", "leaky") == every - {"implicit"}
    assert kinds("linear_recurrence", "leaky") == every - {"explicit"}
    assert kinds("alif, all trained", "leaky") == every | {"direct"}


def test_the_graph_counts_its_edges_and_names_the_components_they_join():
    g = graph.unroll(ej.bptt(network(), LOSS), steps=4, units=3, outputs=2)
    assert Counter(edge.kind for edge in g.edges) == {
        "input": 4 * 3, "implicit": 3 * 3, "explicit": 3 * 9, "output": 4 * 3, "readout": 4 * 6,
        "readout_recurrence": 3 * 2, "loss": 4 * 2,
    }  # fmt: skip
    joins = {edge.kind: edge.components for edge in g.edges}
    assert g.components == ("v", "a")
    assert joins["implicit"] == ("v → v", "v → a", "a → a")  # no a → v: the reset has no gradient
    assert joins["input"] == joins["explicit"] == ("v",) and joins["output"] == ("v", "a")


def test_connectivity_removes_explicit_edges():
    mask = np.array([[False, True], [False, False]])  # 0 → 1 alone
    net = ej.Network(ej.cells.lif(1, 2, connectivity=mask), ej.readouts.linear(2, 1))
    g = graph.unroll(ej.bptt(net, LOSS), steps=2)
    explicit = [(e.source.unit, e.target.unit) for e in g.edges if e.kind == "explicit"]
    assert explicit == [(0, 1)]


def test_what_a_rule_does_with_the_edges_is_read_from_its_spec_and_its_carry():
    net = network()
    for rule, explicit, readout, jumps, carried in (
        (ej.bptt(net, LOSS), "kept", "kept", None, ()),
        (ej.rtrl(net, LOSS), "kept", "kept", None, ("alpha", "gamma")),
        (ej.eprop(net, LOSS), "cut", "kept", 0, ("epsilon", "gamma")),
        (ej.eprop(net, LOSS, feedback="random"), "cut", "replaced", 0, ("epsilon", "gamma")),
        (ej.m_order_eprop(net, LOSS, order=3, feedback="adaptive"), "limited", "replaced", 2,
         ("epsilon", "beta", "gamma")),
    ):  # fmt: skip
        g = graph.unroll(rule)
        assert statuses(g, "explicit") == {explicit} and statuses(g, "readout") == {readout}
        assert statuses(g, "implicit") == statuses(g, "output") == {"kept"}
        assert (g.max_jumps, g.carried) == (jumps, carried)


def product_along(path, d, dL_dy, dL_dh, B_over_w):
    """The local derivatives of one path, multiplied from w to L: its share of dL/dp, [P]."""
    value = None
    for edge in path:
        i, (_, j, t, _) = edge.source.unit, edge.target
        match edge.kind:
            case "input":
                value = d.dc_dp[t, j]
            case "direct":
                value = d.dh_dp[t, j]
            case "implicit":
                value = d.dc_dc[t, j] @ value
            case "explicit":
                value = np.outer(d.dc_dh[t, j, :, i], value)
            case "output":
                value = d.dh_dc[t, j] @ value
            case "readout":
                value = d.dy_dh[t, j, i] * value
                value = value * B_over_w[i, j] if edge.status == "replaced" else value
            case "readout_recurrence":
                value = d.dy_dy[t, j] * value
            case "loss":
                value = dL_dy[t, i] * value
            case "activity":
                value = dL_dh[i] * value
            case "state":
                value = 0.7 * value[0]
    return value


def activity(f):
    return jnp.sum((f - 0.3) ** 2)


DIRECT = {"activity_loss": activity, "state_loss": lambda c: 0.7 * c}


RULES = {
    "BPTT": ej.bptt,
    "RTRL": ej.rtrl,
    "e-prop": ej.eprop,
    "order 2": lambda net, loss, **o: ej.m_order_eprop(net, loss, order=2, **o),
    "random": lambda net, loss, **o: ej.eprop(net, loss, feedback="random", **o),
    "order 2, random": lambda net, loss, **o: ej.m_order_eprop(
        net, loss, order=2, feedback="random", **o
    ),
}


@pytest.mark.parametrize(
    "cell, readout, rules, options",
    [
        pytest.param(
            "alif", "leaky", ("RTRL", "e-prop", "order 2", "random"), {}, marks=pytest.mark.slow
        ),
        ("alif, all trained", "leaky", ("order 2",), {}),
        ("rnn", "linear", ("order 2, random",), DIRECT),
        ("lstm", "custom", ("BPTT",), {}),
        ("linear_recurrence", "linear", ("e-prop",), {}),
    ],
)
def test_the_paths_of_the_graph_sum_to_the_gradient_of_the_rule(cell, readout, rules, options):
    p = problem(cell, readout, n=2, T=3, batch=(), seed=3)
    d = equations.local_derivatives(p.net, p.params, p.xs)
    per_step = jax.vmap(jax.grad(lambda y, target: jnp.sum(LOSS(y, target))))
    dL_dy = np.concatenate([np.zeros((1, 2)), per_step(jnp.asarray(d.y[1:]), p.ys)])
    B = ej.feedback.init(jax.random.key(1), p.net)
    for name in rules:
        rule = RULES[name](p.net, LOSS, **options)
        params = {**p.params, "feedback": B} if "random" in name else p.params
        (_, out), grads = ej.value_and_grad(rule, has_aux=True)(params, p.xs, p.ys)
        dL_dh = np.asarray(jax.grad(activity)(out.activity.mean(0))) / 3

        g = graph.unroll(rule, steps=3, units=2, outputs=2)
        assert ("activity" in g.kinds) == ("state" in g.kinds) == bool(options)
        factors = (d, dL_dy, dL_dh, np.asarray(B / p.params["readout"]["w_out"]))
        total = sum(product_along(path, *factors) for path in graph.paths(g))
        got, _ = ravel_pytree(grads["cell"])
        np.testing.assert_allclose(total, got, rtol=1e-10, atol=1e-12)
        assert np.linalg.norm(got) > 1e-3

        # and it is the cut that makes the difference
        uncut = g._replace(
            automaton=ej.paths.compile("(i|e|f)*"),
            edges=tuple(e._replace(status="kept") for e in g.edges),
        )
        total = sum(product_along(path, *factors) for path in graph.paths(uncut))
        exact = name in ("BPTT", "RTRL") or cell == "linear_recurrence"
        assert np.allclose(total, got, rtol=1e-6, atol=1e-8) == exact
        assert {e for path in graph.paths(uncut) for e in path} == set(uncut.edges)


def test_the_graph_refuses_what_is_no_rule_and_more_than_there_is():
    rule = ej.bptt(network(), LOSS)
    with pytest.raises(TypeError, match="rule: got function"):
        graph.unroll(ej.bptt)
    with pytest.raises(TypeError, match="rule: got LearningRule"):
        graph.unroll(rule._replace(spec=None))
    with pytest.raises(ValueError, match="units: got 4, wanted at most 3"):
        graph.unroll(rule, units=4)
    with pytest.raises(ValueError, match="outputs: got 3, wanted at most 2"):
        graph.unroll(rule, outputs=3)
    with pytest.raises(ValueError, match="steps: got 0"):
        graph.unroll(rule, steps=0)


def test_every_edge_is_one_arrow_in_the_look_of_its_kind_and_status(ax):
    rule = ej.eprop(network(), LOSS, feedback="random")
    plotting.computational_graph(ax, rule)
    arrows = [p for p in ax.patches if " " in p.get_label()]
    edges = graph.unroll(rule).edges
    assert [a.get_label() for a in arrows] == [f"{e.kind} {e.status}" for e in edges]
    colours = {a.get_label(): a.get_edgecolor() for a in arrows}
    assert len(set(colours.values())) == len(colours) - 1  # the loss is black, as the input is
    r, g, b, _ = colours["explicit cut"]
    assert r == g == b
    dashes = {a.get_label(): a.get_linestyle() for a in arrows}
    assert dashes["implicit kept"] == "-"
    assert dashes["explicit cut"] != dashes["readout replaced"] != "-"
    texts = [text.get_text() for text in ax.texts]
    assert texts.count("$B$") == Counter(e.kind for e in edges)["readout"]
    assert r"$\epsilon^{t-1}$" in texts and r"$\gamma^{t-1}$" in texts
    assert ax.get_title() == "e-prop, random feedback: carries ε, γ"
    assert any("h^{t-1}" in text and text.endswith("explicit, cut") for text in legend(ax))


@pytest.mark.parametrize("name", ["BPTT", "order 2", "random"])
def test_the_picture_reads_from_left_to_right_and_nothing_covers_a_node(ax, name):
    plotting.computational_graph(ax, RULES[name](network(), LOSS))
    renderer = backend.FigureCanvasAgg(ax.figure).get_renderer()
    ax.figure.draw(renderer)
    discs = [line for line in ax.lines if line.get_marker() == "o"]
    centres = np.concatenate([ax.transData.transform(line.get_xydata()) for line in discs])
    radius = discs[0].get_markersize() / 2
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    assert len(discs) == 3 * 6 and np.min(apart + 1e3 * np.eye(18)) > 2 * radius
    tags = [t for t in ax.texts if t.get_bbox_patch() is not None]
    boxes = [t.get_window_extent(renderer) for t in tags]
    assert bool(tags) == (name != "BPTT")
    for box in boxes:
        nearest = np.clip(centres, [box.x0, box.y0], [box.x1, box.y1])
        assert np.min(np.linalg.norm(nearest - centres, axis=-1)) > radius
        assert sum(box.overlaps(other) for other in boxes) == 1
    words = {t.get_text(): t.get_position() for t in ax.texts}
    x, y = zip(*(words[f"$h_{{1}}^{{{t}}}$"] for t in ("t-2", "t-1", "t")))
    assert x[0] < x[1] < x[2] and len(set(y)) == 1
    up = [words[label][1] for label in ("$c_{1}^{t}$", "$h_{1}^{t}$", "$y^{t}$", "$L^{t}$")]
    assert up == sorted(up)
