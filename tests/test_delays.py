"""Synapses with delays: exact rules against autodiff of a loop written here, e-prop against the same
loop with its jumps cut; steps, chunks, resets, stacks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eprop_jax as ej
from eprop_jax.paper import graph
from tests.pace import quick

SQ, S = ej.losses.squared_error, ej.synapses
K, B, N_IN, N, N_OUT = 7, 2, 3, 4, 2
RESETS = jnp.zeros((K, B), bool).at[2, 0].set(True).at[5, 1].set(True)
LISTS = np.array([[1, 0, 3, 2], [2, 3, -1, 3]])
DELAYS = np.array([[0, 2, 1, 0], [3, 1, 0, 0]])
RECURRENT = {
    "one": (S.delayed(S.dense(), 2), lambda w: [None, None, w]),
    "each": (S.sparse(LISTS, delays=DELAYS), lambda w: by_delay(w, 4)),
    "both": (S.delayed(S.sparse(LISTS, delays=DELAYS), 1), lambda w: [None, *by_delay(w, 4)]),
    "none": (S.dense(), lambda w: [w]),
}
INPUT = {
    "late": (S.delayed(S.dense(), 1), lambda w: [None, w]),
    "none": (S.dense(), lambda w: [w]),
}


def by_delay(w, size):
    """A matrix for each delay."""
    found = [jnp.zeros((N, N)) for _ in range(size)]
    for (l, j), i in np.ndenumerate(LISTS):
        if i >= 0:
            d = DELAYS[l, j]
            found[d] = found[d].at[i, j].add(w[l, j])
    return found


def data():
    keys = jax.random.split(jax.random.key(1), 2)
    return 2 * jax.random.normal(keys[0], (K, B, N_IN)), jax.random.normal(keys[1], (K, B, N_OUT))


def drawn(net):
    params = net.init(jax.random.key(0))
    return jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(5), x.shape), params)


def loop(params, xs, ys, lines, resets, cut):
    """Leaky units, layer by layer and one by one; `cut`: no gradient through what w_rec hears."""
    cells = params["cell"] if isinstance(params["cell"], tuple) else (params["cell"],)
    alpha, total, ys_hat = np.exp(-1 / 3), 0.0, []
    for b in range(B):
        c = [jnp.zeros(N) for _ in cells]
        h = [jnp.tanh(x) for x in c]
        sent = [([], []) for _ in cells]
        y = jnp.zeros(N_OUT)
        for t in range(K):
            if resets is not None and resets[t, b]:
                c, y = [jnp.zeros(N) for _ in cells], jnp.zeros(N_OUT)
                h, sent = [jnp.tanh(x) for x in c], [([], []) for _ in cells]
            below = xs[t, b]
            for l, p in enumerate(cells):
                w_in, w_rec = (of(p[k]) for of, k in zip(lines, ("w_in", "w_rec")))
                sent[l][0].append(below)
                sent[l][1].append(jax.lax.stop_gradient(h[l]) if cut else h[l])
                a = p["bias"]
                for matrices, was in zip((w_in, w_rec), sent[l]):
                    for d, w in enumerate(matrices):
                        if w is not None and d < len(was):
                            a = a + was[-1 - d] @ w
                c[l] = alpha * c[l] + (1 - alpha) * a
                h[l] = below = jnp.tanh(c[l])
            y = alpha * y + below @ params["readout"]["w_out"] + params["readout"]["bias"]
            total += SQ(y, ys[t, b]) / B
            ys_hat.append(y)
    return total


def same(got, wanted, tol=1e-10):
    for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=tol, atol=tol, err_msg=jax.tree_util.keystr(path))


def network(w_in, w_rec, stacked):
    cell = lambda m: ej.cells.leaky_rnn(
        m, N, tau=3.0, w_in=INPUT[w_in][0], w_rec=RECURRENT[w_rec][0]
    )
    readout = ej.readouts.leaky(N, N_OUT, tau=3.0)
    return ej.Network([cell(N_IN), cell(N)] if stacked else cell(N_IN), readout)


CASES = [
    (w_in, w_rec, rule, stacked, resets, chunk)
    for w_in, w_rec in (("none", "one"), ("late", "each"), ("late", "both"), ("late", "none"))
    for stacked in (False, True)
    for rule, chunks in (("bptt", (None,)), ("eprop", (None,) if stacked else (None, 1, 3)))
    for resets in (False, True)
    for chunk in chunks
]


@pytest.mark.parametrize(
    "case",
    quick(CASES, ("none", "one", "bptt", False, True, None), ("late", "each", "eprop", False, True, 3),
          ("late", "both", "eprop", False, False, 1), ("late", "each", "bptt", True, True, None)),
)  # fmt: skip
def test_delays(case):
    w_in, w_rec, rule, stacked, reset, chunk = case
    net, (xs, ys) = network(w_in, w_rec, stacked), data()
    params, resets = drawn(net), RESETS if reset else None
    lines, cut = (INPUT[w_in][1], RECURRENT[w_rec][1]), rule == "eprop"
    language = "(i|e|f)*" if rule == "bptt" else "(i|f)*"
    of = ej.by_paths(net, SQ, paths=language) if stacked else getattr(ej, rule)(net, SQ)
    loss, grads = ej.value_and_grad(of, chunk=chunk)(params, xs, ys, resets=resets)
    wanted, full = jax.value_and_grad(loop)(params, xs, ys, lines, resets, cut)
    same(loss, wanted)
    same(grads, full)
    cell = grads["cell"][0] if stacked else grads["cell"]
    assert float(jnp.abs(cell["w_rec"]).max()) > 1e-3


def test_inputs_get_their_gradient_when_they_are_heard():
    net, (xs, ys) = network("late", "one", False), data()
    params = drawn(net)
    lines = INPUT["late"][1], RECURRENT["one"][1]
    rule = ej.bptt(net, SQ)
    got = jax.grad(lambda xs: ej.value_and_grad(rule)(params, xs, ys, resets=RESETS)[0])(xs)
    same(got, jax.grad(lambda xs: loop(params, xs, ys, lines, RESETS, False))(xs))


def test_orders_count_jumps_whatever_they_take():
    net, (xs, ys) = network("late", "both", False), data()
    params = drawn(net)
    grads = lambda rule: ej.value_and_grad(rule)(params, xs, ys)[1]
    same(grads(ej.m_order_eprop(net, SQ, order=1)), grads(ej.eprop(net, SQ)))
    same(grads(ej.m_order_eprop(net, SQ, order=K + 1)), grads(ej.bptt(net, SQ)))
    same(grads(ej.rtrl(net, SQ)), grads(ej.bptt(net, SQ)))


def test_the_state_goes_on_from_call_to_call():
    net, (xs, _) = network("late", "both", True), data()
    params = drawn(net)
    whole = net.apply(params, xs)
    first = net.apply(params, xs[:3])
    same(net.apply(params, xs[3:], state=first.state).outputs, whole.outputs[3:])


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: ej.rtrl(network("none", "one", False), SQ), ("delays on w_rec", "RTRL", "whole")),
        (lambda: ej.snap(network("none", "each", False), SQ, order=1), ("delays on w_rec", "SnAp")),
        (lambda: ej.by_paths(network("late", "none", True), SQ, paths="i*f*"), ("delays on w_in",)),
        (
            lambda: ej.by_paths(network("none", "one", False), SQ, paths="(i|s)*"),
            ("tells s from e",),
        ),
    ],
)
def test_what_no_trace_holds_is_refused(call, words):
    rule = call()
    params = rule.spec.network.init(jax.random.key(0))
    with pytest.raises(ValueError) as error:
        rule.init(params, (B,))
    assert all(word in str(error.value) for word in words), str(error.value)


def test_what_takes_a_jump_for_one_step_is_refused():
    net, (xs, _) = network("none", "one", False), data()
    for call in (
        lambda: graph.unroll(ej.bptt(net, SQ)),
        lambda: ej.equations.local_derivatives(net, drawn(net), xs[:, 0]),
        lambda: ej.hybrids.implicit_eligibility_gradient(net, SQ),
    ):
        with pytest.raises(ValueError, match="w_rec"):
            call()
