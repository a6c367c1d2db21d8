"""NIR graphs of the suite, each with the edges that are heard one step late. A test file that imports
them is skipped where nir is not installed."""

import numpy as np
import pytest

nir = pytest.importorskip("nir", reason="NIR graphs (the extra `nir`)")

DT = 1e-3
RNG = np.random.default_rng(0)


def weight(*shape, gain=1.0):
    return gain * RNG.normal(size=shape) / np.prod(shape[1:]) ** 0.5


def between(low, high, *shape):
    """Each unit has its own."""
    return RNG.uniform(low, high, size=shape)


def lif(*n):
    return nir.LIF(
        tau=between(5e-3, 30e-3, *n), r=between(8, 15, *n), v_leak=between(-0.2, 0.2, *n),
        v_threshold=between(0.3, 1, *n), v_reset=between(-0.2, 0.1, *n),
    )  # fmt: skip


def cuba(*n, spikes=True):
    more = dict(v_threshold=between(0.3, 1, *n), v_reset=between(-0.2, 0.1, *n)) if spikes else {}
    tau_syn, tau_mem = between(2e-3, 9e-3, *n), between(5e-3, 30e-3, *n)
    tau_syn.flat[0] = tau_mem.flat[0]  # one time constant for both
    return (nir.CubaLIF if spikes else nir.CubaLI)(
        tau_syn=tau_syn, tau_mem=tau_mem, r=between(8, 15, *n), v_leak=between(-0.2, 0.2, *n),
        w_in=between(0.5, 2, *n), **more,
    )  # fmt: skip


def li(n):
    return nir.LI(between(5e-3, 30e-3, n), between(1, 2, n), between(-0.2, 0.2, n))


def fire(*n):
    return nir.IF(between(200, 400, *n), between(0.3, 1, *n), between(-0.2, 0.1, *n))


def affine(n_in, n_out, gain=2.0):
    return nir.Affine(weight(n_out, n_in, gain=gain), weight(n_out, gain=0.3))


def linear(n_in, n_out, gain=2.0):
    return nir.Linear(weight(n_out, n_in, gain=gain))


def graph(n_in, n_out, edges, **nodes):
    """Edges as "a b, b c"; the Input is x, the Output y."""
    shape = lambda n: np.atleast_1d(n)
    ends = {"x": nir.Input({"input": shape(n_in)}), "y": nir.Output({"output": shape(n_out)})}
    pairs = [tuple(edge.split()) for edge in edges.split(",")]
    return nir.NIRGraph({**ends, **nodes}, pairs, type_check=False)


def recurrent_part():
    return graph(
        4, 4, "x l, l w, w l, l y", l=cuba(4), w=nir.Affine(weight(4, 4), weight(4, gain=0.2))
    )


# name -> (graph, edges that are heard one step late)
GRAPHS = {
    "heterogeneous constants": (
        graph(3, 2, "x a, a l, l b, b o, o y", a=affine(3, 5), l=lif(5), b=linear(5, 2), o=li(2)), ()
    ),
    "recurrence, two biases": (
        graph(3, 2, "x a, a l, l w, w l, l b, b o, o y",
              a=affine(3, 5), l=lif(5), w=affine(5, 5), b=affine(5, 2), o=li(2)),
        {("l", "w")},
    ),
    "nested": (
        graph(3, 2, "x a, a r, r b, b y", a=linear(3, 4), r=recurrent_part(), b=affine(4, 2)),
        {("r.l", "r.w")},
    ),
    "convolutions": (
        graph((2, 6, 5), 3, "x c, c l, l p, p f, f a, a m, m b, b y",
              c=nir.Conv2d((6, 5), weight(3, 2, 3, 2, gain=4), (2, 1), (1, 0), 1, 1, weight(3)),
              l=fire(3, 3, 4), p=nir.SumPool2d(np.array([2, 2]), np.array([1, 2]), np.array([0, 0])),
              f=nir.Flatten({"input": np.array([3, 2, 2])}, 0, -1),
              a=affine(12, 4), m=lif(4), b=linear(4, 3)),
        (),
    ),
    "convolution of one dimension": (
        graph((2, 5), 3, "x c, c l, l w, w l, l f, f a, a o, o y",
              c=nir.Conv1d(5, weight(3, 2, 4, gain=4), 1, "same", 1, 1, weight(3)), l=lif(3, 5),
              w=nir.Conv1d(5, weight(3, 3, 3, gain=2), 1, 1, 1, 1, np.zeros(3)),
              f=nir.Flatten({"input": np.array([3, 5])}, 0, -1), a=affine(15, 3),
              o=cuba(3, spikes=False)),
        {("l", "w")},
    ),
    "delays": (
        graph(3, 4, "x d, d k, k a, a l, l w, w e, e m, m g, g v, v m, m h, h y",
              d=nir.Delay(np.array([0, 2, 5]) * DT), k=nir.Delay(np.array([1, 0, 2]) * DT),
              a=affine(3, 4), l=lif(4), w=affine(4, 4),
              e=nir.Delay(np.array([1, 1, 0, 3]) * DT), m=cuba(4),
              g=nir.Delay(np.array([2, 0, 1, 1]) * DT), v=linear(4, 4), h=nir.Delay(np.full(4, DT))),
        {("m", "g")},
    ),
    "thresholds and scales": (
        graph(3, 4, "x s, s a, a t, t u, u i, i y", s=nir.Scale(between(0.5, 2, 3)), a=affine(3, 4),
              t=nir.Threshold(between(-0.5, 0.5, 4)), u=nir.Scale(between(1, 2, 4)),
              i=nir.I(between(1, 20, 4))),
        (),
    ),
    "skips": (
        graph(3, 2, "x a, a l, l b, b m, x c, c m, m p, l q, p o, q o, o y",
              a=affine(3, 4), l=lif(4), b=affine(4, 5), c=linear(3, 5), m=fire(5), p=linear(5, 2),
              q=affine(4, 2), o=li(2)),
        (),
    ),
    "edges without maps": (
        graph(4, 4, "x l, l l, l a, a m, l m, m s, s n, x n, n m2, m2 y",
              l=lif(4), a=affine(4, 4), m=cuba(4), s=nir.Scale(between(1, 2, 4)), n=li(4),
              m2=nir.Threshold(between(0.0, 0.1, 4))),
        {("l", "l")},
    ),
    "maps that others hear": (
        graph((1, 4, 4), 3, "x p, p f, f a, a b, a l, b m, l c, m c, c o, o y",
              p=nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
              f=nir.Flatten({"input": np.array([1, 2, 2])}, 0, -1), a=affine(4, 4, gain=8),
              b=affine(4, 4), l=lif(4), m=fire(4), c=affine(4, 3), o=li(3)),
        (),
    ),
    "one number for all units": (
        graph(3, 4, "x a, a l, l y", a=affine(3, 4), l=nir.LIF(np.array(9e-3), np.array(9.0),
              np.array(0.1), np.array(0.4))),
        (),
    ),
}  # fmt: skip
