"""Wrong input is refused before anything is traced, with the argument's name, what came, what was
wanted."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import eprop_jax as ej

N_IN, N, N_OUT, T, BATCH = 3, 5, 2, 4, 2
KEY = jax.random.key(0)
XS, YS = jnp.ones((T, BATCH, N_IN)), jnp.ones((T, BATCH, N_OUT))
NET = ej.Network(ej.cells.rnn(N_IN, N), ej.readouts.linear(N, N_OUT))
GRU = ej.Network(ej.cells.gru(N_IN, N), ej.readouts.linear(N, N_OUT))
SMALL = ej.Network(ej.cells.rnn(N_IN, 4), ej.readouts.linear(4, N_OUT))
PARAMS = NET.init(KEY)
B = ej.feedback.init(KEY, NET)
NAN = float("nan")
CALLS = []


def loss(y, target):
    CALLS.append(y)
    return ej.losses.squared_error(y, target)


RULE = ej.eprop(NET, loss)
RANDOM = ej.eprop(NET, loss, feedback="random")


def with_cell(**leaves):
    return {**PARAMS, "cell": {**PARAMS["cell"], **leaves}}


def without(tree, key):
    return {k: v for k, v in tree.items() if k != key}


def check(table):
    return pytest.mark.parametrize(
        "call, words", [row[1:] for row in table], ids=[row[0] for row in table]
    )


def assert_refused(call, words, kinds=(ValueError, TypeError)):
    """`words`: the argument first, then parts of what came and what was wanted."""
    CALLS.clear()
    with pytest.raises(kinds) as refusal:
        call()
    message = str(refusal.value)
    assert message.startswith(words[0]), message
    for word in words[1:]:
        assert word in message, message
    assert not CALLS, "the loss was traced before the refusal"


# -- what a rule is called with: (what is wrong, (params, xs, ys) -> changed, words of the refusal)

DATA = [
    ("T", PARAMS, XS, YS[:3], ("ys", "[3, 2, 2]", "[4, 2]")),
    ("batch", PARAMS, XS, YS[:, :1], ("ys", "[4, 1, 2]", "[4, 2]")),
    ("a leaf's T", PARAMS, XS, {"a": YS, "b": YS[:2]}, ("ys['b']", "[2, 2, 2]", "[4, 2]")),
    ("no targets", PARAMS, XS, None, ("ys", "no arrays", "wanted")),
    ("scalar target", PARAMS, XS, 1.0, ("ys", "[]", "[4, 2]")),
    ("features", PARAMS, XS[..., :2], YS, ("xs", "[4, 2, 2]", "n_in=3")),
    ("rank", PARAMS, XS[:, 0, 0], YS, ("xs", "[4]", "[T, *batch, 3]")),
    ("empty sequence", PARAMS, XS[:0], YS[:0], ("xs", "empty sequence", "T >= 1")),
    ("empty batch", PARAMS, XS[:, :0], YS[:, :0], ("xs", "empty batch", ">= 1")),
    ("list input", PARAMS, [[1.0]], YS, ("xs", "list", "array")),
    ("no input", PARAMS, None, YS, ("xs", "NoneType", "array")),
    ("complex input", PARAMS, XS.astype("complex64"), YS, ("xs", "complex64", "real")),
    ("integer weights", with_cell(w_in=jnp.ones((N_IN, N), "int32")), XS, YS,
     ("params['cell']['w_in']", "int32", "floating")),
    ("all integers", jax.tree.map(lambda p: p.astype("int32"), PARAMS), XS, YS,
     ("params['cell']", "int32", "floating")),
    ("boolean bias", with_cell(bias=jnp.ones(N, bool)), XS, YS,
     ("params['cell']['bias']", "bool", "floating")),
    ("two dtypes", with_cell(bias=jnp.ones(N, "float32")), XS, YS,
     ("params", "float32", "float64", "one dtype")),
    ("another size", SMALL.init(KEY), XS, YS, ("params['cell']", "[4]", "[5]", "another network")),
    ("another cell", GRU.init(KEY), XS, YS, ("params['cell']", "missing", "another network")),
    ("missing bias", {**PARAMS, "cell": without(PARAMS["cell"], "bias")}, XS, YS,
     ("params['cell']['bias']", "missing", "[5]")),
    ("unknown leaf", with_cell(tau=jnp.ones(N)), XS, YS,
     ("params['cell']['tau']", "no such parameter")),
    ("unknown entry", {**PARAMS, "extra": jnp.ones(N)}, XS, YS,
     ("params", "extra", "does not train")),
    ("no read-out", without(PARAMS, "readout"), XS, YS, ("params", "['cell']", "'readout'")),
    ("no parameters", None, XS, YS, ("params", "NoneType", "net.init")),
    ("feedback unasked", {**PARAMS, "feedback": B}, XS, YS,
     ("params", "feedback", "does not train")),
]  # fmt: skip


@pytest.mark.parametrize("chunk", [None, 2, "step"])
@pytest.mark.parametrize("params, xs, ys, words", [r[1:] for r in DATA], ids=[r[0] for r in DATA])
def test_a_rule_refuses_what_does_not_fit_the_network(params, xs, ys, words, chunk):
    if chunk == "step":
        carry = RULE.init(PARAMS, (BATCH,))
        assert_refused(lambda: RULE.step(params, carry, xs, ys), words)
    else:
        assert_refused(lambda: ej.value_and_grad(RULE, chunk=chunk)(params, xs, ys), words)


@pytest.mark.parametrize("make", [ej.bptt, ej.rtrl, lambda n, f: ej.m_order_eprop(n, f, order=2)])
def test_every_rule_refuses_alike(make):
    f = ej.value_and_grad(make(NET, loss))
    assert_refused(lambda: f(PARAMS, XS, YS[:3]), ("ys", "[3, 2, 2]", "[4, 2]"))
    assert_refused(lambda: f(GRU.init(KEY), XS, YS), ("params['cell']", "another network"))
    assert_refused(lambda: f({**PARAMS, "feedback": B}, XS, YS), ("params", "feedback"))


FEEDBACK = [
    ("missing", PARAMS, ("params", "missing", "[5, 2]", "ej.feedback.init")),
    ("transposed", {**PARAMS, "feedback": B.T}, ("params['feedback']", "[2, 5]", "[5, 2]")),
    ("integer", {**PARAMS, "feedback": jnp.ones((N, N_OUT), "int32")},
     ("params['feedback']", "int32", "floating")),
]  # fmt: skip


@pytest.mark.parametrize("params, words", [r[1:] for r in FEEDBACK], ids=[r[0] for r in FEEDBACK])
def test_random_feedback_needs_its_weights(params, words):
    assert_refused(lambda: ej.value_and_grad(RANDOM)(params, XS, YS), words)
    assert_refused(lambda: RANDOM.init(params, (BATCH,)), words)


CARRIES = [
    ("no carry", (), ("carry", "tuple", "init")),
    ("another batch", RULE.init(PARAMS, (3,)), ("carry", "[3]", "[2]")),
    ("another rule", ej.rtrl(NET, loss).init(PARAMS, (BATCH,)), ("carry", "another rule", "init")),
    ("another cell", ej.eprop(GRU, loss).init(GRU.init(KEY), (BATCH,)),
     ("carry", "another network", "init")),
    ("another size", ej.eprop(SMALL, loss).init(SMALL.init(KEY), (BATCH,)),
     ("carry.state.c", "[2, 4]", "[2, 5]")),
]  # fmt: skip


@pytest.mark.parametrize("carry, words", [r[1:] for r in CARRIES], ids=[r[0] for r in CARRIES])
def test_step_refuses_a_carry_of_another(carry, words):
    assert_refused(lambda: RULE.step(PARAMS, carry, XS, YS), words)


@pytest.mark.parametrize("batch", [(-1,), (0,), 2.5, None, ("a",), (True,)])
def test_init_refuses_a_wrong_batch_shape(batch):
    assert_refused(lambda: RULE.init(PARAMS, batch), ("batch_shape", repr(batch), "(8,)"))


# -- what things are made of -----------------------------------------------------------------------

alif, lif, leaky = ej.cells.alif, ej.cells.lif, ej.readouts.leaky
MAKING = [
    ("order 0", lambda: ej.m_order_eprop(NET, loss, order=0), ("order", "0", ">= 1")),
    ("order 2.0", lambda: ej.m_order_eprop(NET, loss, order=2.0), ("order", "2.0", "int")),
    ("order True", lambda: ej.m_order_eprop(NET, loss, order=True), ("order", "True", "int")),
    ("order None", lambda: ej.m_order_eprop(NET, loss, order=None), ("order", "None", "int")),
    ("feedback name", lambda: ej.eprop(NET, loss, feedback="fixed"),
     ("feedback", "fixed", "symmetric")),
    ("feedback None", lambda: ej.m_order_eprop(NET, loss, order=2, feedback=None),
     ("feedback", "None", "symmetric")),
    ("net", lambda: ej.eprop(NET.cell, loss), ("net", "Cell", "Network")),
    ("loss None", lambda: ej.bptt(NET, None), ("loss", "NoneType", "function")),
    ("loss name", lambda: ej.rtrl(NET, "mse"), ("loss", "str", "function")),
    ("activity", lambda: ej.eprop(NET, loss, activity_loss=0.1), ("activity_loss", "float")),
    ("rule", lambda: ej.value_and_grad(loss), ("rule", "function", "LearningRule")),
    ("chunk 0", lambda: ej.value_and_grad(RULE, chunk=0), ("chunk", "0", ">= 1")),
    ("chunk -3", lambda: ej.value_and_grad(RULE, chunk=-3), ("chunk", "-3", ">= 1")),
    ("chunk 2.5", lambda: ej.value_and_grad(RULE, chunk=2.5), ("chunk", "2.5", "int")),
    ("network sizes", lambda: ej.Network(ej.cells.rnn(3, 5), ej.readouts.linear(4, 2)),
     ("readout", "4", "5")),
    ("network order", lambda: ej.Network(ej.readouts.linear(4, 2), ej.cells.rnn(3, 4)),
     ("cell", "Readout", "Cell")),
    ("n_units 0", lambda: ej.cells.rnn(3, 0), ("n_units", "0", ">= 1")),
    ("n_in 3.0", lambda: ej.cells.rnn(3.0, 5), ("n_in", "3.0", "int")),
    ("n_in -1", lambda: ej.cells.gru(-1, 5), ("n_in", "-1", ">= 1")),
    ("n_out 0", lambda: ej.readouts.linear(5, 0), ("n_out", "0", ">= 1")),
    ("kappa 1", lambda: leaky(5, 2, kappa=1.0), ("kappa", "1.", "[0, 1)")),
    ("kappa < 0", lambda: leaky(5, 2, kappa=-0.1), ("kappa", "-0.1", "[0, 1)")),
    ("kappa nan", lambda: leaky(5, 2, kappa=NAN), ("kappa", "nan", "[0, 1)")),
    ("kappa shape", lambda: leaky(5, 2, kappa=np.full(3, 0.5)), ("kappa", "(3,)", "[2]")),
    ("tau 0", lambda: leaky(5, 2, tau=0.0), ("tau", "0.", "positive")),
    ("tau_m < 0", lambda: lif(3, 5, tau_m=-1.0), ("tau_m", "-1.", "positive")),
    ("tau_m text", lambda: lif(3, 5, tau_m="20"), ("tau_m", "'20'", "numbers")),
    ("alpha 1", lambda: lif(3, 5, alpha=1.0), ("alpha", "1.", "[0, 1)")),
    ("rho 1.5", lambda: alif(3, 5, rho=1.5), ("rho", "1.5", "[0, 1)")),
    ("decay 1", lambda: ej.cells.leaky_rnn(3, 5, decay=1.0), ("decay", "1.", "[0, 1)")),
    ("decay -.5", lambda: ej.cells.linear_recurrence(3, 5, decay=-0.5),
     ("decay", "-0.5", "[0, 1)")),
    ("v_th 0", lambda: lif(3, 5, v_th=0.0), ("v_th", "0.", "positive")),
    ("dt 0", lambda: lif(3, 5, dt=0.0), ("dt", "0.0", "positive")),
    ("refractory < 0", lambda: lif(3, 5, refractory=-1), ("refractory", "-1", ">= 0")),
    ("refractory 1.5", lambda: lif(3, 5, refractory=1.5), ("refractory", "1.5", "int")),
    ("beta shape", lambda: alif(3, 5, beta=np.ones(4)), ("beta", "(4,)", "[5]")),
    ("beta inf", lambda: alif(3, 5, beta=np.inf), ("beta", "inf", "finite")),
    ("lif beta", lambda: lif(3, 5, beta=0.1), ("beta", "alif")),
    ("surrogate name", lambda: lif(3, 5, surrogate="arctan"), ("psi", "str", "function")),
    ("height 0", lambda: ej.surrogates.arctan(0.0), ("height", "0.0", "positive")),
    ("width < 0", lambda: ej.surrogates.exponential(1.0, -1.0), ("width", "-1.0", "positive")),
    ("psi", lambda: ej.surrogates.spike(1.0), ("psi", "float", "function")),
    ("trainable tau", lambda: alif(3, 5, trainable=("tau",)), ("trainable", "'tau'", "tau_m")),
    ("trainable text", lambda: alif(3, 5, trainable="tau_a"), ("trainable", "tau_a", "tuple")),
    ("trainable 3", lambda: alif(3, 5, trainable=3), ("trainable", "3", "tuple")),
    ("lif trains beta", lambda: lif(3, 5, trainable=("beta",)), ("trainable", "beta", "tau_m")),
    ("read-out trains kappa", lambda: leaky(5, 2, trainable=("kappa",)),
     ("trainable", "kappa", "tau")),
    ("trained decay 0", lambda: ej.cells.leaky_rnn(3, 5, decay=0.0, trainable=("tau",)),
     ("decay", "0.", "positive")),
    ("mask shape", lambda: ej.cells.rnn(3, 5, connectivity=np.ones((5, 4), bool)),
     ("connectivity", "[5, 4]", "[5, 5]")),
    ("mask dtype", lambda: ej.cells.rnn(3, 5, connectivity=np.ones((5, 5))),
     ("connectivity", "float64", "bool")),
    ("gain", lambda: ej.cells.gru(3, 5, gain_rec=-1.0), ("gain_rec", "-1.0", "non-negative")),
    ("activation", lambda: ej.cells.rnn(3, 5, activation="tanh"),
     ("activation", "str", "function")),
    ("forget_bias", lambda: ej.cells.lstm(3, 5, forget_bias=NAN), ("forget_bias", "nan")),
    ("read-out gain", lambda: ej.readouts.linear(5, 2, gain=-1.0), ("gain", "-1.0")),
    ("masked", lambda: ej.losses.masked(3), ("loss", "int", "function")),
    ("strength", lambda: ej.losses.firing_rate(0.1, -1.0), ("strength", "-1.0")),
    ("rate", lambda: ej.losses.firing_rate(NAN), ("target", "nan", "finite")),
    ("no rules", lambda: ej.compare({}, PARAMS, XS, YS), ("rules", "{}", "at least one")),
    ("no rule", lambda: ej.compare({"a": loss}, PARAMS, XS, YS), ("rules['a']", "function")),
    ("reference", lambda: ej.compare({"a": RULE}, PARAMS, XS, YS, reference="bptt"),
     ("reference", "str", "LearningRule")),
    ("feedback of params", lambda: ej.feedback.init(KEY, PARAMS), ("net", "dict", "Network")),
    ("optimizer", lambda: ej.online(RULE, None), ("optimizer", "NoneType", "optax")),
    ("every 0", lambda: ej.online(RULE, optax.sgd(0.1), every=0), ("every", "0", ">= 1")),
]  # fmt: skip


@check(MAKING)
def test_wrong_arguments_are_refused_where_they_are_given(call, words):
    assert_refused(call, words)


# -- a user's own unit -----------------------------------------------------------------------------


def neuron(dynamics=lambda theta, c, a: 0.5 * c + a, output=lambda theta, c: c, state=0.0, **more):
    cell = ej.cells.custom(N_IN, N, dynamics, output, state, **more)
    net = ej.Network(cell, ej.readouts.linear(N, N_OUT))
    return ej.value_and_grad(ej.eprop(net, loss))(net.init(KEY), XS, YS)


def reader(dynamics, **more):
    net = ej.Network(ej.cells.rnn(N_IN, N), ej.readouts.custom(N, N_OUT, dynamics, **more))
    return ej.value_and_grad(ej.eprop(net, loss))(net.init(KEY), XS, YS)


OWN = [
    ("shape", lambda: neuron(lambda t, c, a: jnp.stack([c, a])), ("dynamics", "[2]", "[]", "same")),
    ("tree", lambda: neuron(lambda t, c, a: (c, a)), ("dynamics", "(*, *)", "structure")),
    ("dtype", lambda: neuron(lambda t, c, a: (c > 0).astype("int32")), ("dynamics", "int32")),
    ("narrower", lambda: neuron(lambda t, c, a: c.astype("float32")), ("dynamics", "float32")),
    ("None", lambda: neuron(lambda t, c, a: None), ("dynamics", "None", "structure")),
    ("no function", lambda: neuron(3), ("dynamics", "int", "function")),
    ("only integers", lambda: neuron(lambda t, c, a: c, state=0), ("state", "floating")),
    ("output bool", lambda: neuron(output=lambda t, c: c > 0), ("output", "bool", "floating")),
    ("output [2]", lambda: neuron(output=lambda t, c: jnp.stack([c, c])), ("output", "(2,)")),
    ("state text", lambda: neuron(state="v"), ("state", "'v'", "numbers")),
    ("state [n]", lambda: neuron(state=np.zeros(N)), ("state", "[5]", "one unit")),
    ("no state", lambda: neuron(state=()), ("state", "()", "at least one")),
    ("drives", lambda: neuron(drives=("w_in", "w_foo")), ("drives", "w_foo", "w_rec")),
    ("drives text", lambda: neuron(drives="w_in"), ("drives", "w_in", "tuple")),
    ("no drives", lambda: neuron(drives={}), ("drives", "{}", "w_in")),
    ("both", lambda: neuron(theta={"d": 1.0}, constants={"d": 1.0}), ("theta, constants", "'d'")),
    ("theta shape", lambda: neuron(theta={"d": np.ones(3)}), ("theta['d']", "(3,)", "[5]")),
    ("theta text", lambda: neuron(theta={"d": "x"}), ("theta['d']", "'x'", "numbers")),
    ("theta list", lambda: neuron(theta=["d"]), ("theta", "list", "dict")),
    ("shared name", lambda: neuron(shared=("v",)), ("shared", "'v'", "('',)")),
    ("read-out shape", lambda: reader(lambda p, y, a: jnp.stack([y, a])), ("dynamics", "[2]")),
    ("read-out dtype", lambda: reader(lambda p, y, a: y > 0), ("dynamics", "bool")),
    ("read-out y_0", lambda: reader(lambda p, y, a: a, y_0=NAN), ("y_0", "nan", "finite")),
    ("read-out shared", lambda: reader(lambda p, y, a: a, shared=True, theta={"g": 1.0}),
     ("shared", "True", "'g'")),
    # what no rule could train: its gradient would be a silent zero
    ("theta unread", lambda: neuron(theta={"g": 1.0}),
     ("params['cell']['theta']['g']", "zero", "can be trained")),
    ("drive unread", lambda: neuron(lambda t, c, a: 0.5 * c),
     ("params['cell']['bias']", "zero", "can be trained")),
    ("hard threshold", lambda: neuron(output=lambda t, c: (c > 0).astype("float64")),
     ("params['cell']['bias']", "step function without a surrogate")),
    ("read-out unread", lambda: reader(lambda p, y, a: 0.5 * y),
     ("params['readout']['bias']", "zero", "can be trained")),
    ("read-out number", lambda: reader(lambda p, y, a: 1.0),
     ("params['readout']['bias']", "zero", "can be trained")),
    # promises that do not hold
    ("shared, of c", lambda: neuron(lambda t, c, a: jnp.tanh(c) + a, shared=("",)),
     ("shared", "['c']", "the same derivatives for all units")),
    ("shared, unequal", lambda: neuron(lambda t, c, a: t["d"] * c + a, shared=("",),
                                       constants={"d": np.linspace(0.1, 0.9, N)}),
     ("shared", "'d'", "the same derivatives for all units")),
    ("read-out shared, of y", lambda: reader(lambda p, y, a: jnp.tanh(y) + a, shared=True),
     ("shared", "['c']", "the same derivatives for all units")),
    ("flag", lambda: ej.cells.rnn(N_IN, N, self_connections="no"),
     ("self_connections", "'no'", "True or False")),
    ("two decays", lambda: ej.readouts.leaky(N, N_OUT, tau=3.0, kappa=0.5),
     ("tau, kappa", "both", "one of them")),
    ("decay of 1", lambda: ej.cells.lif(N_IN, N, tau_m=1e18), ("tau_m", "1.e+18", "wanted less")),
]  # fmt: skip


@check(OWN)
def test_a_neuron_of_the_users_own_is_checked_on_shapes(call, words):
    assert_refused(call, words)


# -- a loss is only known once it is called, on shapes ---------------------------------------------


def given(loss, ys=YS, **more):
    return ej.value_and_grad(ej.eprop(NET, loss, **more))(PARAMS, XS, ys)


LOSSES = [
    ("integer", lambda: given(lambda y, t: jnp.argmax(y)), ("loss", "int", "floating")),
    ("None", lambda: given(lambda y, t: None), ("loss", "NoneType", "floating")),
    ("pair", lambda: given(lambda y, t: (y, y)), ("loss", "tuple", "floating")),
    ("features", lambda: given(ej.losses.squared_error, YS[..., :1]), ("ys", "[1]", "[2]")),
    ("classes", lambda: given(ej.losses.softmax_cross_entropy, YS[..., 0]),
     ("ys", "float64[]", "integer class")),
    ("wide mask", lambda: given(ej.losses.masked(ej.losses.squared_error), (YS, YS)),
     ("ys", "mask of shape [2]", "[]")),
    ("no mask", lambda: given(ej.losses.masked(ej.losses.squared_error)), ("ys", "(target, mask)")),
    ("activity", lambda: given(optax.l2_loss, activity_loss=jnp.argmax),
     ("activity_loss", "int", "floating")),
    ("rates", lambda: given(optax.l2_loss, activity_loss=ej.losses.firing_rate(np.ones(3))),
     ("target", "(3,)", "[5]")),
]  # fmt: skip


@check(LOSSES)
def test_a_loss_that_does_not_fit_says_so(call, words):
    assert_refused(call, words)
