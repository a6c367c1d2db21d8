"""Stacks of layers and languages of paths, against one tangent a layer, unit and automaton state."""

import functools
import itertools

import jax
import jax.numpy as jnp
import layered_reference as lay
import numpy as np
import optax
import pytest
import reference as ref
from test_layered_reference import more_losses, network

import eprop_jax as ej
from eprop_jax.paper import hybrids

LOSS = ej.losses.squared_error
ORDERS = {f"order {m}": ej.paths.order(m) for m in (2, 3)}
NAMED = {x.name: x.language for x in ej.paths.NAMED if isinstance(x.language, str)}
LANGUAGES = {**ORDERS, **NAMED, "drawn": "i*(ei*)?f*", "letters apart": "(i|f)*(e(s|f)i*)?"}
DISTINCT = {language: name for name, language in reversed(LANGUAGES.items())}

STACKS = {
    "two": network(["coupled", "leaky_rnn, tau trained"], "leaky", n=3),
    "initial": network(["alif, initial", "leaky, initial"], "leaky", n=3),
    "between": network(["leaky_rnn", "stateless", "leaky_rnn"], "leaky", n=2),
    "read": network(["leaky_rnn", "gru"], "linear", n=2, reads=(1, 0)),
    "skips": network(
        ["lstm", "masked", "alif, all trained"],
        "custom",
        inputs=(("x",), (0,), (1, "x", 0)),
        reads=(0, 2),
    ),
}


def net_of(stack):
    return ej.Network(list(stack.cells), stack.readout, inputs=stack.inputs, reads=stack.reads)


@functools.cache
def drawn(name, T=6, batch=2):
    stack = STACKS[name]
    params, xs, ys = lay.drawn(stack, T, batch)
    params = lay.existing(stack, params)
    return {**params, "cell": tuple(params["cell"])}, xs, ys


@functools.cache
def problem(name, more=False):
    """The oracle's part that all languages share."""
    stack = STACKS[name]
    return lay.problem(stack, *drawn(name), ref.squared_error, **more_losses(stack) if more else {})


def rule_of(name, language, more=False):
    stack = STACKS[name]
    if not more:
        return ej.by_paths(net_of(stack), LOSS, paths=language)
    given = more_losses(stack)
    return ej.by_paths(
        net_of(stack), LOSS, paths=language, feedback="random",
        activity_loss=given["activity"], state_loss=given["state"],
    )  # fmt: skip


def params_of(name, more=False):
    params = drawn(name)[0]
    return {**params, "feedback": more_losses(STACKS[name])["feedback"]} if more else params


def by_steps(rule, params, xs, ys, sizes):
    """The loss and gradient of a sequence of step calls of these lengths."""
    carry, start, total = rule.init(params, xs.shape[1:-1]), 0, None
    for K in sizes:
        carry, out = rule.step(params, carry, xs[start : start + K], ys[start : start + K])
        found, start = (out.loss, out.grads), start + K
        total = found if total is None else jax.tree.map(jnp.add, total, found)
    assert start == len(xs)
    return total


def against_the_oracle(name, language, more, how):
    _, xs, ys = drawn(name)
    rule, params = rule_of(name, language, more), params_of(name, more)
    if isinstance(how, tuple):
        value, grads = by_steps(rule, params, xs, ys, how)
    else:
        value, grads = ej.value_and_grad(rule, chunk=how)(params, xs, ys)
    grads = {k: grads[k] for k in ("cell", "readout")}
    wanted = lay.tangent_gradient(problem(name, more), ej.paths.compile(language))
    np.testing.assert_allclose(value, wanted[0], rtol=1e-12)
    ref.assert_same(grads, wanted[1])


slow = pytest.mark.slow
QUICK = {"(i|e|f)*", "i*f*", ORDERS["order 2"]}
ALL = [pytest.param(x, marks=() if x in QUICK else slow) for x in DISTINCT if x != "i*"]


@pytest.mark.parametrize("how", [None, 1, pytest.param((2, 1, 3), marks=slow)])
@pytest.mark.parametrize("language", ALL)
def test_two_layers_under_every_language(language, how):
    against_the_oracle("two", language, False, how)


@pytest.mark.parametrize("how", [None, (2, 1, 3), pytest.param(1, marks=slow)])
@pytest.mark.parametrize("language", [
    pytest.param(x, marks=() if x in ("i*f*", "(i|e|f)*") else slow)
    for x in DISTINCT if "f" in x and "i" in x
])  # fmt: skip
def test_a_trained_initial_state(language, how):
    against_the_oracle("initial", language, False, how)


@pytest.mark.parametrize("how", [None, 1, pytest.param((2, 1, 3), marks=slow)])
@pytest.mark.parametrize("language", [
    pytest.param(x, marks=() if x == "i*f*" else slow)
    for x in DISTINCT if "f" in x and x != ORDERS["order 2"]  # which stops short of the lowest
])  # fmt: skip
def test_a_layer_without_time_between_two(language, how):
    against_the_oracle("between", language, False, how)


@pytest.mark.parametrize("how", [None, pytest.param((1, 4, 1), marks=slow)])
@pytest.mark.parametrize("language", ["(i|e|f)*", pytest.param("i*(ei*)?f*", marks=slow)])
def test_skips_and_reads(language, how):
    against_the_oracle("skips", language, False, how)


@pytest.mark.parametrize("name, language", [
    pytest.param("read", "(i|s)*f*", marks=slow),
    pytest.param("skips", "(i|e|f)*", marks=slow),
    ("skips", ej.paths.order(2)),
])  # fmt: skip
def test_feedback_and_losses_of_every_layer(name, language):
    against_the_oracle(name, language, True, None)


@pytest.mark.parametrize("kind", ["random", "adaptive"])
@pytest.mark.parametrize("name", ["read", pytest.param("skips", marks=slow)])
def test_step_calls_add_up_with_feedback_and_losses_of_states(name, kind):
    stack, (_, xs, ys) = STACKS[name], drawn(name)
    params, state = params_of(name, True), more_losses(stack)["state"]
    rule = ej.by_paths(net_of(stack), LOSS, paths="i*f*", feedback=kind, state_loss=state)
    wanted = ej.value_and_grad(rule)(params, xs, ys)
    assert ref.distance(wanted[1]["feedback"], params["feedback"]) > 0.1
    for sizes in ((1, 4, 1), (3, 3)):
        value, grads = by_steps(rule, params, xs, ys, sizes)
        np.testing.assert_allclose(value, wanted[0], rtol=1e-12)
        ref.assert_same(grads, wanted[1])


def test_languages_differ_where_they_should():
    """On two layers OTPE is deep e-prop; all others differ by more than 1e-3."""
    of = lambda x: lay.tangent_gradient(problem("two"), ej.paths.compile(x))[1]["cell"]
    grads = {DISTINCT[x]: of(x) for x in DISTINCT}
    pairs = itertools.combinations(grads, 2)
    same = {frozenset(x) for x in pairs if ref.distance(*map(grads.get, x)) < 1e-3}
    assert same == {frozenset({"OTPE", "deep e-prop"})}


# -- all paths are the gradient --------------------------------------------------------------------


def plain(net, xs, ys):
    """A user's loss of the network alone, whose derivative is autodiff's."""

    def loss(params, xs):
        y = net.apply(params, xs).outputs
        return jnp.sum(jax.vmap(jax.vmap(LOSS))(y, ys)) / xs.shape[1]

    return loss


@pytest.mark.parametrize("make", [ej.bptt, ej.rtrl])
def test_bptt_of_a_stack_is_autodiff_of_the_network(make):
    params, xs, ys = drawn("read")
    net = net_of(STACKS["read"])
    wanted = jax.value_and_grad(plain(net, xs, ys))(params, xs)
    rule = make(net, LOSS)
    value, grads = ej.value_and_grad(rule)(params, xs, ys)
    np.testing.assert_allclose(value, wanted[0], rtol=1e-12)
    ref.assert_same(grads, wanted[1])


def test_the_gradient_to_the_inputs_comes_from_every_layer_that_hears_them():
    params, xs, ys = drawn("skips")
    net = net_of(STACKS["skips"])
    f = ej.value_and_grad(ej.bptt(net, LOSS))
    by_xs = jax.grad(lambda x: f(params, x, ys)[0])(xs)
    wanted = jax.grad(plain(net, xs, ys), argnums=1)(params, xs)
    ref.assert_same(by_xs, wanted)


def test_under_any_language_inputs_meet_what_the_biases_meet():
    """Σ_t ∂L/∂x^t = Σ_l w_in ∂L/∂b_l: x and the bias enter one drive."""
    params, xs, ys = drawn("two")
    f = ej.value_and_grad(rule_of("two", "i*f*"))
    (by_params, by_xs) = jax.grad(lambda p, x: f(p, x, ys)[0], argnums=(0, 1))(params, xs)
    p, g = params["cell"][0], by_params["cell"][0]
    ref.assert_same(by_xs.sum((0, 1)), p["w_in"] @ g["bias"])
    ref.assert_same(by_params, f(params, xs, ys)[1])


# -- masks and padding -----------------------------------------------------------------------------


def test_masked_steps_are_as_if_they_were_not_there_in_every_loss():
    params, (_, xs, ys) = params_of("read", True), drawn("read")
    f = ej.value_and_grad(rule_of("read", "(i|s)*f*", True))
    padded = jnp.concatenate([xs, jnp.full_like(xs[:2], 7.0)])
    wrong = jnp.concatenate([ys, jnp.full_like(ys[:2], jnp.nan)])
    mask = jnp.arange(len(padded))[:, None] < jnp.full((1, xs.shape[1]), len(xs))
    wanted, got = f(params, xs, ys), f(params, padded, wrong, mask=mask)
    np.testing.assert_allclose(got[0], wanted[0], rtol=1e-12)
    ref.assert_same(got[1], wanted[1])


# -- one layer -------------------------------------------------------------------------------------


ONE = network(["coupled"], "leaky", n=3)


@pytest.mark.parametrize("language, same", [
    ("i*((e|f)i*){0,0}", ej.eprop), ("(i|f)*", ej.eprop),
    ("i*(ei*)?f*", functools.partial(ej.m_order_eprop, order=2)),
    ("i*((e|f)i*){0,2}", functools.partial(ej.m_order_eprop, order=3)), ("(i|e)*f*", ej.rtrl),
])  # fmt: skip
def test_one_layer_runs_the_engine_that_has_steps(language, same):
    net = ej.Network(ONE.cells[0], ONE.readout)
    rule = ej.by_paths(net, LOSS, paths=language)
    like = same(net, LOSS)
    assert rule.spec.moves == like.spec.moves != ()
    carries = [
        jax.eval_shape(lambda p, r=r: r.init(p, (2,)), net.init(jax.random.key(0)))
        for r in (rule, like)
    ]
    assert jax.tree.structure(carries[0]) == jax.tree.structure(carries[1])


@pytest.mark.parametrize("language, kind", [("(i|s)*", "symmetric"), ("(i|e|f)*", "random")])
def test_one_layer_under_its_own_language(language, kind):
    net = ej.Network(ONE.cells[0], ONE.readout)
    params, xs, ys = lay.drawn(ONE, 5, 2)
    B = None if kind == "symmetric" else (ej.feedback.init(jax.random.key(3), net),)
    given = lay.problem(ONE, params, xs, ys, ref.squared_error, B)
    both = {"cell": params["cell"][0], "readout": params["readout"]}
    both |= {} if B is None else {"feedback": B[0]}
    rule = ej.by_paths(net, LOSS, paths=language, feedback=kind)
    _, wanted = lay.tangent_gradient(given, ej.paths.compile(language))
    for chunk in (None, 1, 2):
        _, grads = ej.value_and_grad(rule, chunk=chunk)(both, xs, ys)
        ref.assert_same({"cell": (grads["cell"],), "readout": grads["readout"]}, wanted)


def test_a_stack_of_one_layer_is_that_layer():
    cell, readout = ej.cells.leaky_rnn(2, 3, decay=0.6), ej.readouts.linear(3, 2)
    one, stack = ej.Network(cell, readout), ej.Network([cell], readout)
    params, xs, ys = one.init(jax.random.key(0)), jnp.ones((5, 2, 2)), jnp.ones((5, 2, 2))
    _, wanted = ej.value_and_grad(ej.eprop(one, LOSS))(params, xs, ys)
    _, got = ej.value_and_grad(ej.eprop(stack, LOSS))({**params, "cell": (params["cell"],)}, xs, ys)
    ref.assert_same(got, {**wanted, "cell": (wanted["cell"],)})


# -- the paper's feed-forward statement, and other refusals ----------------------------------------


CHAIN = ej.Network(
    [ej.cells.leaky_rnn(2, 3, decay=0.5)] + [ej.cells.leaky_rnn(3, 3, decay=0.5)] * 2,
    ej.readouts.linear(3, 1),
)
XS, YS = jnp.ones((4, 2, 2)), jnp.ones((4, 2, 1))


@functools.cache
def chain_params():
    return CHAIN.init(jax.random.key(0))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_order_m_reaches_the_upper_m_layers_of_a_feed_forward_stack(order):
    rule = ej.m_order_eprop(CHAIN, LOSS, order=order)
    found = ej.paths.report(rule, chain_params())
    assert [bool(x.unconnected) for x in found.layers] == [l < 3 - order for l in range(3)]
    call = lambda: jax.eval_shape(ej.value_and_grad(rule), chain_params(), XS, YS)
    if order == 3:
        call()
    else:
        with pytest.raises(
            ValueError, match=r"params\['cell'\]\[0\]: got no path.*'i\*f\*'.*reads"
        ):
            call()


def test_what_reaches_a_lower_layer_is_named_and_works():
    with pytest.raises(ValueError, match='feedback="random"'):
        jax.eval_shape(ej.eprop(CHAIN, LOSS).whole, chain_params(), XS, YS)
    params = {**chain_params(), "feedback": ej.feedback.init(jax.random.key(1), CHAIN)}
    jax.eval_shape(ej.eprop(CHAIN, LOSS, feedback="random").whole, params, XS, YS)
    jax.eval_shape(
        ej.eprop(CHAIN, LOSS, activity_loss=lambda f: jnp.sum(f**2)).whole, chain_params(), XS, YS
    )


def test_a_parameter_that_the_units_own_edges_would_have_to_carry_is_refused():
    """u drives v a step later, and v alone is heard: without i no path leads from the drive."""
    cell = lambda n_in: ej.cells.custom(
        n_in, 3, lambda theta, c, a: (0.5 * c[0] + a, 0.5 * c[1] + c[0]), lambda theta, c: c[1],
        (0.0, 0.0),
    )  # fmt: skip
    net = ej.Network([cell(2), cell(3)], ej.readouts.linear(3, 1))
    with pytest.raises(ValueError, match=r"params\['cell'\]\[0\]: got no path"):
        jax.eval_shape(
            ej.by_paths(net, LOSS, paths="f*").whole, net.init(jax.random.key(0)), XS, YS
        )


@pytest.mark.parametrize("readout", [ej.readouts.linear, ej.readouts.leaky])
def test_the_report_says_what_the_traces_take(readout):
    """All of a carry's bytes but the state's, by layer."""
    stack = ej.Network([ej.cells.alif(2, 3), ej.cells.gru(3, 4)], readout(4, 2))
    one = ej.Network(ej.cells.alif(2, 3), readout(3, 2))
    of = lambda net: [ej.by_paths(net, LOSS, paths=x) for x in ("i*f*", "(i|e)*f*", "(i|f)*")]
    for rule in (*of(stack), *of(one), ej.m_order_eprop(one, LOSS, order=3), ej.bptt(one, LOSS)):
        params = rule.spec.network.init(jax.random.key(0))
        found, carry = ej.paths.report(rule, params, batch=(5,)), rule.init(params, (5,))
        held = sum(x.nbytes for x in jax.tree.leaves(carry._replace(state=())))
        assert sum(x.trace_bytes for x in found.layers) + found.readout_bytes == held
    # Under a leak the lower layer, whose paths climb, holds a γ for each of the two outputs beside its
    # ε of two components (that of v is one for all units); without one, no γ at all.
    params = stack.init(jax.random.key(0))
    found = ej.paths.report(of(stack)[0], params, batch=5)
    once = 5 * sum(w.nbytes for w in jax.tree.leaves(params["cell"][0]))
    gammas = 2 if readout is ej.readouts.leaky else 0
    assert (1 + gammas) * once < found.layers[0].trace_bytes < (2 + gammas) * once


RULE = ej.by_paths(CHAIN, LOSS, paths="i*f*")
A, B3, OUT = ej.cells.rnn(2, 3), ej.cells.rnn(3, 4), ej.readouts.linear(4, 1)


@pytest.mark.parametrize("call, words", [
    (lambda: hybrids.first_explicit_gradient(CHAIN, LOSS), ("net", "3 layers", "one cell")),
    (lambda: ej.equations.local_derivatives(CHAIN, chain_params(), XS[:, 0]), ("net", "one cell")),
    (lambda: ej.by_paths(CHAIN, LOSS, paths="i*g"), ("paths", "'g'", "index 2")),
    (lambda: ej.eprop(CHAIN, LOSS, state_loss=(None, None)), ("state_loss", "2", "3")),
    (lambda: ej.eprop(CHAIN, LOSS, activity_loss=(None, 1, None)), ("activity_loss[1]", "int")),
    (lambda: ej.Network([], OUT), ("cell", "empty")),
    (lambda: ej.Network([A, OUT], OUT), ("cell[1]", "Readout", "Cell")),
    (lambda: ej.Network([A, A], OUT), ("cell[1]", "n_in=2", "wanted 3")),
    (lambda: ej.Network([A, B3], ej.readouts.linear(3, 1)), ("readout", "n_units=3", "wanted 4")),
    (lambda: ej.Network([A, B3], OUT, inputs=[("x",)]), ("inputs", "1 entries", "wanted 2")),
    (lambda: ej.Network([A, B3], OUT, inputs="xx"), ("inputs", "str")),
    (lambda: ej.Network([A, B3], OUT, inputs=[("x",), (1,)]), ("inputs[1]", "got 1")),
    (lambda: ej.Network([A, B3], OUT, inputs=[("x",), ("x", "x")]), ("inputs[1]", "repetition")),
    (lambda: ej.Network([A, B3], OUT, inputs=[("x",), ("x", 0)]), ("cell[1]", "wanted 5")),
    (lambda: ej.Network([A, B3], OUT, reads=(2,)), ("reads", "got 2")),
    (lambda: ej.Network([A, B3], OUT, reads=()), ("reads", "()")),
    (lambda: CHAIN.apply({**chain_params(), "cell": chain_params()["cell"][:2]}, XS),
     ("params['cell'][2]['bias']", "missing")),
    (lambda: jax.eval_shape(ej.eprop(CHAIN, LOSS, feedback="random").whole, chain_params(), XS, YS),
     ("params['feedback']", "missing", "[3, 1], [3, 1], [3, 1]")),
    (lambda: ej.paths.report(CHAIN, {}), ("rule", "Network")),
])  # fmt: skip
def test_refusals(call, words):
    with pytest.raises((ValueError, TypeError)) as refusal:
        call()
    message = str(refusal.value)
    assert message.startswith(f"{words[0]}:") and "wanted" in message, message
    for word in words:
        assert word in message, message


# -- what a stack is -------------------------------------------------------------------------------


def test_a_network_runs_on_from_its_own_state():
    params, xs, _ = drawn("skips")
    net = net_of(STACKS["skips"])
    whole, first = net.apply(params, xs), net.apply(params, xs[:2])
    second = net.apply(params, xs[2:], first.state)
    assert [h.shape for h in whole.activity] == [(6, 2, n) for n in STACKS["skips"].sizes]
    ref.assert_same(second.state, whole.state)
    ref.assert_same(second.activity, tuple(h[2:] for h in whole.activity))
    assert {net: 1}[net] == 1 and "\n" not in repr(net)
    assert (net.n_in, len(net.cells)) == (2, 3)


def test_adaptive_feedback_gets_what_the_readout_gets_where_it_reads():
    stack = STACKS["skips"]
    net = net_of(stack)
    params, xs, ys = drawn("skips")
    params = {**params, "feedback": ej.feedback.init(jax.random.key(0), net)}
    rule = ej.by_paths(net, LOSS, paths="f*", feedback="adaptive")
    _, grads = ej.value_and_grad(rule)(params, xs, ys)
    got, rows = grads["feedback"], jnp.split(grads["readout"]["w_out"], [stack.sizes[0]])
    ref.assert_same((got[0], got[2]), tuple(rows))
    # Layer 1 is not read: what its rows would get, if it were read with weights of zero.
    wide = ej.readouts.custom(
        sum(stack.sizes), 2, stack.readout.dynamics, y_0=0.1, theta={"g": 0.5}
    )
    more = ej.Network(list(net.cells), wide, inputs=net.inputs, reads=(0, 1, 2))
    w = params["readout"]["w_out"]
    w = jnp.concatenate([w[: stack.sizes[0]], jnp.zeros((stack.sizes[1], 2)), w[stack.sizes[0] :]])
    params = {**params, "readout": {**params["readout"], "w_out": w}}
    rule = ej.by_paths(more, LOSS, paths="f*", feedback="adaptive")
    wanted = ej.value_and_grad(rule)(params, xs, ys)[1]["readout"]["w_out"]
    ref.assert_same(got[1], wanted[stack.sizes[0] :][: stack.sizes[1]])


def test_report_says_what_is_kept_and_dropped():
    found = ej.paths.report(rule_of("two", "(i|e)*f*"), drawn("two")[0])
    assert found.layers[0].dropped == ("after f no i, in layer 1", "after f no e, in layer 1")
    assert found.layers[0].kept == ("i", "e", "f to layer 1")
    assert [x.exact for x in found.layers] == [False, True]
    assert [x.heard for x in found.layers] == [(), ("read-out",)]
    everything = ej.paths.report(ej.bptt(CHAIN, LOSS), chain_params())
    assert all(x.exact and not x.dropped for x in everything.layers)
    one = ej.Network(ej.cells.rnn(2, 3), ej.readouts.linear(3, 1))
    said = ej.paths.report(ej.eprop(one, LOSS, feedback="random"), {
        **one.init(jax.random.key(0)), "feedback": jnp.ones((3, 1))})  # fmt: skip
    assert said.layers[0].dropped == ("no e", "w_out on the way back (random B)")
    between = ej.paths.report(ej.by_paths(one, LOSS, paths="(i|s)*"), one.init(jax.random.key(0)))
    assert between.layers[0].dropped == ("no e between units",)


# -- training --------------------------------------------------------------------------------------


def test_two_layers_learn(tmp_path):
    task = functools.partial(ej.tasks.copy_memory(n_symbols=2, length=1, delay=3), batch=16)
    net = ej.Network([ej.cells.gru(4, 12), ej.cells.leaky_rnn(12, 10, decay=0.5)],
                     ej.readouts.linear(10, 2))  # fmt: skip
    loss = ej.losses.masked(ej.losses.softmax_cross_entropy)
    rule = ej.by_paths(net, loss, paths="i*f*")
    params = net.init(jax.random.key(0))
    look = ej.training.evaluator(
        rule, task, metrics={"accuracy": ej.training.accuracy}, cosine=True
    )
    t = ej.training.trainer(rule, optax.adam(0.02), task)
    state = t.init(params, jax.random.key(1))
    with jax.numpy_dtype_promotion("standard"):  # optax.adam needs it
        run = ej.training.fit(
            t, state, 150, every=75, evaluate=look, checkpoints=tmp_path, progress=False
        )
    row = run.rows[-1]
    assert row["test_accuracy"] == 1.0 and row["test_loss"] < 0.2 * run.log["loss"][0]
    assert 0.2 < row["cosine"] <= 1.0
    xs, ys = task(jax.random.fold_in(jax.random.key(1), 0))
    h = net.apply(params, xs).activity
    mean = np.concatenate([np.asarray(x).reshape(-1) for x in h]).mean()
    np.testing.assert_allclose(run.log["rate"][0], mean, rtol=1e-6)
    back = ej.checkpoints.restore(tmp_path, state)
    ref.assert_same(back.params, run.state.params)
    said = ej.compare({"i*f*": rule}, run.state.params, xs, ys)
    assert "cell/0/w_in/r" in said.parameters["i*f*"]


def test_what_is_not_finite_is_named_by_layer():
    check = ej.check_finite(RULE)
    params = chain_params()
    assert np.isfinite(check(params, XS, YS)[0])
    wild = jax.tree.map(lambda x: x, params)
    wild["cell"][1]["bias"] = jnp.full(3, 1.7e308)
    wild["cell"][1]["w_in"] = jnp.full((3, 3), 1.7e308)
    wild["cell"][0]["bias"] = jnp.full(3, 9.0)
    with pytest.raises(FloatingPointError, match=r"c\[1\]: got inf at step 0"):
        check(wild, XS, YS)


def test_cost_and_the_chunk_of_a_stack():
    params = chain_params()
    sizes = ej.cost(RULE, params, (2,))
    carry = RULE.init(params, (2,))
    assert sizes.trace_bytes == sum(x.nbytes for x in jax.tree.leaves(carry))
    dense = ej.cost(ej.rtrl(CHAIN, LOSS), params, (2,))
    assert dense.trace_bytes > 3 * sizes.trace_bytes and dense.multiply_adds > sizes.multiply_adds
    wanted = ej.value_and_grad(RULE)(params, XS, YS)
    ref.assert_same(ej.value_and_grad(RULE, chunk="auto")(params, XS, YS), wanted)


def test_online_and_narrow_traces_of_a_stack():
    params, narrow = chain_params(), ej.narrow_traces(RULE)
    carry, _ = narrow.step(params, narrow.init(params, (2,)), XS[:2], YS[:2])
    assert {x.dtype for x in jax.tree.leaves(carry.epsilon)} == {jnp.dtype("bfloat16")}
    learner = ej.online(RULE, optax.sgd(0.1), every=2)
    state, out = learner.step(learner.init(params, (2,)), XS, YS)
    moved = jax.tree.map(lambda p, g: p - 0.1 * g, params, out.grads)
    ref.assert_same(state.params, moved)


def test_a_run_that_breaks_says_so():
    batches = XS[None], jnp.full_like(YS, jnp.nan)[None]
    t = ej.training.trainer(RULE, optax.sgd(0.1), batches)
    with pytest.raises(FloatingPointError, match="loss: got nan at update 0"):
        ej.training.fit(t, t.init(chain_params(), jax.random.key(0)), 1, progress=False)
