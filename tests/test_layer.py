"""`ej.layer`: a function of whole sequences whose derivative is the rule's."""

import functools

import jax
import jax.numpy as jnp
import layered_reference as lay
import numpy as np
import pytest
from cases import problem
from pace import quick
from reference import assert_same, distance, norm, squared_error, unroll
from test_layers import LOSS, STACKS, drawn, net_of

import eprop_jax as ej

stop = jax.lax.stop_gradient
EXACT = "(i|e|f)*"
P = problem("alif", "leaky", n=4, T=6, batch=(2,))
GRU = problem("gru", "linear", n=4, T=6, batch=(2,))
TRAINED = problem("alif, all trained", "leaky, tau trained", n=4, T=6, batch=(2,))
CUSTOM = problem("lstm", "custom", n=4, T=6, batch=(2,))
PROBLEMS = {"alif": P, "gru": GRU, "all trained": TRAINED, "custom": CUSTOM}


def of_sequence(y, h):
    """A loss that is no sum over steps, and a regulariser on activity that is none either."""
    at_last = jax.nn.logsumexp(3 * y, 0) - y[-1]
    together = jnp.einsum("tbj,sbj->ts", h, h)
    return jnp.sum(jnp.sin(at_last)) + 0.1 * jnp.sum(jnp.tanh(together))


def by_hand(p, params, xs, explicit=True):
    """The network of one layer as a loop, whose explicit recurrence may be stopped."""
    n, cell = p.net.cell.n_units, p.cell.reference(p.net.cell.n_units)

    @jax.jit  # compiled once, not once a step
    def step(params, c, y, x):
        w = params["readout"]
        h = cell.output(params["cell"], c)
        c = cell.step(params["cell"], c, h if explicit else stop(h), x)
        h = cell.output(params["cell"], c)
        a = h @ w["w_out"]
        return c, p.readout.reference(w, y, a + w["bias"] if "bias" in w else a), h

    def of_example(xs):
        c, y, ys, hs = cell.start(n), jnp.full(2, p.readout.y_0), [], []
        for x in xs:
            c, y, h = step(params, c, y, x)
            ys, hs = [*ys, y], [*hs, h]
        return jnp.stack(ys), jnp.stack(hs)

    return jax.vmap(of_example, 1, 1)(xs)


def both(f, loss, params, xs):
    """Of a loss of a layer: its gradients to params and xs."""
    return jax.jit(jax.grad(lambda params, xs: loss(*f(params, xs)), (0, 1)))(params, xs)


def per_step(p):
    return lambda y, h: sum(map(squared_error, y.reshape(-1, 2), p.ys.reshape(-1, 2))) / 2


def differ(a, b):
    """In some leaf by a hundredth."""
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b))
    return any(norm(y) > 0 and distance(x, y) > 1e-2 for x, y in leaves)


# -- held to the rules, and to autodiff --------------------------------------------------------------

RULES = [
    (name, language, feedback)
    for name in PROBLEMS
    for language in ("i*", "(i|s)*", ej.paths.order(2), EXACT)
    for feedback in ("symmetric", "random", "adaptive")
]
QUICK = {
    ("alif", "i*", "symmetric"),
    ("alif", "i*", "adaptive"),
    ("gru", ej.paths.order(2), "random"),
    ("all trained", "(i|s)*", "symmetric"),
    ("custom", EXACT, "symmetric"),
}


@pytest.mark.parametrize("case", quick(RULES, *QUICK), ids=" ".join)
def test_a_loss_of_steps_has_the_gradient_of_the_rule(case):
    name, language, feedback = case
    p = PROBLEMS[name]
    params = {**p.params, "feedback": ej.feedback.init(jax.random.key(5), p.net)}
    params = p.params if feedback == "symmetric" else params
    rate = lambda f: jnp.sum((f - 0.3) ** 2)
    rule = ej.by_paths(p.net, LOSS, paths=language, feedback=feedback, activity_loss=rate)
    of_rule = lambda params, xs: ej.value_and_grad(rule)(params, xs, p.ys)[0]
    wanted = jax.jit(jax.grad(of_rule, (0, 1)))(params, p.xs)
    loss = lambda y, h: per_step(p)(y, h) + jnp.mean(jax.vmap(rate)(h.mean(0)))
    assert_same(
        both(ej.layer(p.net, language, feedback=feedback), loss, params, p.xs), wanted, 1e-12
    )


@pytest.mark.parametrize("name", quick(PROBLEMS, "alif"))
@pytest.mark.parametrize("language", ["i*", EXACT])
def test_a_loss_of_the_sequence_has_autodiffs_gradient(name, language):
    """Of the loop by hand, whose explicit recurrence is stopped under e-prop."""
    p, explicit = PROBLEMS[name], language == EXACT
    got = both(ej.layer(p.net, language), of_sequence, p.params, p.xs)
    wanted, other = (
        both(functools.partial(by_hand, p, explicit=x), of_sequence, p.params, p.xs)
        for x in (explicit, not explicit)
    )
    assert_same(got, wanted, 1e-10)
    assert differ(wanted, other)


def test_the_values_are_the_networks():
    y, h = ej.layer(P.net)(P.params, P.xs)
    run = P.net.apply(P.params, P.xs)
    assert_same((y, h), (run.outputs, run.activity), 1e-14)


def test_the_default_is_the_papers_eprop():
    wanted = ej.value_and_grad(ej.eprop(P.net, LOSS))(P.params, P.xs, P.ys)[1]
    assert_same(both(ej.layer(P.net), per_step(P), P.params, P.xs)[0], wanted, 1e-12)
    assert differ(wanted, ej.value_and_grad(ej.bptt(P.net, LOSS))(P.params, P.xs, P.ys)[1])


def test_what_is_sent_to_the_activity_alone_and_to_neither():
    f = ej.layer(P.net)
    of_h = lambda y, h: jnp.sum(jnp.cos(h))
    by_loop = functools.partial(by_hand, P, explicit=False)
    got = both(f, of_h, P.params, P.xs)
    assert_same(got, both(by_loop, of_h, P.params, P.xs), 1e-10)
    assert not jnp.any(got[0]["readout"]["w_out"])
    nothing = both(f, lambda y, h: stop(jnp.sum(y)) + 0 * h.sum(), P.params, P.xs)
    assert not any(map(jnp.any, jax.tree.leaves(nothing)))


def test_an_encoder_before_and_a_head_behind():
    """A convolution over time below, a product above: trained by what the layer hands on."""
    rng = np.random.default_rng(1)
    kernel, head = jnp.asarray(rng.normal(size=(3, 5, 2))), jnp.asarray(rng.normal(size=(2, 3)))
    pixels = jnp.asarray(rng.normal(size=(6, 2, 5)))

    def loss(layer, kernel, head, params):
        lagged = [jnp.pad(pixels, ((k, 0), (0, 0), (0, 0)))[:6] for k in range(3)]
        xs = jnp.tanh(sum(x @ w for x, w in zip(lagged, kernel)))
        y, h = layer(params, xs)
        return jnp.sum(jax.nn.log_softmax((y @ head).max(0))[:, 0]) + 0.01 * jnp.sum(h)

    def grads(layer):
        of = functools.partial(loss, layer)
        return jax.jit(jax.grad(of, (0, 1, 2)))(kernel, head, P.params)

    exact, stopped = (grads(functools.partial(by_hand, P, explicit=e)) for e in (True, False))
    assert_same(grads(ej.layer(P.net)), stopped, 1e-10)
    assert differ(exact[0], stopped[0])


# -- mask and resets ---------------------------------------------------------------------------------

MASK = jnp.asarray([[1] * 6, [1] * 4 + [0] * 2], bool).T


@pytest.mark.parametrize("language", ["i*", EXACT])
def test_masked_steps_are_zero_and_send_nothing_back(language):
    f = ej.layer(P.net, language)
    y, h = f(P.params, P.xs, MASK)
    run = P.net.apply(P.params, P.xs, mask=MASK)
    assert_same((y, h), (run.outputs, run.activity), 1e-14)
    short = lambda params, xs: f(params, xs, mask=MASK)
    got = both(short, of_sequence, P.params, P.xs)

    def apart(params, xs):
        """Each example by itself, as long as it is."""
        pad = lambda x: jnp.pad(x, ((0, 6 - len(x)), (0, 0), (0, 0)))
        parts = [f(params, xs[:T, b : b + 1]) for b, T in enumerate((6, 4))]
        return jax.tree.map(lambda *x: jnp.concatenate([*map(pad, x)], 1), *parts)

    assert_same(got, both(apart, of_sequence, P.params, P.xs), 1e-10)
    assert not jnp.any(got[1][4:, 1]) and jnp.any(got[1][:4, 1])
    assert differ(got, both(f, of_sequence, P.params, P.xs))


@pytest.mark.parametrize("name", quick(["alif", "all trained"], "alif"))
@pytest.mark.parametrize("language", quick(["i*", ej.paths.order(2), EXACT], EXACT, "i*"))
def test_no_path_leads_across_a_reset(name, language):
    p = PROBLEMS[name]
    f, resets = ej.layer(p.net, language), jnp.zeros((6, 2), bool).at[3, 0].set(True)
    afresh = lambda params, xs: f(params, xs, resets=resets)

    def apart(params, xs):
        whole, parts = f(params, xs[:, 1:]), [f(params, x) for x in (xs[:3, :1], xs[3:, :1])]
        packed = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
        return jax.tree.map(lambda *x: jnp.concatenate(x, 1), packed, whole)

    got = both(afresh, of_sequence, p.params, p.xs)
    assert_same(got, both(apart, of_sequence, p.params, p.xs), 1e-10)
    assert differ(got, both(f, of_sequence, p.params, p.xs))


# -- stacks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", quick(STACKS, "two", "initial"))
@pytest.mark.parametrize("language", quick(["i*f*", "(i|f)*", EXACT], "i*f*"))
def test_a_stack_has_the_gradient_of_its_rule(name, language):
    net, (params, xs, ys) = net_of(STACKS[name]), drawn(name)
    of_rule = lambda params, xs: ej.value_and_grad(ej.by_paths(net, LOSS, paths=language))(
        params, xs, ys
    )[0]
    loss = lambda y, h: 0.5 * jnp.sum((y - ys) ** 2) / xs.shape[1]
    wanted = jax.jit(jax.grad(of_rule, (0, 1)))(params, xs)
    assert_same(both(ej.layer(net, language), loss, params, xs), wanted, 1e-12)


def of_stack(y, h):
    return of_sequence(y, h[0]) + jnp.sum(jnp.sin(h[-1].sum(0)))


@pytest.mark.parametrize("name", quick(["two", "skips", "read"], "two"))
def test_of_a_stack_too_a_loss_of_the_sequence_has_autodiffs_gradient(name):
    net, (params, xs, _) = net_of(STACKS[name]), drawn(name)

    def simulated(params, xs):
        run = lay.simulate(STACKS[name], {**params, "cell": list(params["cell"])}, xs)
        return run.y, tuple(run.h)

    got = both(ej.layer(net, EXACT), of_stack, params, xs)
    assert_same(got, both(simulated, of_stack, params, xs), 1e-10)
    assert differ(got, both(ej.layer(net, "i*f*"), of_stack, params, xs))


def test_an_activity_that_is_used_connects_its_layer():
    """Under e-prop the lower layer has no path to the read-out; by its own activity it has one."""
    net, (params, xs, _) = net_of(STACKS["two"]), drawn("two")
    f = ej.layer(net)
    with pytest.raises(ValueError, match=r"params\['cell'\]\[0\]: got no path.*ej.layer \(i\*\).*"
                       r"wanted ej.layer\(…, paths=…\).*'i\*f\*'.*reads.*activity"):  # fmt: skip
        both(f, lambda y, h: jnp.sum(y**2), params, xs)
    with pytest.raises(ValueError, match=r"params\['cell'\]\[0\]: got no path"):
        both(f, lambda y, h: jnp.sum(h[1] ** 2), params, xs)
    with pytest.raises(ValueError, match=r"params\['cell'\]\[0\]: got no path"):
        jax.grad(lambda xs: jnp.sum(f(params, xs)[0]))(xs)
    two = both(f, lambda y, h: jnp.sum(y**2) + jnp.sum(jnp.sin(h[0])), params, xs)[0]["cell"]
    one = both(f, lambda y, h: jnp.sum(jnp.sin(h[0])), params, xs)[0]["cell"]
    assert_same(two[0], one[0], 1e-12)
    assert jnp.any(one[0]["w_rec"]) and not any(map(jnp.any, jax.tree.leaves(one[1])))


def test_two_layers_in_a_row():
    """E-prop in each, and whatever their libraries: credit climbs down, as under (i|f)* in a stack."""
    lower, upper = P.net, problem("gru", "leaky", n=4, T=6).net
    params = {"lower": P.params, "upper": problem("gru", "leaky", n=4, T=6).params}

    def in_a_row(language):
        f, g = ej.layer(lower, language), ej.layer(upper, language)
        return lambda params, xs: g(params["upper"], f(params["lower"], xs)[0])

    def by_loops(explicit):
        first = functools.partial(by_hand, P, explicit=explicit)
        second = functools.partial(by_hand, problem("gru", "leaky", n=4, T=6), explicit=explicit)
        return lambda params, xs: second(params["upper"], first(params["lower"], xs)[0])

    for language, explicit in (("i*", False), (EXACT, True)):
        got = both(in_a_row(language), of_sequence, params, P.xs)
        assert_same(got, both(by_loops(explicit), of_sequence, params, P.xs), 1e-10)


# -- under JAX's transformations ---------------------------------------------------------------------


def test_without_jit_under_vmap_scan_and_checkpoint():
    f = ej.layer(P.net)
    of = lambda params, xs: of_sequence(*f(params, xs))
    wanted = both(f, of_sequence, P.params, P.xs)
    assert_same(jax.grad(of, (0, 1))(P.params, P.xs), wanted, 1e-12)
    assert_same(jax.jit(jax.grad(jax.checkpoint(of), (0, 1)))(P.params, P.xs), wanted, 1e-12)
    many = jnp.stack([P.xs, 2 * P.xs, P.xs + 1])
    apart = jax.tree.map(lambda *x: jnp.stack(x), *(jax.grad(of)(P.params, xs) for xs in many))
    assert_same(jax.vmap(jax.grad(of), (None, 0))(P.params, many), apart, 1e-10)
    summed = jax.tree.map(lambda x: x.sum(0), apart)
    over = lambda params: jnp.sum(jax.vmap(of, (None, 0))(params, many))
    assert_same(jax.jit(jax.grad(over))(P.params), summed, 1e-10)
    scanned = lambda params: jax.lax.scan(lambda s, xs: (s + of(params, xs), None), 0.0, many)[0]
    assert_same(jax.jit(jax.grad(scanned))(P.params), summed, 1e-10)


def test_a_jacobian_is_a_gradient_a_row():
    f = ej.layer(GRU.net)
    last = lambda params: f(params, GRU.xs)[0][-1, 0]
    rows = jax.jit(jax.jacrev(last))(GRU.params)
    wanted = jax.grad(lambda params: last(params)[1])(GRU.params)
    assert_same(jax.tree.map(lambda x: x[1], rows), wanted, 1e-12)


@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_a_batch_of_any_axes(batch):
    f, p = ej.layer(P.net), problem("alif", "leaky", n=4, T=6, batch=batch)
    squares = lambda y, h: jnp.sum(jnp.sin(y.sum(0))) + jnp.sum(jnp.cos(h.sum(0)))
    got = both(f, squares, p.params, p.xs)
    flat = p.xs.reshape(6, -1, 2)
    wanted = both(f, squares, p.params, flat)
    assert_same(got, (wanted[0], wanted[1].reshape(p.xs.shape)), 1e-12)
    y, h = f(p.params, p.xs)
    assert y.shape == (6, *batch, 2) and h.shape == (6, *batch, 4)
    mask = jnp.zeros((6, *batch), bool).at[2:].set(True)
    assert not jnp.any(f(p.params, p.xs, mask)[1][:2])


def test_a_value_beside_a_gradient_keeps_its_rule_and_the_gradient_has_no_derivative():
    f = ej.layer(GRU.net)
    loss = lambda params: of_sequence(*f(params, GRU.xs))
    beside = jax.jit(jax.grad(lambda params: jax.value_and_grad(loss)(params)[0]))(GRU.params)
    assert_same(beside, jax.jit(jax.grad(loss))(GRU.params), 1e-12)
    with pytest.raises(TypeError, match=r"a gradient of ej[.]layer: got a function of it"):
        jax.grad(lambda params: jnp.sum(jax.grad(loss)(params)["cell"]["w_rec"]["r"]))(GRU.params)


def test_time_constants_may_be_traced():
    """The layer is made inside of a `vmap`, and differentiated there or outside of it."""
    taus = jnp.array([3.0, 9.0])

    def loss(params, tau):
        cell = ej.cells.alif(2, 4, tau_m=tau, v_th=0.3)
        return of_sequence(*ej.layer(ej.Network(cell, ej.readouts.leaky(4, 2)))(params, P.xs))

    each = [jax.grad(loss)(P.params, float(tau)) for tau in taus]
    wanted = jax.tree.map(lambda *x: jnp.stack(x), *each)
    assert differ(*each)
    inside = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(P.params, taus)
    assert_same(inside, wanted, 1e-10)
    outside = jax.jit(jax.grad(lambda p: jnp.sum(jax.vmap(loss, (None, 0))(p, taus))))(P.params)
    assert_same(outside, jax.tree.map(lambda x: x.sum(0), wanted), 1e-10)
    with pytest.raises(TypeError, match="made with"):
        jax.grad(loss, (0, 1))(P.params, 3.0)


@pytest.mark.parametrize("dtype, close", [("float32", 1e-4), ("bfloat16", 0.1)])
def test_dtypes(dtype, close):
    narrow = lambda tree: jax.tree.map(lambda x: x.astype(dtype), tree)
    params, xs = narrow(GRU.params), narrow(GRU.xs)
    f = ej.layer(GRU.net)
    y, h = f(params, xs)
    assert y.dtype == h.dtype == jnp.float32
    got = both(f, lambda y, h: jnp.sum(y**2) + jnp.sum(h), params, xs)
    assert {x.dtype for x in jax.tree.leaves(got)} == {jnp.dtype(dtype)}
    wanted = both(f, lambda y, h: jnp.sum(y**2) + jnp.sum(h), GRU.params, GRU.xs)
    assert_same(jax.tree.map(lambda x: x.astype(float), got), wanted, close)


def test_inputs_of_integers_have_no_derivative():
    f, spikes = ej.layer(P.net), jnp.asarray(np.arange(24).reshape(6, 2, 2) % 3 == 0, "int32")
    got, to_xs = jax.grad(lambda p, xs: of_sequence(*f(p, xs)), (0, 1), allow_int=True)(
        P.params, spikes
    )
    assert to_xs.dtype == jax.dtypes.float0 and to_xs.shape == spikes.shape
    assert_same(got, both(f, of_sequence, P.params, spikes.astype(float))[0], 1e-12)


# -- refusals ----------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused():
    with pytest.raises(TypeError, match=r"net: got dict, wanted an ej[.]Network"):
        ej.layer(P.params)
    with pytest.raises(ValueError, match="feedback: got 'fixed'"):
        ej.layer(P.net, feedback="fixed")
    with pytest.raises(ValueError, match="paths: got 'i\\*g'"):
        ej.layer(P.net, "i*g")
    f = ej.layer(P.net)
    with pytest.raises(ValueError, match=r"params\['feedback'\]: missing.*ej.layer reads"):
        ej.layer(P.net, feedback="random")(P.params, P.xs)
    with pytest.raises(ValueError, match=r"xs: got shape \[6, 2, 3\], wanted \[T, \*batch, 2\]"):
        f(P.params, jnp.ones((6, 2, 3)))
    with pytest.raises(ValueError, match=r"params\['cell'\]\['w_in'\]: got shape"):
        f({**P.params, "cell": {**P.params["cell"], "w_in": jnp.ones((3, 4))}}, P.xs)
    with pytest.raises(TypeError, match=r"mask: got dtype float64, wanted bool"):
        f(P.params, P.xs, MASK.astype(float))
    with pytest.raises(ValueError, match=r"resets: got shape \[5, 2\]"):
        f(P.params, P.xs, resets=MASK[1:])


def test_forward_mode_is_refused():
    f = ej.layer(P.net)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda xs: f(P.params, xs)[0], (P.xs,), (P.xs,))


def test_that_the_reference_by_hand_is_the_suites():
    got = by_hand(P, P.params, P.xs)[0][:, 0]
    wanted = unroll(P.cell.reference(4), P.readout.reference, P.params, P.xs[:, 0])[0]
    assert_same(got, wanted, 1e-14)
