"""What cannot be read or written as a NIR graph is refused, by the node's name or the layer's."""

import jax
import numpy as np
import pytest
from nir_graphs import DT, GRAPHS, affine, graph, lif, linear, nir

import eprop_jax as ej
from eprop_jax.interop.nir import read, write

S = ej.synapses


def with_node(name, **fields):
    """The graph "recurrence, two biases" with something else in a node."""
    node = nir.LIF(**{k: getattr(GRAPHS["recurrence, two biases"][0].nodes["l"], k) for k in (
        "tau", "r", "v_leak", "v_threshold", "v_reset")})  # fmt: skip
    for field, value in fields.items():
        setattr(node, field, value)
    return graph(3, 5, f"x a, a {name}, {name} y", a=affine(3, 5), **{name: node})


class Foreign(nir.LIF):
    pass


FOREIGN = Foreign(*[np.ones(3)] * 4)
CONV = dict(input_shape=4, weight=np.ones((1, 1, 2)), stride=1, padding=0, bias=np.zeros(1))
WRONG = {
    "a node of no kind": (graph(3, 3, "x q, q y", q=FOREIGN), "q", "Foreign"),
    "a node in a nested graph": (
        graph(3, 3, "x r, r y", r=graph(3, 3, "x q, q y", q=FOREIGN)), "r.q", "Foreign"),
    "a nested node's name": (
        graph(3, 3, "x r, r y, x r.i, r.i y", r=graph(3, 3, "x i, i y", i=lif(3)), **{"r.i": lif(3)}),
        "r.i", "two nodes"),
    "weights before a delay, in a loop": (
        graph(3, 3, "x l, l w, w d, d l, l y", l=lif(3), w=linear(3, 3), d=nir.Delay(np.full(3, DT))),
        "l", "'l', 'w'"),
    "no node": (graph(3, 5, "x a, a q, a y", a=affine(3, 5)), "q", "edge"),
    "twice": (graph(3, 5, "x a, x a, a y", a=affine(3, 5)), "a", "two edges"),
    "no way from the Input": (graph(3, 5, "x a, a y, b y", a=affine(3, 5), b=lif(5)), "b", "Input"),
    "no way to the Output": (graph(3, 5, "x a, a y, a b", a=affine(3, 5), b=lif(5)), "b", "Output"),
    "sizes": (graph(3, 4, "x a, a l, l y", a=affine(3, 5), l=lif(4)), "l", "(5,)"),
    "weights": (graph(3, 5, "x a, a y", a=affine(4, 5)), "a", "(3,)"),
    "two sizes": (
        graph(3, 5, "x a, a l, x l, l y", a=affine(3, 5), l=lif(5)), "l", "(3,)"),
    "the Output's size": (graph(3, 4, "x a, a l, l y", a=affine(3, 5), l=lif(5)), "y", "(5,)"),
    "two Inputs": (
        graph(3, 5, "x a, u a, a l, l y", a=affine(3, 5), l=lif(5), u=nir.Input([3])), "u", "2 nodes"),
    "a loop over two neurons": (
        graph(5, 5, "x l, l m, m l, m y", l=lif(5), m=lif(5)), "l", "'l', 'm'"),
    "a loop of maps": (
        graph(5, 5, "x a, a b, b a, b y", a=linear(5, 5), b=linear(5, 5)), "a", "'a', 'b'"),
    "two ways to itself": (
        graph(5, 5, "x l, l a, a l, l b, b l, l y", l=lif(5), a=linear(5, 5), b=linear(5, 5)),
        "l", "2 ways"),
    "the Input alone": (graph(3, 3, "x y"), "y", "between"),
    "tau": (with_node("l", tau=np.array([1.0, 1, 1, 1, 0]) * DT), "l", "tau"),
    "nan": (with_node("l", r=np.full(5, np.nan)), "l", "finite"),
    "shapes": (with_node("l", r=np.ones(4)), "l", "shapes"),
    "groups": (graph((1, 4), (1, 3), "x c, c y", c=nir.Conv1d(dilation=1, groups=2, **CONV)),
               "c", "groups"),
    "dilation": (graph((1, 4), (1, 3), "x c, c y", c=nir.Conv1d(dilation=2, groups=1, **CONV)),
                 "c", "dilation"),
    "delay": (graph(3, 3, "x d, d l, l y", d=nir.Delay(np.full(3, 1.5 * DT)), l=lif(3)), "d", "0.0015"),
    "a delay of the future": (
        graph(3, 3, "x d, d l, l y", d=nir.Delay(np.full(3, -DT)), l=lif(3)), "d", "0 on"),
    "weights nan": (
        graph(3, 5, "x a, a l, l y", a=nir.Linear(np.full((5, 3), np.nan)), l=lif(5)), "a", "finite"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_refused_by_the_nodes_name(name):
    given, node, word = WRONG[name]
    with pytest.raises(ValueError) as refusal:
        read(given, DT)
    message = str(refusal.value)
    assert message.startswith(f"graph['{node}']: got "), message
    assert "wanted" in message and word in message, message


def test_euler_is_refused_where_it_runs_away():
    with pytest.raises(ValueError, match=r"graph\['l'\]: got tau.*wanted dt ≤ 2 τ"):
        read(with_node("l", tau=np.full(5, 0.4 * DT)), DT, discretise="euler")
    read(with_node("l", tau=np.full(5, 0.4 * DT)), DT)


def test_a_bias_that_a_convolution_cannot_have_is_not_written():
    given = GRAPHS["convolutions"][0]
    net, params = read(given, DT)
    params["cell"][0]["bias"] = params["cell"][0]["bias"].at[0].add(1.0)
    with pytest.raises(ValueError, match=r"graph\['c'\]: got a bias that differs between places"):
        write(net, params, DT, like=given)


def test_the_parameters_of_another_graph_are_not_written():
    net, params = read(GRAPHS["nested"][0], DT)
    with pytest.raises(ValueError, match=r"like: .*wanted the one that net was read from"):
        write(net, params, DT, like=GRAPHS["skips"][0])


@pytest.mark.parametrize(
    "cell, says, words",
    [
        (lambda: ej.cells.gru(3, 4), {}, ("net", "gru", "layer 0")),
        (lambda: ej.cells.lif(3, 4), {}, ("reset", "'value'", "'subtract_late'")),
        (lambda: ej.cells.integrate_fire(3, 4, v_reset=0.0), {"reset": "subtract"},
         ("reset", "'subtract'", "'value'")),
        (lambda: ej.cells.lif(3, 4, refractory=3), {"reset": "subtract_late"},
         ("net", "refractory", "layer 0")),
        (lambda: ej.cells.cuba_lif(3, 4, v_reset=0.0), {}, ("discretise", "'exact'", "'euler'")),
        (lambda: ej.cells.li(3, 4, w_rec=S.sparse(2)), {}, ("net", "sparse", "w_rec of cell_0")),
        (lambda: ej.cells.li(3, 4, alpha=0.0), {}, ("net", "decay", "between 0 and 1")),
        (lambda: ej.cells.li(3, 4, trainable=("initial",)), {}, ("net", "initial", "none")),
    ],
)  # fmt: skip
def test_what_nir_does_not_have_is_not_written(cell, says, words):
    net = ej.Network(cell(), ej.readouts.linear(4, 2))
    with pytest.raises(ValueError) as refusal:
        write(net, net.init(jax.random.key(0)), DT, **says)
    assert str(refusal.value).startswith(f"{words[0]}: got "), refusal.value
    assert all(word in str(refusal.value) for word in words), refusal.value


def test_a_file_that_is_not_there_is_refused_by_its_path(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"graph: got '.*none\.nir', .* wanted a nir\.NIRGraph"
    ):
        read(tmp_path / "none.nir", DT)
