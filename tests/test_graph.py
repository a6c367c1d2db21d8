"""The computational graph of stacks, against every path of a tiny network, and its drawing."""

import functools
import re

import numpy as np
import pytest

import eprop_jax as ej
from eprop_jax import plotting
from eprop_jax.engine.paths import Moves, Wiring
from eprop_jax.paper import graph, kept

LOSS = ej.losses.squared_error
LANGUAGES = {
    x: x for x in ("i*", "i*f*", "(i|f)*", "(i|e)*f*", "(i|e|f)*", "(i|s)*f*", "ie", "i*fs?")
} | {"order 2": ej.paths.order(2)}
STEPS = 3
# Of layer 0 unit 1 hears unit 0 alone; layer 1 hears all of itself.
SYNAPSES = ({(0, 0), (0, 1)}, {(0, 0), (0, 1), (1, 0), (1, 1)})


@functools.cache
def net(reads=(1,)):
    mask = np.zeros((2, 2), bool)
    mask[tuple(zip(*SYNAPSES[0]))] = True
    cells = [ej.cells.lif(3, 2, connectivity=mask), ej.cells.leaky_rnn(2, 2)]
    return ej.Network(cells, ej.readouts.leaky(2 * len(reads), 1), reads=reads)


@functools.cache
def exact(reads):
    return ej.bptt(net(reads), LOSS)


def rule_of(language, reads=(1,)):
    """A graph is read from the spec alone (and from the carry: none): no engine is built for each."""
    spec = exact(reads).spec._replace(language=LANGUAGES[language])
    return exact(reads)._replace(spec=spec)


def is_kept(language, word):
    """By Python's own regular expressions: a synapse of a unit to itself may be spelt e or s."""
    return re.fullmatch(LANGUAGES[language].replace("e", "[es]"), word) is not None


# -- every path of the network, by hand -----------------------------------------------------------


def onward(node, whole, reads):
    """(letter, next node): nodes are (variable, layer, unit, time)."""
    variable, l, j, t = node
    units, synapses = ((None,), {(None, None)}) if whole else (range(2), SYNAPSES[l])
    if variable == "w":
        return [("", ("c", l, j, s)) for s in range(1, STEPS + 1)]
    if variable == "c":
        later = [("i", ("c", l, j, t + 1))] if t < STEPS else []
        return [("", ("h", l, j, t)), *later]
    if variable == "h":
        out = [("", ("y", 0, 0, t))] if l in reads else []
        out += [("f", ("c", 1, k, t)) for k in units] if l == 0 else []
        for i, k in synapses if t < STEPS else ():
            if i == j:
                letters = "es" if whole else "s" if k == j else "e"
                out += [(x, ("c", l, k, t + 1)) for x in letters]
        return out
    if variable == "y":
        return [("", ("L", 0, 0, t)), *([("", ("y", 0, 0, t + 1))] if t < STEPS else [])]
    return []


@functools.cache
def every_path(whole, reads):
    """[(word, edges)], an edge (source, target, letter)."""
    found, begun = (
        [],
        [("", (), ("w", l, j, 0)) for l in (0, 1) for j in ((None,) if whole else (0, 1))],
    )
    while begun:
        word, edges, node = begun.pop()
        if node[0] == "L":
            found.append((word, edges))
        for x, after in onward(node, whole, reads):
            begun.append((word + x, (*edges, (node, after, x)), after))
    return found


def plain(edge):
    as_tuple = lambda n: (n.variable, n.layer, n.unit, n.time)
    return as_tuple(edge.source), as_tuple(edge.target), edge.letter


@pytest.mark.parametrize("units", [2, None])
@pytest.mark.parametrize(
    "language, reads", [*((x, (1,)) for x in LANGUAGES), ("i*", (0, 1)), ("order 2", (1, 0))]
)
def test_an_edge_is_cut_iff_no_kept_path_has_it(language, reads, units):
    g = graph.unroll(rule_of(language, reads), steps=STEPS, units=units)
    every = every_path(units is None, reads)
    kept = [edges for word, edges in every if is_kept(language, word)]
    assert 0 < len(kept) <= len(every)
    assert {plain(e) for e in g.edges if e.status != "cut"} == {e for path in kept for e in path}
    assert {plain(e) for e in g.edges} == {e for _, path in every for e in path}
    assert {tuple(map(plain, path)) for path in graph.paths(g)} == set(kept)
    jumps = max(sum(x in "es" for x in word) for word, _ in every if is_kept(language, word))
    assert jumps == (STEPS - 1 if g.max_jumps is None else min(g.max_jumps, STEPS - 1))


def walks(layer, longest):
    """(word, layer at its end) of the network without time, for every walk from a layer."""
    found = [("", layer)]
    for word, l in found:
        if len(word) < longest:
            found += [(word + x, l) for x in "ies"] + ([(word + "f", 1)] if l == 0 else [])
    return found


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_edge_is_limited_iff_some_kept_paths_leave_it_out_for_good(language):
    """Of words with at most three letters before the edge and three from there on."""
    g = graph.unroll(rule_of(language), steps=4)
    on = {l: walks(l, 3) for l in (0, 1)}
    ends = lambda word, l, begins: any(
        l_end == 1 and more.startswith(begins) and is_kept(language, word + more)
        for more, l_end in on[l]
    )
    prefixes = [(word, l) for start in (0, 1) for word, l in on[start] if ends(word, l, "")]
    seen = set()
    for edge in g.edges:
        if edge.letter and edge.status != "cut":
            goes_on = {ends(w, l, edge.letter) for w, l in prefixes if l == edge.source.layer}
            assert edge.status == ("kept" if goes_on == {True} else "limited"), edge
            seen.add(edge.status)
    wanted = {"i*": {"kept"}, "(i|f)*": {"kept"}, "(i|e|f)*": {"kept"}, "i*f*": {"kept", "limited"}}
    assert seen == wanted.get(language, seen) and seen


def test_a_path_takes_an_edge_only_where_it_may_still_end():
    """Under i+ a path has an i before it leaves its unit."""
    g = graph.unroll(ej.by_paths(net((0, 1)), LOSS, paths="i+"), steps=STEPS)
    of = lambda kind, t: {e.status for e in g.edges if (e.kind, e.source.time) == (kind, t)}
    for kind, later in (("output", "limited"), ("readout", "kept"), ("loss", "kept")):
        assert [of(kind, t) for t in (1, 2, 3)] == [{"cut"}, {later}, {later}]
    enter = {e.target.time: e.status for e in g.edges if e.kind == "input"}
    assert enter == {1: "kept", 2: "kept", 3: "cut"}


def test_a_layer_that_no_kept_path_leaves_is_cut_whole_and_named():
    g = graph.unroll(ej.eprop(net(), LOSS))
    below = {e.kind: e.status for e in g.edges if e.source.layer == 0 and e.source.variable != "y"}
    assert set(below.values()) == {"cut"} and {"input", "feedforward", "output"} <= below.keys()
    assert {e.status for e in g.edges if e.kind == "implicit" and e.source.layer == 1} == {"kept"}
    assert {l for l, _ in g.unconnected} == {0} and g.carried == ()
    assert graph.unroll(ej.bptt(net(), LOSS)).unconnected == ()


def test_feedback_stands_at_every_layer_and_losses_where_they_are_given():
    g = graph.unroll(
        ej.eprop(net(), LOSS, feedback="random", activity_loss=(lambda f: f.sum(), None))
    )
    at = lambda kind: {(e.source.layer, e.status) for e in g.edges if e.kind == kind}
    assert at("readout") == {(0, "replaced"), (1, "replaced")}
    assert at("activity") == {(0, "kept")} and at("state") == set()
    assert at("feedforward") == {(0, "cut")}


def test_each_layer_has_its_own_components_and_skips_are_edges():
    cells = [ej.cells.alif(3, 4), ej.cells.rnn(4, 5), ej.cells.lstm(9, 6)]
    stack = ej.Network(cells, ej.readouts.linear(6, 2), inputs=[("x",), (0,), (1, 0)])
    g = graph.unroll(ej.bptt(stack, LOSS), steps=2)
    assert g.components[0] == ("v", "a") and [len(x) for x in g.components] == [2, 1, 2]
    assert {(e.source.layer, e.target.layer) for e in g.edges if e.kind == "feedforward"} == {
        (0, 1), (1, 2), (0, 2),
    }  # fmt: skip
    assert {e.source.layer for e in g.edges if e.kind == "implicit"} == {0, 2}  # an rnn has none


def test_the_automaton_of_a_graph_has_what_its_network_can_take():
    of = lambda network, language: graph.automaton(ej.by_paths(network, LOSS, paths=language))
    one = ej.Network(ej.cells.lif(3, 4), ej.readouts.linear(4, 1))
    bptt = ej.paths.prune(ej.paths.compile("(i|e|f)*"), "ies")
    assert of(one, "(i|e)*f*") == of(one, "(i|e|f)*") == bptt
    # Two layers are climbed once.
    two = [ej.cells.linear_recurrence(3, 4), ej.cells.linear_recurrence(4, 5)]
    found = of(ej.Network(two, ej.readouts.linear(5, 1)), ej.paths.order(8))
    assert found.accepting == (True, True)
    assert found.moves == (Moves(i=0, f=1), Moves(i=1))


def test_a_path_may_end_in_a_state_of_which_some_layer_is_heard():
    """After e it stands in the lower layer, since the upper one has no recurrent synapse."""
    wiring = Wiring(("ies", "i"), ((0, 1),), (False, True))
    found = kept.on_network(ej.paths.compile("e?f?"), wiring)
    assert found.moves == (Moves(e=1, s=1, f=2), Moves(f=2), Moves())
    assert found.accepting == (True, False, True)


# -- drawn ----------------------------------------------------------------------------------------

Figure = pytest.importorskip("matplotlib.figure").Figure
backend = pytest.importorskip("matplotlib.backends.backend_agg")


@pytest.fixture
def axes():
    return Figure(figsize=(12, 8), dpi=72).subplots(1, 2, width_ratios=(4, 1))


def arrows(ax):
    return [p for p in ax.patches if hasattr(p, "get_arrowstyle")]


@functools.cache
def skips():
    """Three layers, each of which the one above hears, and a skip and a read past the middle one."""
    cells = [ej.cells.alif(3, 4), ej.cells.leaky_rnn(4, 5), ej.cells.lif(9, 6)]
    stack = ej.Network(cells, ej.readouts.leaky(10, 2), inputs=[("x",), (0,), (1, 0)], reads=(0, 2))
    return ej.by_paths(stack, LOSS, paths="i*f*")


def test_a_stack_is_drawn_with_its_automaton_beside_it(axes):
    rule = skips()
    assert plotting.computational_graph(axes[0], rule, steps=4, beside=axes[1]) is axes[0]
    edges = graph.unroll(rule, steps=4).edges
    shown = [e for e in edges if e.letter != "s"]  # drawn by its e: both are cut
    assert len(shown) < len(edges)
    assert [a.get_label() for a in arrows(axes[0])] == [f"{e.kind} {e.status}" for e in shown]
    texts = [text.get_text() for text in axes[0].texts]
    assert [t for t in texts if t.startswith("layer")] == [
        "layer 0: alif 3 → 4", "layer 1: leaky_rnn 4 → 5", "layer 2: lif 9 → 6",
    ]  # fmt: skip
    assert texts.count("$w$") == 3 * 4 and texts.count("$h^{t-3}$") == 3
    legend = [text.get_text() for text in axes[0].get_legend().get_texts()]
    for words in ("  implicit", "implicit, on some paths only", "explicit, cut"):
        assert any(text.endswith(words) for text in legend), words
    dashes = {a.get_label(): a.get_linestyle() for a in arrows(axes[0])}
    assert dashes["implicit kept"] == "-" != dashes["implicit limited"] != dashes["explicit cut"]
    assert axes[1].get_title() == "i*f*"
    assert {a.get_label() for a in arrows(axes[1])} == {"start", "0 i 0", "0 f 1", "1 f 1"}


def test_a_synapse_of_a_unit_to_itself_has_its_own_arrow_where_it_alone_is_kept(axes):
    plotting.computational_graph(axes[0], rule_of("(i|s)*f*"), steps=2)
    drawn = [a.get_label() for a in arrows(axes[0]) if "explicit" in a.get_label()]
    assert sorted(drawn) == ["explicit cut"] * 2 + ["explicit kept", "explicit limited"]
    legend = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert any(text.endswith("explicit between units, cut") for text in legend)
    assert any(text.endswith("explicit of a unit to itself") for text in legend)


@pytest.mark.parametrize("units", [None, 2])
def test_time_leads_right_layers_lead_up_and_no_arrow_crosses_a_node(axes, units):
    ax = axes[0]
    more = {"activity_loss": lambda f: f.sum(), "state_loss": lambda c: 0.0}
    rule = skips()._replace(spec=skips().spec._replace(**more))
    plotting.computational_graph(ax, rule, steps=3, units=units)
    ax.figure.draw(backend.FigureCanvasAgg(ax.figure).get_renderer())
    discs = [line for line in ax.lines if line.get_marker() == "o"]
    n = units or 1
    assert len(discs) == 3 * (2 * 3 * n + 2)
    centres = np.concatenate([ax.transData.transform(line.get_xydata()) for line in discs])
    radius = discs[0].get_markersize() / 2
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    assert np.min(apart + 1e3 * np.eye(len(discs))) > 2 * radius
    across = 0
    for arrow in arrows(ax) if units is None else ():
        shaft = ax.transData.transform_path(arrow.get_path()).to_polygons(closed_only=False)[0]
        along = np.linspace(0, len(shaft) - 1, 200)
        shaft = np.stack([np.interp(along, np.arange(len(shaft)), x) for x in shaft.T], -1)
        near = np.linalg.norm(shaft[:, None] - centres[None], axis=-1).min(0)
        across += np.sum(near < radius - 1)
    assert across == 0
    words = {}
    for text in ax.texts:
        words.setdefault(text.get_text(), []).append(text.get_position())
    h = "h" if units is None else "h_{1}"
    x, y = zip(*(words[f"${h}^{{{t}}}$"][layer] for t in ("t-2", "t-1", "t") for layer in range(3)))
    assert x[0] == x[1] == x[2] < x[3] == x[5] < x[6]
    assert y[0] < y[1] < y[2] < words["$y^{t}$"][0][1] < words["$L^{t}$"][0][1]


def test_a_rule_that_is_refused_is_drawn_and_says_so(axes):
    plotting.computational_graph(axes[0], ej.eprop(net(), LOSS))
    title = axes[0].get_title()
    assert title == "e-prop: parameters of layer 0 have no path to the loss, refused"


def test_an_automaton_is_drawn_with_its_start_its_moves_and_where_paths_may_end(axes):
    ax = plotting.automaton(axes[1], "i*(e(s|f)i*)?")
    moves = [a.get_label() for a in arrows(ax)]
    assert moves == ["start", "0 i 0", "0 e 1", "1 s,f 2", "2 i 2"]
    rings = {p.get_label() for p in ax.patches if p.get_label().startswith("accepts")}
    assert rings == {"accepts 0", "accepts 2"}
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "i  implicit", "e  explicit", "s  explicit, of a unit to itself", "f  feed-forward",
        "a path may end here",
    ]  # fmt: skip


def test_an_automaton_is_that_of_a_language_or_pruned_to_a_network(axes):
    compiled = ej.paths.compile("(i|e)*f*")
    drawn = lambda what: {a.get_label() for a in arrows(plotting.automaton(axes[1], what))}
    two = {"start", "0 i,e 0", "0 f 1", "1 f 1"}
    assert drawn(compiled) == two
    axes[1].clear()
    assert drawn(rule_of("(i|e)*f*")) == two - {"1 f 1"}  # no third layer
    axes[1].clear()
    one = ej.Network(ej.cells.lif(3, 4), ej.readouts.linear(4, 1))
    assert drawn(ej.by_paths(one, LOSS, paths="(i|e)*f*")) == {"start", "0 i,e 0"}


@pytest.mark.parametrize("up", ["(ie|f)*f?", "(i(e|f(s|i(f)))|f)*"])
def test_moves_of_an_automaton_have_different_places(axes, up):
    ax = plotting.automaton(axes[1], up)
    letters = [t.get_position() for t in ax.texts if set(t.get_text()) <= set("iesf ")]
    assert len(letters) == len(arrows(ax)) - 1 == len(set(letters))


def test_a_stack_shows_at_most_the_units_of_its_smallest_layer(axes):
    with pytest.raises(ValueError, match="units: got 5, wanted at most 4"):
        plotting.computational_graph(axes[0], skips(), units=5)
