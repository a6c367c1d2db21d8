"""Wrong calls over the whole public surface: one table, one runner.

Each row is a call, and words of its refusal: the argument first, then parts of what came and of
what was wanted. A refusal comes before the loss is traced and before anything is compiled, from the
library's own lines.
"""

import collections
import dataclasses
import functools
import inspect
import os
import traceback
import types

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matplotlib.figure import Figure

import eprop_jax as ej
from eprop_jax import plotting, training
from eprop_jax.cli import experiments
from eprop_jax.interop import equinox_nn, flax_linen, flax_nnx, nir

KEY = jax.random.key(0)
KEYS = jax.random.split(KEY, 2)
N_IN, N, N_OUT, T, BATCH = 3, 5, 2, 4, 2
# NumPy arrays, whose slices compile nothing.
XS, YS = np.ones((T, BATCH, N_IN)), np.ones((T, BATCH, N_OUT))
IMAGES, LABELS = np.zeros((2, 8, 8)), np.zeros(2, "int32")
FRAMES, LENGTHS = np.ones((2, 5, 12)), np.array([4, 2])
NAN = float("nan")
FOLDER = "no/such/folder"
AX = Figure().subplots()


def loss(y, target):
    raise AssertionError("the loss was traced before the refusal")


COMPILED = []


def hear(event, *_, **__):
    if "backend_compile" in event:
        COMPILED.append(event)


jax.monitoring.register_event_duration_secs_listener(hear)

NET = ej.Network(ej.cells.rnn(N_IN, N), ej.readouts.linear(N, N_OUT))
GRU = ej.Network(ej.cells.gru(N_IN, N), ej.readouts.linear(N, N_OUT))
SMALL = ej.Network(ej.cells.rnn(N_IN, 4), ej.readouts.linear(4, N_OUT))
CELL = NET.cell
NOISY = ej.cells.noisy(CELL, 0.1, key=KEY)
PARAMS = NET.init(KEY)
B = ej.feedback.init(KEY, NET)
SGD = optax.sgd(0.1)
RULE = ej.eprop(NET, loss)
RANDOM = ej.eprop(NET, loss, feedback="random")
CARRY = RULE.init(PARAMS, (BATCH,))
TRAINER = training.trainer(RULE, SGD, lambda key: (XS, YS))
STATE = TRAINER.init(PARAMS, KEY)
LEARNER = ej.online(RULE, SGD)
ONLINE = LEARNER.init(PARAMS, (BATCH,))
REGULARISED, UNTRACED = ej.eprop(NET, loss, state_loss=loss), ej.bptt(NET, loss)
REWARDED = ej.three_factor(RULE, 0.9)
WAITING = REWARDED.init(PARAMS, (BATCH,))
PATTERN = ej.tasks.pattern_generation()
MESH = ej.sharding.mesh(batch=1, units=1)
HYBRID = ej.hybrids.first_explicit_gradient(NET, loss)

vjp = jax.custom_vjp(lambda x: x)
vjp.defvjp(lambda x: (x, None), lambda _, g: (g,))


def with_cell(**leaves):
    return {**PARAMS, "cell": {**PARAMS["cell"], **leaves}}


def without(tree, key):
    return {k: v for k, v in tree.items() if k != key}


def spiking(psi):
    return ej.cells.lif(N_IN, N, surrogate=psi)


# -- what a rule is called with: (what is wrong, params, xs, ys, words of the refusal) -------------

DATA = [
    ("T", PARAMS, XS, YS[:3], ("ys", "[3, 2, 2]", "[4, 2, ...]", "time first")),
    ("batch", PARAMS, XS, YS[:, :1], ("ys", "[4, 1, 2]", "[4, 2, ...]", "time first")),
    ("a leaf's T", PARAMS, XS, {"a": YS, "b": YS[:2]},
     ("ys['b']", "[2, 2, 2]", "[4, 2, ...]", "time first")),
    ("no targets", PARAMS, XS, None, ("ys", "no arrays", "wanted")),
    ("scalar target", PARAMS, XS, 1.0, ("ys", "[]", "[4, 2, ...]", "time first")),
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
     ("params['cell']['bias']", "int32", "floating")),
    ("boolean bias", with_cell(bias=jnp.ones(N, bool)), XS, YS,
     ("params['cell']['bias']", "bool", "floating")),
    ("two dtypes", with_cell(bias=jnp.ones(N, "float32")), XS, YS,
     ("params", "float32", "float64", "one dtype")),
    ("another size", SMALL.init(KEY), XS, YS,
     ("params['cell']['bias']", "[4]", "[5]", "another network")),
    ("another cell", GRU.init(KEY), XS, YS,
     ("params['cell']['bias']", "missing", "another network")),
    ("missing bias", {**PARAMS, "cell": without(PARAMS["cell"], "bias")}, XS, YS,
     ("params['cell']['bias']", "missing", "[5]")),
    ("unknown leaf", with_cell(tau=jnp.ones(N)), XS, YS,
     ("params['cell']['tau']", "no such parameter")),
    ("unknown entry", {**PARAMS, "extra": jnp.ones(N)}, XS, YS,
     ("params", "extra", "does not train")),
    ("no read-out", without(PARAMS, "readout"), XS, YS, ("params", "['cell']", "'readout'")),
    ("no parameters", None, XS, YS, ("params", "NoneType", "net.init")),
    ("feedback of another network", {**PARAMS, "feedback": B.T}, XS, YS,
     ("params['feedback']", "[2, 5]", "[5, 2]")),
]  # fmt: skip

FEEDBACK = [
    ("missing", PARAMS, ("params['feedback']", "missing", "[5, 2]", "ej.feedback.init")),
    ("transposed", {**PARAMS, "feedback": B.T}, ("params['feedback']", "[2, 5]", "[5, 2]")),
    ("integer", {**PARAMS, "feedback": jnp.ones((N, N_OUT), "int32")},
     ("params['feedback']", "int32", "floating")),
]  # fmt: skip

CARRIES = [
    ("no carry", (), ("carry", "tuple", "init")),
    ("another batch", RULE.init(PARAMS, (3,)), ("carry", "[3]", "[2]")),
    ("another rule", ej.rtrl(NET, loss).init(PARAMS, (BATCH,)), ("carry", "another rule", "init")),
    ("another cell", ej.eprop(GRU, loss).init(GRU.init(KEY), (BATCH,)),
     ("carry", "another network", "init")),
    ("another size", ej.eprop(SMALL, loss).init(SMALL.init(KEY), (BATCH,)),
     ("carry.state.c", "[2, 4]", "[2, 5]")),
]  # fmt: skip

alike = lambda net, f: ej.m_order_eprop(net, f, order=2)
RULES = {"bptt": ej.bptt, "rtrl": ej.rtrl, "order 2": alike}
FEW = ("a leaf's T", "another cell", "feedback of another network")


def called():
    """Each row of DATA over a sequence, in chunks, and by hand; a few of them under every rule."""
    for what, params, xs, ys, words in DATA:
        for chunk in (None, 2):
            f = ej.value_and_grad(RULE, chunk=chunk)
            call = lambda f=f, params=params, xs=xs, ys=ys: f(params, xs, ys)
            yield f"chunk {chunk}, {what}", call, words
        call = lambda params=params, xs=xs, ys=ys: RULE.step(params, CARRY, xs, ys)
        yield f"step, {what}", call, words
        for name, make in RULES.items() if what in FEW else ():
            f = ej.value_and_grad(make(NET, loss))
            call = lambda f=f, params=params, xs=xs, ys=ys: f(params, xs, ys)
            yield f"{name}, {what}", call, words
    for what, params, words in FEEDBACK:
        f = ej.value_and_grad(RANDOM)
        yield f"feedback {what}", lambda f=f, params=params: f(params, XS, YS), words
        call = lambda params=params: RANDOM.init(params, (BATCH,))
        yield f"init, feedback {what}", call, words
    for what, carry, words in CARRIES:
        yield f"step, {what}", lambda carry=carry: RULE.step(PARAMS, carry, XS, YS), words
    for batch in [(-1,), (0,), 2.5, None, ("a",), (True,)]:
        call = lambda batch=batch: RULE.init(PARAMS, batch)
        yield f"init, {batch!r}", call, ("batch_shape", repr(batch), "(8,)")


# -- one step without its time axis, and other shapes that come from elsewhere ---------------------

ALONE = RULE.init(PARAMS)
STEP = ("xs", "xs[t] has no time axis", "xs[t:t+1]", "xs[None]")
SHAPES = [
    ("one step", lambda: RULE.step(PARAMS, CARRY, XS[0], YS[0]),
     (*STEP, "leading axes [2]", "batch [2]")),
    ("one step of one example", lambda: RULE.step(PARAMS, ALONE, XS[0, 0], YS[0, 0]),
     (*STEP, "got shape [3]")),
    ("one step of a learner", lambda: LEARNER.step(ONLINE, XS[0], YS[0]), STEP),
    ("batch first", lambda: ej.value_and_grad(RULE)(PARAMS, np.ones((9, T, N_IN)), np.ones(9)),
     ("ys", "[9]", "[9, 4, 3]", "time first", "xs.swapaxes(0, 1)")),
    ("batch first, n_out", lambda: ej.value_and_grad(RULE)(
        PARAMS, np.ones((9, T, N_IN)), np.ones((9, N_OUT))),
     ("ys", "[9, 2]", "[9, 4, 3]", "time first", "xs.swapaxes(0, 1)")),
    ("OrderedDict", lambda: ej.value_and_grad(RULE)(collections.OrderedDict(PARAMS), XS, YS),
     ("params", "OrderedDict", "plain dict", "dict(params)")),
    ("OrderedDict inside", lambda: ej.value_and_grad(RULE)(
        {**PARAMS, "cell": collections.OrderedDict(PARAMS["cell"])}, XS, YS),
     ("params['cell']", "OrderedDict", "plain dict", "dict(params['cell'])")),
    ("frozen", lambda: RULE.init(types.MappingProxyType(PARAMS)),
     ("params", "mappingproxy", "plain dict")),
]  # fmt: skip


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
    ("kappa > 1", lambda: leaky(5, 2, kappa=1.1), ("kappa", "1.1", "[0, 1]")),
    ("kappa < 0", lambda: leaky(5, 2, kappa=-0.1), ("kappa", "-0.1", "[0, 1]")),
    ("kappa nan", lambda: leaky(5, 2, kappa=NAN), ("kappa", "nan", "[0, 1]")),
    ("kappa 1 scales", lambda: leaky(5, 2, kappa=1.0, scale_input=True),
     ("kappa", "1.0", "wanted less", "1 − kappa")),
    ("tau inf trained", lambda: leaky(5, 2, tau=np.inf, trainable=("tau",)),
     ("tau", "inf", "wanted less", "trainable")),
    ("kappa shape", lambda: leaky(5, 2, kappa=np.full(3, 0.5)), ("kappa", "(3,)", "[2]")),
    ("tau 0", lambda: leaky(5, 2, tau=0.0), ("tau", "0.", "positive")),
    ("tau_m < 0", lambda: lif(3, 5, tau_m=-1.0), ("tau_m", "-1.", "positive")),
    ("tau_m text", lambda: lif(3, 5, tau_m="20"), ("tau_m", "'20'", "numbers")),
    ("tau_m nan", lambda: lif(3, 5, tau_m=NAN), ("tau_m", "nan", "positive")),
    ("tau_m rounds away", lambda: lif(3, 5, tau_m=1e17), ("tau_m", "1e+17", "float64", "inf")),
    ("alpha 1.5", lambda: lif(3, 5, alpha=1.5), ("alpha", "1.5", "[0, 1]")),
    ("alpha 1 scales", lambda: lif(3, 5, alpha=1.0, scale_input=True),
     ("alpha", "1.0", "wanted less", "1 − alpha")),
    ("alpha 1, β", lambda: alif(3, 5, alpha=[1.0, 0.5, 0.5, 0.5, 0.5]), ("beta", "alpha", "1.0")),
    ("tau_a inf, β", lambda: alif(3, 5, tau_a=np.inf), ("beta", "tau_a", "inf")),
    ("rho 1.5", lambda: alif(3, 5, rho=1.5), ("rho", "1.5", "[0, 1]")),
    ("decay 1", lambda: ej.cells.leaky_rnn(3, 5, decay=1.0), ("decay", "1.0", "1 − alpha")),
    ("tau inf", lambda: ej.cells.leaky_rnn(3, 5, tau=np.inf), ("tau", "inf", "1 − alpha")),
    ("decay -.5", lambda: ej.cells.linear_recurrence(3, 5, decay=-0.5),
     ("decay", "-0.5", "[0, 1]")),
    ("decay 1 trained",
     lambda: ej.cells.linear_recurrence(3, 5, decay=1.0, trainable=("decay",)),
     ("decay", "1.0", "trainable")),
    ("wide constant", lambda: neuron(constants={"k": 2**33 + 1}), ("constants['k']", "int32")),
    ("wide constant 2", lambda: neuron(constants={"k": np.uint32(2**32 - 1)}),
     ("constants['k']", "4294967295", "int32")),
    ("wide read-out constant", lambda: reader(lambda p, y, a: a, constants={"k": 2**33}),
     ("constants['k']", "int32")),
    ("wide state", lambda: neuron(state=(0.0, np.int64(2**33 + 1))), ("state[1]", "int32")),
    ("wide refractory", lambda: lif(3, 5, refractory=2**33), ("refractory", "int32")),
    ("wide seed", lambda: experiments.settings("xor", seed=2**32), ("seed", "2**32")),
    ("huge seed", lambda: experiments.settings("xor", seed=2**70), ("seed", "2**32")),
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
     ("decay (trainable)", "0.", "positive")),
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


# -- a user's own unit -----------------------------------------------------------------------------


def tried(net, loss=loss, ys=YS, **more):
    f = ej.value_and_grad(ej.eprop(net, loss, **more))
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(net.init, KEY))
    COMPILED.clear()  # to make a rule draws a key
    return f(params, XS, ys)


def neuron(dynamics=lambda theta, c, a: 0.5 * c + a, output=lambda theta, c: c, state=0.0, **more):
    cell = ej.cells.custom(N_IN, N, dynamics, output, state, **more)
    return tried(ej.Network(cell, ej.readouts.linear(N, N_OUT)))


def reader(dynamics, **more):
    return tried(ej.Network(ej.cells.rnn(N_IN, N), ej.readouts.custom(N, N_OUT, dynamics, **more)))


class Plain:
    v = 0.0


@dataclasses.dataclass
class Unregistered:
    v: float = 0.0


OWN = [
    ("shape", lambda: neuron(lambda t, c, a: jnp.stack([c, a])), ("dynamics", "[2]", "[]", "same")),
    ("tree", lambda: neuron(lambda t, c, a: (c, a)),
     ("dynamics", "(float64[], float64[])", "structure")),
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
    ("decay of 1", lambda: ej.cells.lif(N_IN, N, tau_m=1e18), ("tau_m", "1e+18", "wanted less")),
    # written for more than one unit, or for names that are not there
    ("of arrays", lambda: neuron(lambda t, c, a: c @ np.eye(N) + a),
     ("dynamics", "matmul", "one unit", "scalars")),
    ("of [n]", lambda: neuron(lambda t, c, a: 0.5 * c + a + np.ones(N)),
     ("dynamics", "[5]", "one unit")),
    ("no such theta", lambda: neuron(lambda t, c, a: t["tau"] * c + a, theta={"b": 1.0},
                                     constants={"k": 1.0}),
     ("dynamics", "'tau'", "theta and constants {'b': float64[], 'k': float64[]}")),
    ("no such drive", lambda: neuron(lambda t, c, a: c + a["z"], drives={"g": ("w_in",)}),
     ("dynamics", "'z'", "a {'g': float64[]}")),
    ("no such component", lambda: neuron(lambda t, c, a: c.v + a),
     ("dynamics", "no attribute", "c float64[]", "one unit")),
    ("output, no such theta", lambda: neuron(output=lambda t, c: t["k"] * c),
     ("output", "'k'", "theta and constants {}", "one unit")),
    ("output of arrays", lambda: neuron(output=lambda t, c: c[:, 0]),
     ("output", "IndexError", "one unit")),
    ("read-out, no such theta", lambda: reader(lambda p, y, a: p["k"] * y + a, theta={"g": 1.0}),
     ("dynamics", "'k'", "{'g': float64[]}")),
    ("drive without lines", lambda: neuron(drives={"g": ()}), ("drives['g']", "()", "'w_in'")),
    ("plain class", lambda: neuron(state=Plain()), ("state", "Plain", "NamedTuple", "registered")),
    ("dataclass", lambda: neuron(state={"v": Unregistered()}),
     ("state['v']", "Unregistered", "NamedTuple", "register_dataclass")),
]  # fmt: skip


# -- a loss is only known once it is called, on shapes ---------------------------------------------


def given(loss, ys=YS, **more):
    return tried(NET, loss, ys, **more)


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
    # written for a batch or a sequence
    ("axis too many", lambda: given(lambda y, t: jnp.mean(jnp.sum((y - t) ** 2, axis=1))),
     ("loss", "y float64[2], target float64[2]", "one example at one step", "y [n_out]")),
    ("index too many", lambda: given(lambda y, t: jnp.mean((y[:, 0] - t[:, 0]) ** 2)),
     ("loss", "Too many indices", "one example at one step")),
    ("one argument", lambda: given(lambda y: jnp.sum(y)), ("loss", "2 were given", "one example")),
    ("masked axis too many", lambda: given(
        ej.losses.masked(lambda y, t: jnp.sum(y - t, axis=-2)), (YS, YS[..., 0])),
     ("loss", "axis -2", "one example at one step")),
    ("activity axis too many", lambda: given(optax.l2_loss, activity_loss=lambda f: f[:, 0].sum()),
     ("activity_loss", "f float64[5]", "one example's mean activity")),
    ("state without names", lambda: given(optax.l2_loss, state_loss=lambda c: c.v**2),
     ("state_loss", "c float64[]", "one unit")),
    ("voltage", lambda: given(optax.l2_loss, state_loss=ej.losses.voltage()),
     ("name", "'v'", "without a name")),
]  # fmt: skip


# -- a call or more of each public function: (its name, the call, words) ---------------------------

S = ej.synapses
INTEROP = {"equinox_nn": equinox_nn, "flax_linen": flax_linen, "flax_nnx": flax_nnx}


@functools.cache
def elsewhere(library, name, **options):
    """A module of another library by its shapes, which compile nothing; of linen its params too."""
    why = "eprop_jax.interop reads it (the extras `flax` and `equinox`)"
    there = pytest.importorskip(library, reason=why)
    make = getattr(there, name)
    if library == "flax.nnx":
        return there.eval_shape(lambda: make(N_IN, N, rngs=there.Rngs(0), **options))
    if library == "equinox.nn":
        equinox = pytest.importorskip("equinox", reason=why)
        return equinox.filter_eval_shape(lambda: make(N_IN, N, key=jax.random.key(0), **options))
    module = make(N, **options)
    zeros = lambda n: jnp.zeros(n, options.get("param_dtype", "float32"))
    draw = lambda: module.init(jax.random.key(0), zeros(N), zeros(N_IN))["params"]
    return module, jax.eval_shape(draw)


linen = lambda name, **options: elsewhere("flax.linen", name, **options)
nnx = lambda name, **options: elsewhere("flax.nnx", name, **options)
eqx = lambda name, **options: elsewhere("equinox.nn", name, **options)
SPARSE_GRU = ej.cells.gru(N_IN, N, w_rec=ej.synapses.sparse(2))
GRU_PARAMS = GRU.init(KEY)["cell"]
of_32_bits = lambda tree: jax.tree.map(lambda x: np.asarray(x, "float32"), tree)
LSTM, ZEROS = ej.cells.lstm(N_IN, N), np.zeros((BATCH, N))

PUBLIC = [
    # graphs of other simulators
    ("nir.read", lambda: nir.read(None, 1e-3), ("graph", "NoneType", "nir.NIRGraph")),
    ("nir.read", lambda: nir.read(NET, 1e-3), ("graph", "Network", "nir.NIRGraph")),
    ("nir.read", lambda: nir.read(__file__, 1e-3),
     ("graph", "test_refusals.py", "no graph", "nir.write")),
    ("nir.read", lambda: nir.read(1e-3, NET), ("dt", "Network", "real numbers")),
    ("nir.read", lambda: nir.read(None, 0.0), ("dt", "0.0", "positive")),
    ("nir.read", lambda: nir.read(None, "1 ms"), ("dt", "'1 ms'", "real numbers")),
    ("nir.read", lambda: nir.read(None, 1e-3, discretise="rk4"), ("discretise", "'rk4'", "'euler'")),
    ("nir.read", lambda: nir.read(None, 1e-3, reset="zero"), ("reset", "'zero'", "'subtract_late'")),
    ("nir.read", lambda: nir.read(None, 1e-3, reset_gradient=1), ("reset_gradient", "1", "True or")),
    ("nir.read", lambda: nir.read(None, 1e-3, surrogate="relu"), ("surrogate", "str", "function")),
    ("nir.read", lambda: nir.read(None, 1e-3, surrogate=ej.surrogates.arctan),
     ("psi", "arctan itself", "arctan()")),
    ("nir.write", lambda: nir.write(None, PARAMS, 1e-3), ("net", "NoneType", "Network")),
    ("nir.write", lambda: nir.write(GRU, PARAMS, 1e-3),
     ("params['cell']['bias']['hn']", "another network")),
    ("nir.write", lambda: nir.write(NET, PARAMS, -1.0), ("dt", "-1.0", "positive")),
    ("nir.write", lambda: nir.write(NET, PARAMS, 1e-3, like=3), ("like", "int", "nir.NIRGraph")),
    ("nir.write", lambda: nir.write(NET, PARAMS, 1e-3, reset="no"), ("reset", "'no'", "'value'")),
    ("nir.write", lambda: nir.write(NET, PARAMS, 1e-3, discretise="no"),
     ("discretise", "'no'", "'exact'")),
    ("nir.write", lambda: nir.write(NET, PARAMS, 1e-3), ("net", "rnn", "lif")),
    # weights of other libraries
    ("equinox_nn.load", lambda: equinox_nn.load(CELL), ("module", "Cell", "GRUCell")),
    ("equinox_nn.load", lambda: equinox_nn.load(eqx("Embedding")), ("module", "Embedding", "GRUCell")),
    ("equinox_nn.give_back", lambda: equinox_nn.give_back(LSTM, {}, eqx("GRUCell")),
     ("cell", "lstm", "ej.cells.gru")),
    ("equinox_nn.give_back",
     lambda: equinox_nn.give_back(GRU.cell, GRU_PARAMS, eqx("GRUCell", use_bias=False)),
     ("params['bias']['hn']", "GRUCell")),
    ("equinox_nn.give_back",
     lambda: equinox_nn.give_back(GRU.cell, of_32_bits(GRU_PARAMS), eqx("GRUCell")),
     ("params", "float32", "float64", "like")),
    ("equinox_nn.to_state", lambda: equinox_nn.to_state(LSTM, ZEROS), ("carry", "(h, c)")),
    ("equinox_nn.to_state", lambda: equinox_nn.to_state(LSTM, (ZEROS + 1, ZEROS)), ("carry", "c = 0")),
    ("equinox_nn.to_carry", lambda: equinox_nn.to_carry(LSTM, ZEROS), ("state", "LSTMState")),
    ("flax_linen.load", lambda: flax_linen.load(linen("GRUCell")[0], linen("SimpleCell")[1]),
     ("params['ir']['kernel']", "missing")),
    ("flax_linen.load", lambda: flax_linen.load(linen("GRUCell")[0], {"params": linen("GRUCell")[1]}),
     ("params", "variables['params']")),
    ("flax_linen.load", lambda: flax_linen.load(*linen("SimpleCell", residual=True)),
     ("module.residual", "True")),
    ("flax_linen.load", lambda: flax_linen.load(*linen("GRUCell", gate_fn=jax.nn.hard_sigmoid)),
     ("module.gate_fn", "hard_sigmoid", "sigmoid")),
    ("flax_linen.load", lambda: flax_linen.load(*linen("GRUCell", carry_init=jax.nn.initializers.ones)),
     ("module.carry_init", "ones", "zeros")),
    ("flax_linen.load", lambda: flax_linen.load(*linen("GRUCell", param_dtype="complex64")),
     ("params['hn']['bias']", "complex64", "floating")),
    ("flax_linen.give_back", lambda: flax_linen.give_back(CELL, PARAMS, linen("SimpleCell")[0]),
     ("params", "'cell'", "params['cell']")),
    ("flax_linen.to_state", lambda: flax_linen.to_state(ej.cells.lif(N_IN, N), ZEROS),
     ("cell", "lif", "load")),
    ("flax_linen.to_carry", lambda: flax_linen.to_carry(CELL, ZEROS[:, 1:]),
     ("state", "[2, 4]", "[*batch, 5]")),
    ("flax_nnx.load", lambda: flax_nnx.load(linen("GRUCell")[0]),
     ("module", "flax.linen.GRUCell", "one of flax.nnx: GRUCell")),
    ("flax_nnx.load", lambda: flax_nnx.load(type(nnx("GRUCell"))),
     ("module", "the class GRUCell itself", "one of")),
    ("flax_nnx.load", lambda: flax_nnx.load(nnx("GRUCell", activation_fn=jax.nn.relu)),
     ("module.activation_fn", "relu", "tanh")),
    ("flax_nnx.load", lambda: flax_nnx.load(nnx("SimpleCell", param_dtype="float64")),
     ("module.dtype", "float32", "float64")),
    ("flax_nnx.load", lambda: flax_nnx.load(nnx("SimpleCell", activation_fn=jax.nn.softmax)),
     ("module.activation_fn", "softmax", "relu")),
    ("flax_nnx.give_back", lambda: flax_nnx.give_back(GRU.cell, GRU_PARAMS, nnx("GRUCell")),
     ("params['bias']['hn']", "GRUCell")),
    ("flax_nnx.give_back",
     lambda: flax_nnx.give_back(SPARSE_GRU, GRU_PARAMS, nnx("GRUCell")), ("cell", "sparse", "dense")),
    ("flax_nnx.to_state", lambda: flax_nnx.to_state(LSTM, (ZEROS, ZEROS[:1])),
     ("carry", "[2, 5]", "[1, 5]")),
    ("flax_nnx.to_carry", lambda: flax_nnx.to_carry(GRU.cell, None), ("state", "NoneType")),
    ("cells.gru", lambda: ej.cells.gru(N_IN, N, biases=("q",)), ("biases", "'q'", "hn")),
    ("cells.lstm", lambda: ej.cells.lstm(N_IN, N, biases="if"), ("biases", "'if'", "tuple")),
    # synapses
    ("synapses.sparse", lambda: S.sparse(), ("fan_in, edges", "neither")),
    ("synapses.sparse", lambda: S.sparse(3, edges=[(0, 1)]), ("fan_in, edges", "both")),
    ("synapses.sparse", lambda: S.sparse(edges=[(0, 1, 2)]), ("edges", "[1, 3]", "[E, 2]")),
    ("synapses.sparse", lambda: S.sparse(edges=[(0, 9)])(4, 4), ("edges", "9", "[0, 4)")),
    ("synapses.sparse", lambda: S.sparse(np.zeros((2, 3), int))(4, 4),
     ("fan_in", "[2, 3]", "[k, 4]")),
    ("synapses.sparse", lambda: S.sparse(np.full((2, 4), 7))(4, 4), ("fan_in", "7", "[-1, 4)")),
    ("synapses.sparse", lambda: S.sparse(0.5), ("fan_in", "0.5", "int")),
    ("synapses.sparse", lambda: S.sparse(2, seed=-1), ("seed", "-1")),
    ("synapses.masked", lambda: S.masked(np.ones((3, 4))), ("mask", "float64", "bool")),
    ("synapses.masked", lambda: ej.cells.lif(3, 4, w_in=S.masked(np.ones((4, 4), bool))),
     ("mask", "[4, 4]", "[3, 4]")),
    ("cells.stateless", lambda: ej.cells.stateless(3, 4, activation=1), ("activation", "int")),
    ("cells.lif", lambda: ej.cells.lif(3, 4, w_rec=S.sparse), ("w_rec", "function", "kind")),
    ("cells.lif", lambda: ej.cells.lif(3, 4, w_rec=7), ("w_rec", "7", "kind")),
    ("cells.lif", lambda: ej.cells.lif(3, 4, w_in=lambda m, n: m), ("w_in", "int", "kind")),
    ("cells.lif", lambda: ej.cells.lif(3, 4, w_in=lambda m, n: S.dense()(n, n)),
     ("w_in", "4 -> 4", "3 -> 4")),
    ("cells.lif", lambda: ej.cells.lif(3, 4, connectivity=np.ones((4, 4), bool), w_rec=S.dense()),
     ("connectivity, w_rec", "both")),
    ("readouts.leaky", lambda: ej.readouts.leaky(3, 4, w_out=S.grouped(2)), ("groups", "2", "3")),
    ("synapses.conv", lambda: S.conv((4, 4), 2, (3, 3)), ("shape, kernel",)),
    ("synapses.conv", lambda: S.conv((4, 4, 1), 2, (3, 3), padding="same"),
     ("padding", "'same'", "SAME")),
    ("synapses.conv", lambda: ej.cells.lif(16, 9, w_in=S.conv((4, 4, 1), 2, (3, 3))),
     ("channels", "4 × 4 × 2", "9")),
    ("synapses.conv", lambda: ej.cells.lif(15, 32, w_in=S.conv((4, 4, 1), 2, (3, 3))),
     ("shape", "4 × 4 × 1", "15")),
    ("synapses.conv_shape", lambda: S.conv_shape((4, 4, 1), 2, (5, 5), padding="VALID"),
     ("kernel", "(5, 5)")),
    ("synapses.conv_shape", lambda: S.conv_shape((4, 4, 1), 2, (3, 3), stride=(1, 2, 1)),
     ("stride", "(1, 2, 1)")),
    ("synapses.grouped", lambda: ej.cells.lif(3, 4, w_rec=S.grouped(3)),
     ("groups", "3", "divides 4")),
    ("synapses.pooled", lambda: S.pooled(S.dense(), (4, 4, 1), 3), ("size", "3", "(4, 4)")),
    ("synapses.pooled", lambda: ej.cells.lif(8, 4, w_in=S.pooled(S.dense(), (4, 4, 1), 2)),
     ("shape", "16", "8")),
    ("synapses.sparse", lambda: S.sparse(edges=[(0, 1)], delays=[1, 2])(4, 4),
     ("delays", "[2]", "[1]")),
    ("synapses.sparse", lambda: S.sparse(edges=[(0, 1)], delays=[-1])(4, 4), ("delays", "-1")),
    ("synapses.delayed", lambda: S.delayed(S.dense, 1)(3, 4), ("kind", "function")),
    ("synapses.delayed", lambda: S.delayed(S.dense(), -1), ("by", "-1", "steps")),
    ("readouts.linear", lambda: ej.readouts.linear(3, 2, w_out=S.delayed(S.dense(), 1)),
     ("w_out", "delayed dense", "without delays")),
    ("synapses.by_distance",
     lambda: S.by_distance(np.zeros((3, 2)), np.zeros((3, 1)), 1, 1.0), ("pre, post", "[3, 1]")),
    ("synapses.by_distance",
     lambda: S.by_distance(np.zeros((3, 1)), np.zeros((3, 1)), 4, 1.0), ("fan_in", "4", "3")),
    # rules and what is made of them
    ("bptt", lambda: ej.bptt(None, loss), ("net", "NoneType", "Network")),
    ("bptt", lambda: ej.bptt(NET, loss, activity_loss="rate"),
     ("activity_loss", "str", "function")),
    ("by_paths", lambda: ej.by_paths(NET, loss, paths="i*)"), ("paths", "'i*)'", "index 2")),
    ("by_influence", lambda: ej.by_influence(NET, loss, lambda S, d: S, name="x"),
     ("influence", "function", "ej.Influence")),
    ("by_influence", lambda: ej.by_influence(NET, loss, ej.Influence(1, 2), name="x"),
     ("influence.start", "int")),
    ("by_influence", lambda: ej.by_influence(NET, loss, ej.Influence(max, max), name=1),
     ("name", "int", "str")),
    ("snap", lambda: ej.snap(NET, loss, order=0), ("order", "0")),
    ("snap", lambda: ej.snap(NET, 3, order=1), ("loss", "int")),
    ("uoro", lambda: ej.uoro(NET, loss, key=3), ("key", "3", "PRNG")),
    ("uoro", lambda: ej.uoro(NET, loss, key=KEY, feedback="some"), ("feedback", "some")),
    ("by_paths", lambda: ej.by_paths(NET, loss, paths=None), ("paths", "NoneType", "letters")),
    ("paths.compile", lambda: ej.paths.compile("i**"), ("paths", "'i**'", "parentheses")),
    ("paths.order", lambda: ej.paths.order(0), ("order", "got 0", "int >= 1")),
    ("paths.prune", lambda: ej.paths.prune(ej.paths.compile("i*"), "ix"), ("letters", "['x']")),
    ("paths.report", lambda: ej.paths.report(NET, PARAMS), ("rule", "Network", "rules")),
    ("paths.report", lambda: ej.paths.report(RULE, {}), ("params", "net.init")),
    ("eprop", lambda: ej.eprop(loss, NET), ("net", "function", "Network")),
    ("eprop", lambda: ej.eprop(NET, loss, feedback=True), ("feedback", "True", "symmetric")),
    ("rtrl", lambda: ej.rtrl(NET, loss, activity_loss=3), ("activity_loss", "int", "function")),
    ("m_order_eprop", lambda: ej.m_order_eprop(NET, loss, order="2"), ("order", "'2'", "int")),
    ("value_and_grad", lambda: ej.value_and_grad(RULE, has_aux=1), ("has_aux", "1", "True or")),
    ("value_and_grad", lambda: ej.value_and_grad(RULE, chunk="all"), ("chunk", "'all'", "auto")),
    ("value_and_grad", lambda: ej.value_and_grad(RULE)(PARAMS, XS, YS, resets=XS[..., 0]),
     ("resets", "dtype", "bool")),
    ("value_and_grad", lambda: ej.value_and_grad(RULE, chunk=2)(
        PARAMS, XS, YS, resets=XS[:2, :, 0] > 0), ("resets", "[2, 2]", "[4, 2]")),
    ("check_finite", lambda: ej.check_finite(loss), ("rule", "function", "LearningRule")),
    ("check_finite", lambda: ej.check_finite(RULE, chunk=0), ("chunk", "0", ">= 1")),
    ("check_finite", lambda: ej.check_finite(RULE)(PARAMS, XS, YS[:3]),
     ("ys", "[3, 2, 2]", "[4, 2, ...]", "time first")),
    ("check_finite", lambda: ej.check_finite(RULE)(None, XS, YS),
     ("params", "NoneType", "net.init")),
    ("compare", lambda: ej.compare([RULE], PARAMS, XS, YS), ("rules", "got list", '{"e-prop": rule}')),
    ("compare", lambda: ej.compare({"a": RULE}, None, XS, YS), ("params", "NoneType", "net.init")),
    ("compare", lambda: ej.compare({"a": RULE}, PARAMS, XS, YS[1:], reference=RULE),
     ("ys", "[3, 2, 2]", "[4, 2, ...]", "time first")),
    ("fidelity", lambda: ej.fidelity({"w": XS}, {"v": XS}), ("g", "'w'", "'v'")),
    ("fidelity", lambda: ej.fidelity(XS, YS), ("g", "[4, 2, 3]", "[4, 2, 2]")),
    ("fidelity", lambda: ej.fidelity({"w": "x"}, {"w": XS}), ("g['w']", "str", "array")),
    ("fidelity", lambda: ej.fidelity(None, None), ("g", "None", "at least one")),
    ("cost", lambda: ej.cost(NET, PARAMS), ("rule", "Network", "rules")),
    ("cost", lambda: ej.cost(RULE, PARAMS, batch_shape="8"), ("batch_shape", "'8'", "(8,)")),
    ("cost", lambda: ej.cost(RULE, PARAMS, chunk=0.5), ("chunk", "0.5", "int")),
    ("cost", lambda: ej.cost(RULE, []), ("params", "list", "net.init")),
    ("cost", lambda: ej.cost(RULE, PARAMS, rates=(1.0,) * 7), ("rates", "tuple", "measured_rates")),
    ("narrow_traces", lambda: ej.narrow_traces(NET), ("rule", "Network", "library's rules")),
    ("narrow_traces", lambda: ej.narrow_traces(RULE, "int16"), ("dtype", "int16", "floating")),
    ("narrow_traces", lambda: ej.narrow_traces(RULE, "b16"), ("dtype", "'b16'", "bfloat16")),
    ("three_factor", lambda: ej.three_factor(NET, 0.9), ("rule", "Network", "LearningRule")),
    ("three_factor", lambda: ej.three_factor(RULE, 1.5), ("decay", "1.5", "[0, 1]")),
    ("three_factor", lambda: ej.three_factor(RULE, np.ones(2)), ("decay", "[2]", "one number")),
    ("three_factor", lambda: ej.three_factor(REGULARISED, 0.9),
     ("rule", "state_loss", "third factor", "without")),
    ("three_factor", lambda: ej.three_factor(UNTRACED, 0.9).init(PARAMS, (BATCH,)),
     ("rule", "BPTT", "no traces", "ej.rtrl")),
    ("three_factor", lambda: REWARDED.init(PARAMS, 2.5), ("batch_shape", "2.5", "(8,)")),
    ("three_factor", lambda: REWARDED.init({"w": "x"}), ("params", "['w']", "'cell'")),
    ("three_factor", lambda: REWARDED.step(None, WAITING, XS, YS),
     ("params", "NoneType", "net.init")),
    ("three_factor", lambda: REWARDED.step(PARAMS, CARRY, XS, YS),
     ("carry", "EpropCarry", "init and step")),
    ("three_factor", lambda: REWARDED.step(PARAMS, WAITING, XS, YS[:3]),
     ("ys", "[3, 2, 2]", "[4, 2, ...]", "time first")),
    ("three_factor", lambda: REWARDED.step(PARAMS, WAITING, XS, YS, resets=XS[..., 0]),
     ("resets", "float64", "bool")),
    ("three_factor", lambda: REWARDED.step(PARAMS, WAITING._replace(z=PARAMS), XS, YS),
     ("carry.z['cell']['bias']", "[5]", "[2, 5]")),
    ("three_factor", lambda: REWARDED.gradient(CARRY, XS[0, :, 0]), ("carry", "EpropCarry")),
    ("three_factor", lambda: REWARDED.gradient(WAITING, 1.0), ("third", "[]", "[2]", "an example")),
    ("three_factor", lambda: REWARDED.gradient(WAITING, XS[0]), ("third", "[2, 3]", "[2]")),
    ("three_factor", lambda: REWARDED.gradient(WAITING, None), ("third", "NoneType", "real numbers")),
    ("three_factor", lambda: REWARDED.gradient(WAITING, [1.0, 0.0, 1.0]), ("third", "[3]", "[2]")),
    ("three_factor", lambda: REWARDED.gradient(WAITING, "high"), ("third", "<U4", "real numbers")),
    ("online", lambda: ej.online(NET, SGD), ("rule", "Network", "LearningRule")),
    ("online", lambda: ej.online(RULE, RULE), ("optimizer", "LearningRule", "optax")),
    ("online", lambda: LEARNER.init({"w": "x"}), ("params", "['w']", "'cell'")),
    ("online", lambda: LEARNER.step(PARAMS, XS, YS), ("state", "dict", "init")),
    ("Network", lambda: ej.Network(CELL, None), ("readout", "NoneType", "Readout")),
    ("Network", lambda: NET.init(0), ("key", "0", "PRNG key")),
    ("Network", lambda: NET.init(KEYS), ("key", "[2]", "one PRNG key")),
    ("Network", lambda: NET.init(np.ones(2)), ("key", "float64[2]", "PRNG key")),
    # cells, read-outs, surrogates
    ("cells.rnn", lambda: ej.cells.rnn("3", N), ("n_in", "'3'", "int")),
    ("cells.rnn", lambda: ej.cells.rnn(N_IN, N, gain_rec="big"), ("gain_rec", "'big'", "numbers")),
    ("cells.rnn", lambda: ej.cells.rnn(N_IN, N, gain_in=np.ones(N)),
     ("gain_in", "[5]", "one number")),
    ("cells.rnn", lambda: CELL.init(7), ("key", "7", "PRNG key")),
    ("cells.rnn", lambda: ej.cells.rnn(N_IN, N, connectivity=[[True], []]),
     ("connectivity", "[]", "real numbers")),
    ("cells.leaky_rnn", lambda: ej.cells.leaky_rnn(N_IN, N, dt=np.ones(N)),
     ("dt", "[5]", "one number")),
    ("cells.leaky_rnn", lambda: ej.cells.leaky_rnn(N_IN, N, tau=3.0, decay=0.5),
     ("tau, decay", "both", "one of them")),
    ("cells.linear_recurrence", lambda: ej.cells.linear_recurrence(N_IN, N, frequency=NAN),
     ("frequency", "nan", "finite")),
    ("cells.lstm", lambda: ej.cells.lstm(N_IN, N, forget_bias=np.ones(N)),
     ("forget_bias", "[5]", "one number")),
    ("cells.gru", lambda: ej.cells.gru(N_IN, N, self_connections=1),
     ("self_connections", "1", "True")),
    ("cells.lif", lambda: spiking(ej.surrogates.arctan), ("psi", "arctan itself", "arctan()")),
    ("cells.lif", lambda: spiking(np.sign), ("psi", "sign", "elementwise")),
    ("cells.lif", lambda: spiking(lambda x: jnp.ones(3)), ("psi", "(3,)", "scalar")),
    ("cells.lif", lambda: ej.cells.lif(N_IN, N, reset_gradient="yes"),
     ("reset_gradient", "'yes'", "True or")),
    ("cells.alif", lambda: ej.cells.alif(N_IN, N, tau_a=[[1.0], [2.0, 3.0]]),
     ("tau_a", "[2.0, 3.0]", "numbers")),
    ("cells.cuba_lif", lambda: ej.cells.cuba_lif(N_IN, N, tau_syn=3.0, alpha_syn=0.5),
     ("tau_syn, alpha_syn", "both", "one of them")),
    ("cells.cuba_lif", lambda: ej.cells.cuba_lif(N_IN, N, v_th=0.0), ("v_th", "0.", "positive")),
    ("cells.cuba_lif", lambda: ej.cells.cuba_lif(N_IN, N, v_reset=np.ones(3)),
     ("v_reset", "(3,)", "[5]")),
    ("cells.integrate_fire", lambda: ej.cells.integrate_fire(N_IN, N, r=NAN),
     ("r", "nan", "finite")),
    ("cells.integrate_fire", lambda: ej.cells.integrate_fire(N_IN, N, reset_gradient=1),
     ("reset_gradient", "1", "True or")),
    ("cells.li", lambda: ej.cells.li(N_IN, N, tau_m=-1.0), ("tau_m", "-1.0", "positive")),
    ("cells.li", lambda: ej.cells.li(N_IN, N, trainable=("v_th",)),
     ("trainable", "v_th", "v_leak")),
    ("cells.adex", lambda: ej.cells.adex(N_IN, N, tau_w=0.0), ("tau_w", "[0. 0.", "positive")),
    ("cells.adex", lambda: ej.cells.adex(N_IN, N, c_m=-1.0), ("c_m", "[-1. -1.", "positive")),
    ("cells.adex", lambda: ej.cells.adex(N_IN, N, v_peak=-50.4), ("v_peak", "-50.4", "v_t")),
    ("cells.adex", lambda: ej.cells.adex(N_IN, N, v_reset=30.0), ("v_peak", "20", "v_reset")),
    ("cells.adex", lambda: ej.cells.adex(N_IN, N, trainable=("c_m",)),
     ("trainable", "'c_m'", "tau_w")),
    ("cells.izhikevich", lambda: ej.cells.izhikevich(N_IN, N, substeps=0),
     ("substeps", "0", ">= 1")),
    ("cells.izhikevich", lambda: ej.cells.izhikevich(N_IN, N, c=30.0), ("v_peak", "30", "than c")),
    ("cells.izhikevich", lambda: ej.cells.izhikevich(N_IN, N, d=np.ones(3)),
     ("d", "(3,)", "one a unit")),
    ("cells.izhikevich", lambda: ej.cells.izhikevich(N_IN, N, reset_gradient=1),
     ("reset_gradient", "1", "True or")),
    ("cells.lru", lambda: ej.cells.lru(N_IN, N, r_min=0.9, r_max=0.5),
     ("r_min, r_max", "0.9, 0.5", "r_min < r_max")),
    ("cells.lru", lambda: ej.cells.lru(N_IN, N, decay=1.0), ("decay", "1.0", "less")),
    ("cells.lru", lambda: ej.cells.lru(N_IN, N, max_phase="turn"),
     ("max_phase", "'turn'", "numbers")),
    ("cells.lru", lambda: ej.cells.lru(N_IN, N, gain_in=-1.0), ("gain_in", "-1.0", "non-negative")),
    ("cells.noisy", lambda: ej.cells.noisy(NET, 0.1, key=KEY), ("cell", "Network", "ej.Cell")),
    ("cells.noisy", lambda: ej.cells.noisy(CELL, -0.1, key=KEY), ("std", "-0.1", "non-negative")),
    ("cells.noisy", lambda: ej.cells.noisy(CELL, {"z": 0.1}, key=KEY), ("std", "'z'", "names")),
    ("cells.noisy", lambda: ej.cells.noisy(CELL, 0.1, key=3), ("key", "3", "PRNG key")),
    ("cells.noisy", lambda: ej.cells.noisy(NOISY, 0.1, key=KEY), ("cell", "noisy", "already")),
    ("cells.dropout", lambda: ej.cells.dropout(CELL, 1.0, key=KEY),
     ("rate", "got 1.0,", "[0, 1)")),
    ("cells.dropout", lambda: ej.cells.dropout(CELL, 0.1, key=KEY, once=1),
     ("once", "1", "True or")),
    ("cells.dropout", lambda: ej.cells.dropout(CELL, [0.1, 0.2], key=KEY),
     ("rate", "(2,)", "one a unit")),
    ("cells.dropout", lambda: ej.cells.dropout(CELL, 0.1, key=KEYS), ("key", "[2]", "one PRNG")),
    ("cells.custom", lambda: ej.cells.custom(N_IN, N, loss, None, 0.0),
     ("output", "NoneType", "function")),
    ("cells.custom", lambda: neuron(lambda theta, c, a: 0.5 * c + vjp(a)),
     ("dynamics", "custom_vjp", "custom_jvp")),
    ("cells.custom", lambda: neuron(output=lambda theta, c: vjp(c)),
     ("output", "custom_vjp", "custom_jvp")),
    ("readouts.custom", lambda: ej.readouts.custom(N, N_OUT, loss, constants=[1]),
     ("constants", "list", "dict")),
    ("readouts.custom", lambda: ej.readouts.custom(N, N_OUT, loss, y_0=np.zeros(2)),
     ("y_0", "[2]", "one number")),
    ("readouts.linear", lambda: ej.readouts.linear(N, N_OUT, bias="no"),
     ("bias", "'no'", "True or")),
    ("readouts.linear", lambda: NET.readout.init(None), ("key", "None", "PRNG key")),
    ("readouts.leaky", lambda: ej.readouts.leaky(N, N_OUT, dt="1"), ("dt", "'1'", "numbers")),
    ("surrogates.piecewise_linear", lambda: ej.surrogates.piecewise_linear(NAN),
     ("height", "nan", "finite")),
    ("surrogates.fast_sigmoid", lambda: ej.surrogates.fast_sigmoid(width="w"),
     ("width", "'w'", "numbers")),
    ("surrogates.exponential", lambda: ej.surrogates.exponential(np.ones(2)),
     ("height", "[2]", "one number")),
    ("surrogates.arctan", lambda: ej.surrogates.arctan(1.0, 0.0), ("width", "0.0", "positive")),
    ("surrogates.spike", lambda: ej.surrogates.spike(ej.surrogates.exponential),
     ("psi", "exponential itself", "exponential()")),
    # losses, feedback, encodings
    ("losses.squared_error", lambda: ej.losses.squared_error([1.0], [0.0]),
     ("y", "list", "[n_out]")),
    ("losses.softmax_cross_entropy", lambda: ej.losses.softmax_cross_entropy(YS, 1),
     ("y", "[4, 2, 2]", "[n_out]")),
    ("losses.masked", lambda: ej.losses.masked(None), ("loss", "NoneType", "function")),
    ("losses.firing_rate", lambda: ej.losses.firing_rate(-0.1), ("target", "-0.1", "non-negative")),
    ("losses.firing_rate", lambda: ej.losses.firing_rate("10 Hz"), ("target", "10 Hz", "numbers")),
    ("losses.firing_rate", lambda: ej.losses.firing_rate(0.1)(0.2), ("f", "float", "[n]")),
    ("losses.voltage", lambda: ej.losses.voltage(name=3), ("name", "3", "component")),
    ("feedback.init", lambda: ej.feedback.init(0, NET), ("key", "0", "PRNG key")),
    ("feedback.init", lambda: ej.feedback.init(KEY, NET, gain=-1.0),
     ("gain", "-1.0", "non-negative")),
    ("feedback.fixed", lambda: ej.feedback.fixed(0.1, RULE), ("optimizer", "float", "optax")),
    ("feedback.fixed", lambda: ej.feedback.fixed(SGD, NET), ("rule", "Network", "LearningRule")),
    ("encodings.poisson", lambda: ej.encodings.poisson(3, YS), ("key", "3", "PRNG key")),
    ("encodings.poisson", lambda: ej.encodings.poisson(KEY, "fast"),
     ("rate", "<U4", "real numbers")),
    ("encodings.poisson", lambda: ej.encodings.poisson(KEY, [2000.0]), ("rate", "2000", "at most")),
    ("encodings.population", lambda: ej.encodings.population([[1.0], []], 4),
     ("x", "[]", "numbers")),
    ("encodings.population", lambda: ej.encodings.population([0.5], 4, low=np.zeros(2)),
     ("low", "[2]", "one number")),
    ("encodings.level_crossing", lambda: ej.encodings.level_crossing(None, 0.5),
     ("xs", "NoneType", "real numbers")),
    ("encodings.level_crossing", lambda: ej.encodings.level_crossing(YS, YS),
     ("threshold", "[4, 2, 2]", "one number")),
    ("encodings.from_crossings", lambda: ej.encodings.from_crossings(XS, 0.5),
     ("events", "[4, 2, 3]", "2d")),
    # tasks
    ("tasks.evidence_accumulation", lambda: ej.tasks.evidence_accumulation()(0, 2),
     ("key", "0", "PRNG")),
    ("tasks.evidence_accumulation", lambda: ej.tasks.evidence_accumulation(n_cues=4),
     ("n_cues", "4", "odd")),
    ("tasks.delayed_xor", lambda: ej.tasks.delayed_xor(delay="long"),
     ("delay", "'long'", "numbers")),
    ("tasks.delayed_xor", lambda: ej.tasks.delayed_xor()(KEY, 2.0), ("batch", "2.0", "int")),
    ("tasks.store_recall", lambda: ej.tasks.store_recall()(None, 2), ("key", "None", "PRNG")),
    ("tasks.copy_memory", lambda: ej.tasks.copy_memory()(KEYS, 2), ("key", "[2]", "one PRNG key")),
    ("tasks.pattern_generation", lambda: ej.tasks.pattern_generation(1), ("key", "1", "PRNG")),
    ("tasks.pattern_generation", lambda: ej.tasks.pattern_generation(periods="long"),
     ("periods", "<U4", "numbers")),
    ("tasks.pattern_generation", lambda: PATTERN("key", 2),
     ("key", "'key'", "PRNG")),
    ("tasks.sequential_digits", lambda: ej.tasks.sequential_digits("column"),
     ("by", "'column'", "'row'")),
    ("tasks.sequential_digits", lambda: ej.tasks.sequential_digits()(0, 2), ("key", "0", "PRNG")),
    ("tasks.row_by_row", lambda: ej.tasks.row_by_row([[1.0]], LABELS),
     ("images", "list", "[B, 8, 8]")),
    ("tasks.row_by_row", lambda: ej.tasks.row_by_row(IMAGES, LABELS[:1]), ("labels", "[1]", "[2]")),
    ("tasks.pixel_by_pixel", lambda: ej.tasks.pixel_by_pixel(IMAGES, None),
     ("labels", "NoneType", "[B]")),
    ("tasks.batches", lambda: ej.tasks.batches(0, 10, 4, 5), ("key", "0", "PRNG")),
    ("tasks.batches", lambda: ej.tasks.batches(KEY, 3, 4, 5), ("size", "4", "n=3")),
    ("tasks.utterances", lambda: ej.tasks.utterances([1.0], LENGTHS, LABELS),
     ("frames", "list", "[B, T, d]")),
    ("tasks.utterances", lambda: ej.tasks.utterances(FRAMES, 4, LABELS), ("lengths", "int", "[2]")),
    ("tasks.utterances", lambda: ej.tasks.utterances(FRAMES, LENGTHS + 3, LABELS),
     ("lengths", "7", "T=5")),
    ("tasks.vowel_speakers", lambda: ej.tasks.vowel_speakers(part="all"),
     ("part", "'all'", "'train'")),
    ("tasks.vowel_speakers", lambda: ej.tasks.vowel_speakers()(KEY, 0), ("batch", "0", ">= 1")),
    # data of one's own
    ("tasks.sequences", lambda: ej.tasks.sequences(3.0, LABELS), ("X", "[]", "[N, T, F]")),
    ("tasks.sequences", lambda: ej.tasks.sequences("words", LABELS), ("X", "dtype", "real numbers")),
    ("tasks.sequences", lambda: ej.tasks.sequences(FRAMES[:, :0], LABELS),
     ("X", "[2, 0, 12]", ">= 1")),
    ("tasks.sequences", lambda: ej.tasks.sequences(FRAMES * NAN, LABELS),
     ("X", "nan at example 0, step 0, feature 0", "finite")),
    ("tasks.sequences", lambda: ej.tasks.sequences(FRAMES, LABELS[:1]),
     ("y", "int32[1]", "integers [N] or [N, T]", "N=2 and T=5")),
    ("tasks.sequences", lambda: ej.tasks.sequences(FRAMES, LABELS * 1.0),
     ("y", "float64[2]", "[N, n_out]")),
    ("tasks.sequences", lambda: ej.tasks.sequences(FRAMES, np.zeros((5, 2), int), batch_major=False),
     ("y", "int64[5, 2]", "[T, N]", "N=5 and T=2")),
    ("tasks.sequences", lambda: ej.tasks.sequences(FRAMES, LABELS - 1),
     ("y", "-1 at example 0", "classes >= 0")),
    ("tasks.sequences", lambda: ej.tasks.sequences(FRAMES, np.full((2, 5, 1), NAN), LENGTHS),
     ("y", "nan", "example 0, step 0", "finite targets")),
    ("tasks.sequences", lambda: ej.tasks.sequences(FRAMES, LABELS, [5, 0]),
     ("lengths", "0 at example 1", "from 1 to T=5")),
    ("tasks.sequences", lambda: ej.tasks.sequences(FRAMES, LABELS, [6, 1]),
     ("lengths", "6 at example 0", "from 1 to T=5")),
    ("tasks.sequences", lambda: ej.tasks.sequences(FRAMES, LABELS, [5.0, 1.0]),
     ("lengths", "float64[2]", "ints [2]")),
    ("tasks.sequences", lambda: ej.tasks.sequences(FRAMES, LABELS, named="first"),
     ("named", "'first'", "'last'")),
    ("tasks.sequences", lambda: ej.tasks.sequences(FRAMES, LABELS, batch_major=1),
     ("batch_major", "1", "True or False")),
    ("tasks.from_arrays", lambda: ej.tasks.from_arrays(FRAMES, LABELS, batch=3),
     ("batch", "3", "N=2")),
    ("tasks.from_arrays", lambda: ej.tasks.from_arrays(FRAMES, LABELS, batch=2.0),
     ("batch", "2.0", ">= 1")),
    ("tasks.from_arrays", lambda: ej.tasks.from_arrays(FRAMES[0], LABELS, batch=1),
     ("X", "[5, 12]", "[N, T, F]")),
    ("layer", lambda: ej.layer(NET.cell), ("net", "Cell", "Network")),
    ("layer", lambda: ej.layer(NET, "i*g"), ("paths", "'g' at index 2", "i e s f")),
    ("layer", lambda: ej.layer(NET, feedback="none"), ("feedback", "'none'", "'random'")),
    ("layer", lambda: ej.layer(NET)(PARAMS, XS[..., :2]), ("xs", "[4, 2, 2]", "n_in=3")),
    ("layer", lambda: ej.layer(NET)(PARAMS, XS, np.ones((3, 2), bool)), ("mask", "[3, 2]", "[4, 2]")),
    ("layer", lambda: ej.layer(NET, feedback="random")(PARAMS, XS),
     ("params['feedback']", "missing", "init")),
    ("layer", lambda: ej.layer(NET)(PARAMS, XS, None, XS[..., 0]), ("resets", "float64", "bool")),
    ("predict", lambda: ej.predict(NET.cell, PARAMS, XS), ("net", "Cell", "Network")),
    ("predict", lambda: ej.predict(NET, PARAMS, XS[..., :2]), ("X", "[4, 2, 2]", "[N, T, 3]")),
    ("predict", lambda: ej.predict(NET, PARAMS, XS, [1, 2, 3]), ("lengths", "[3]", "ints [4]")),
    ("predict", lambda: ej.predict(NET, PARAMS, XS, batch=0), ("batch", "0", ">= 1")),
    ("predict", lambda: ej.predict(NET, PARAMS, XS, named="mean"), ("named", "'mean'", "'last'")),
    ("encodings.from_events", lambda: ej.encodings.from_events([0.5], [3], 3, 1.0),
     ("unit", "3", "[0, 3)")),
    ("encodings.from_events", lambda: ej.encodings.from_events([0.5], [-1], 3, 1.0),
     ("unit", "-1", "[0, 3)")),
    ("encodings.from_events", lambda: ej.encodings.from_events([0.5], [0.5], 3, 1.0),
     ("unit", "float64", "ints")),
    ("encodings.from_events", lambda: ej.encodings.from_events([-0.5], [0], 3, 1.0),
     ("t", "-0.5", "non-negative")),
    ("encodings.from_events", lambda: ej.encodings.from_events([NAN], [0], 3, 1.0),
     ("t", "nan", "finite")),
    ("encodings.from_events", lambda: ej.encodings.from_events([0.5, 1.0], [0], 3, 1.0),
     ("t", "[2]", "unit [1]", "[E]")),
    ("encodings.from_events", lambda: ej.encodings.from_events([2.0], [0], 3, 1.0, T=2),
     ("t", "2.0", "less than T·dt=2.0", "keep")),
    ("encodings.from_events", lambda: ej.encodings.from_events([], [], 3, 1.0),
     ("T", "None", "steps")),
    ("encodings.from_events", lambda: ej.encodings.from_events([0.5], [0], 0, 1.0),
     ("n", "0", ">= 1")),
    ("encodings.from_events", lambda: ej.encodings.from_events([0.5], [0], 3, 0.0),
     ("dt", "0.0", "positive")),
    # training, checkpoints, experiments
    ("train", lambda: ej.train(RULE, SGD, PARAMS, (XS[None], YS[None]), 0), ("steps", "0", ">= 1")),
    ("train", lambda: ej.train(RULE, SGD, PARAMS, (XS[None], YS[None]), 5, key=3),
     ("key", "3", "PRNG")),
    ("train", lambda: ej.train(RULE, SGD, [PARAMS], (XS[None], YS[None]), 5),
     ("params", "list", "dict")),
    ("train", lambda: ej.train(RULE, SGD, PARAMS, (XS, YS[:3]), 5),
     ("data", "(3,)", "one number of")),
    ("training.train", lambda: training.train(RULE, SGD, PARAMS, XS, 5),
     ("data", "ndarray", "pair")),
    ("training.trainer", lambda: training.trainer(loss, SGD, (XS, YS)),
     ("rule", "function", "LearningRule")),
    ("training.trainer", lambda: training.trainer(ej.eprop, SGD, (XS, YS)),
     ("rule", "function", "(key) -> rule")),
    ("training.trainer", lambda: training.trainer(dict, SGD, (XS, YS)),
     ("rule", "type", "(key) -> rule")),
    ("training.trainer", lambda: training.trainer(RULE, None, (XS, YS)),
     ("optimizer", "None", "optax")),
    ("training.trainer", lambda: training.trainer(RULE, SGD, None),
     ("data", "NoneType", "sampler")),
    ("training.trainer", lambda: training.trainer(RULE, SGD, loss, metrics=[loss]),
     ("metrics", "list", "dict")),
    ("training.trainer", lambda: training.trainer(RULE, SGD, loss, metrics={"a": 1}),
     ("metrics['a']", "int", "function")),
    ("training.trainer", lambda: training.trainer(RULE, SGD, lambda key: XS).run(STATE, 1),
     ("data", "gave", "pair (xs, ys)")),
    ("training.trainer", lambda: training.trainer(RULE, SGD, [XS]).run(STATE, 1),
     ("data", "batch 0 is ndarray", "(xs, ys, mask)")),
    ("training.trainer", lambda: TRAINER.init(PARAMS, 0), ("key", "0", "PRNG")),
    ("training.trainer", lambda: TRAINER.run(PARAMS, 3), ("state", "dict", "init")),
    ("training.trainer", lambda: TRAINER.run(STATE, -1), ("updates", "-1", ">= 1")),
    ("training.fit", lambda: training.fit(RULE, STATE, 5), ("trainer", "LearningRule", "trainer")),
    ("training.fit", lambda: training.fit(TRAINER, PARAMS, 5), ("state", "dict", "TrainState")),
    ("training.fit", lambda: training.fit(TRAINER, STATE, 5, every=0), ("every", "0", ">= 1")),
    ("training.fit", lambda: training.fit(TRAINER, STATE, 5, evaluate=1),
     ("evaluate", "int", "function")),
    ("training.fit", lambda: training.fit(TRAINER, STATE, 5, stop=0.1),
     ("stop", "float", "function")),
    ("training.fit", lambda: training.fit(TRAINER, STATE, 5, checkpoints=1),
     ("checkpoints", "1", "path")),
    ("training.fit", lambda: training.fit(TRAINER, STATE, 5, progress="bar"),
     ("progress", "'bar'", "True or")),
    ("training.finite", lambda: training.finite(PARAMS, {}, 0), ("state", "dict", "TrainState")),
    ("training.finite", lambda: training.finite(STATE, [1.0], 0), ("log", "list", "dict")),
    ("training.evaluator", lambda: training.evaluator(NET, loss), ("rule", "Network", "rules")),
    ("training.evaluator", lambda: training.evaluator(RULE, loss, batches=0),
     ("batches", "0", ">= 1")),
    ("training.accuracy", lambda: training.accuracy(YS, YS),
     ("ys", "ndarray", "pair (class, weight)")),
    ("training.accuracy", lambda: training.accuracy(YS, (YS, YS)),
     ("ys[0]", "[4, 2, 2]", "[4, 2]")),
    ("training.step_accuracy", lambda: training.step_accuracy([1.0], (YS, YS)),
     ("outputs", "list", "array")),
    ("training.normalised_mse", lambda: training.normalised_mse(YS, YS[0]),
     ("ys", "[2, 2]", "[4, 2, 2]")),
    ("checkpoints.save", lambda: ej.checkpoints.save(3, PARAMS, 0), ("folder", "3", "path")),
    ("checkpoints.save", lambda: ej.checkpoints.save(FOLDER, PARAMS, -1), ("step", "-1", ">= 0")),
    ("checkpoints.save", lambda: ej.checkpoints.save(FOLDER, PARAMS, 1, keep=0),
     ("keep", "0", ">= 1")),
    ("checkpoints.save", lambda: ej.checkpoints.save(FOLDER, {"w": "x"}, 1),
     ("tree['w']", "str", "array")),
    ("checkpoints.steps", lambda: ej.checkpoints.steps(None), ("folder", "None", "path")),
    ("checkpoints.restore", lambda: ej.checkpoints.restore(None, PARAMS),
     ("folder", "None", "path")),
    ("checkpoints.restore", lambda: ej.checkpoints.restore(FOLDER, PARAMS, "last"),
     ("step", "'last'", "int")),
    ("experiments.settings", lambda: experiments.settings("mnist"),
     ("task", "'mnist'", "'digits'")),
    ("experiments.settings", lambda: experiments.settings("xor", unit=3),
     ("unit", "setting", "units")),
    ("experiments.settings", lambda: experiments.settings("xor", learning_rate=0),
     ("learning_rate", "0", "pos")),
    ("experiments.settings", lambda: experiments.settings("xor", units=(3, 0)),
     ("units[1]", "0", ">= 1")),
    ("experiments.settings", lambda: experiments.settings("xor", units=[]),
     ("units", "()", "one a layer")),
    ("experiments.settings", lambda: experiments.settings("xor", units=(3, 2), freeze=[0, 1]),
     ("freeze", "0,1", "it has 2", "'frozen'")),
    ("experiments.settings", lambda: experiments.settings("xor", units=(3, 2), freeze=[2]),
     ("freeze", "2", "it has 2")),
    ("experiments.settings", lambda: experiments.settings("xor", rule="paths:i*g"),
     ("paths", "'i*g'", "index 2", "i e s f")),
    # many devices, the paper's equations
    ("sharding.mesh", lambda: ej.sharding.mesh(), ("axes", "{}", "devices")),
    ("sharding.mesh", lambda: ej.sharding.mesh(units=1.0), ("units", "1.0", "int")),
    ("sharding.parallel", lambda: ej.sharding.parallel(NET, MESH, units="units"),
     ("rule", "Network", "rules")),
    ("sharding.parallel", lambda: ej.sharding.parallel(RULE, 2, units="units"),
     ("mesh", "int", "Mesh")),
    ("sharding.parallel", lambda: ej.sharding.parallel(RULE, MESH),
     ("batch, units", "neither", "axis")),
    ("sharding.parallel", lambda: ej.sharding.parallel(RULE, MESH, batch="data"),
     ("batch", "'data'", "units")),
    ("sharding.shardings", lambda: ej.sharding.shardings(None, MESH),
     ("params", "NoneType", "net.init")),
    ("sharding.replicated", lambda: ej.sharding.replicated(PARAMS, None),
     ("mesh", "NoneType", "Mesh")),
    ("hybrids.implicit_eligibility_gradient",
     lambda: ej.hybrids.implicit_eligibility_gradient(CELL, loss),
     ("net", "Cell", "Network")),
    ("hybrids.first_explicit_gradient", lambda: ej.hybrids.first_explicit_gradient(NET, "mse"),
     ("loss", "str", "function")),
    ("hybrids.first_explicit_gradient",
     lambda: HYBRID(PARAMS, YS, YS),
     ("xs", "[4, 2, 2]", "n_in=3")),
    ("jacobians.blocks", lambda: ej.jacobians.blocks(NET, PARAMS, None, None, None),
     ("cell", "Network", "Cell")),
    ("equations.local_derivatives", lambda: ej.equations.local_derivatives(CELL, PARAMS, XS[:, 0]),
     ("net", "Cell", "Network")),
    ("equations.path_sum_gradient", lambda: ej.equations.path_sum_gradient(NET, loss, PARAMS, XS, YS),
     ("xs", "[4, 2, 3]", "[T, 3]")),
    ("equations.path_sum_gradient",
     lambda: ej.equations.path_sum_gradient(NET, loss, PARAMS, XS, YS, 0),
     ("order", "0", ">= 1")),
    # pictures
    ("plotting.raster", lambda: plotting.raster(None, [[1.0]]), ("ax", "NoneType", "Axes")),
    ("plotting.raster", lambda: plotting.raster(AX, [["a"]]), ("spikes", "<U1", "real numbers")),
    ("plotting.raster", lambda: plotting.raster(AX, [[1.0]], dt=0.0), ("dt", "0.0", "positive")),
    ("plotting.membrane", lambda: plotting.membrane(AX, [[1.0]], 1.0), ("v", "[1, 1]", "1 axes")),
    ("plotting.traces", lambda: plotting.traces(AX, [[1.0], []], ["a"]),
     ("e", "[]", "real numbers")),
    ("plotting.learning_signals", lambda: plotting.learning_signals(3, [[1.0]], ["a"]),
     ("ax", "int", "Axes")),
    ("plotting.targets", lambda: plotting.targets(AX, [[1.0]], [1.0]),
     ("targets", "[1]", "[1, 1]")),
    ("plotting.learning_curves", lambda: plotting.learning_curves(AX, [1], [[1.0]]),
     ("curves", "list", "dict")),
    ("plotting.learning_curves", lambda: plotting.learning_curves(AX, 1, {}),
     ("steps", "[]", "1 axes")),
    ("plotting.fidelity", lambda: plotting.fidelity(AX, {"a": [1.0]}),
     ("values['a']", "list", "pair")),
    ("plotting.fidelity", lambda: plotting.fidelity(AX, {}, quantity="angle"),
     ("quantity", "'angle'", "cosine")),
    ("plotting.computational_graph", lambda: plotting.computational_graph(AX, NET),
     ("rule", "Network", "rule")),
    ("plotting.computational_graph", lambda: plotting.computational_graph(AX, RULE, units=9),
     ("units", "9", "at most 5")),
    ("plotting.automaton", lambda: plotting.automaton(AX, NET), ("rule", "Network", "rule")),
    ("plotting.automaton", lambda: plotting.automaton(AX, "i*g"), ("paths", "'g'", "index 2")),
    ("plotting.automaton", lambda: plotting.automaton(3, "i*"), ("ax", "int", "Axes")),
    ("plotting.step_response", lambda: plotting.step_response(3, CELL, 1.0), ("ax", "int", "Axes")),
    ("plotting.step_response", lambda: plotting.step_response(AX, NET, 1.0),
     ("cell", "Network", "ej.Cell")),
    ("plotting.step_response", lambda: plotting.step_response(AX, CELL, 1.0, start=9, stop=9),
     ("start, stop", "9, 9", "start < stop")),
    ("plotting.step_response", lambda: plotting.step_response(AX, CELL, {"z": 1.0}),
     ("size", "'z'", "names")),
    ("plotting.step_response", lambda: plotting.step_response(AX, CELL, "big"),
     ("size", "'big'", "numbers")),
    ("plotting.demo_figure", lambda: plotting.demo_figure("a.png", [], {}, None),
     ("results", "list", "dict")),
]  # fmt: skip

# Nothing is given, or an index into the arrays of a tiny network, which NumPy looks up.
NOTHING_TO_REFUSE = {
    "tasks.digits", "tasks.japanese_vowels", "export.register", "paths.accepts", "paths.as_text",
    "synapses.dense", "measured_rates",
} | {
    f"equations.{name}"
    for name in (
        "chains", "eligibility_trace", "explicit_eligibility_trace", "explicit_increment",
        "explicit_variable", "implicit_increment", "implicit_path", "implicit_variable",
        "leaky_readout_implicit_variable", "linear_units", "readout_implicit_variable",
        "readout_increment", "recurrence_eligibility_trace", "recurrence_increment",
        "recurrence_variable",
    )
}  # fmt: skip

TABLE = [
    *called(),
    *SHAPES,
    *MAKING,
    *OWN,
    *LOSSES,
    *((f"{name}-{words[0]}", call, words) for name, call, words in PUBLIC),
]


@pytest.mark.parametrize("call, words", [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_a_wrong_call_is_refused_by_name_before_anything_is_compiled(call, words):
    jax.clear_caches()
    COMPILED.clear()
    with pytest.raises((ValueError, TypeError)) as refusal:
        call()
    assert not COMPILED, "something was compiled before the refusal"
    message = str(refusal.value)
    assert message.startswith(f"{words[0]}:"), message
    assert "wanted" in message, message
    for word in words[1:]:
        assert word in message, message
    raised_in = traceback.extract_tb(refusal.value.__traceback__)[-1].filename
    assert f"{os.sep}eprop_jax{os.sep}" in raised_in, raised_in
    assert "jax._src" not in message and "Traceback" not in message, message
    assert "PyTreeDef" not in message, message


def public_functions():
    """The names of `ej.__all__`, and the functions of its modules and of plotting."""
    modules = {
        name: getattr(ej, name) for name in ej.__all__ if inspect.ismodule(getattr(ej, name))
    }
    found = {name for name in ej.__all__ if inspect.isfunction(getattr(ej, name))} | {"Network"}
    for label, module in {**modules, "plotting": plotting, "nir": nir, **INTEROP}.items():
        names = getattr(module, "__all__", None) or [n for n in dir(module) if n[0] != "_"]
        for name in names:
            value = getattr(module, name)
            own = hasattr(module, "__all__") or getattr(value, "__module__", "") == module.__name__
            if inspect.isfunction(value) and own:
                found.add(f"{label}.{name}")
    return found


def test_every_public_function_has_its_wrong_calls():
    tried = {row[0] for row in PUBLIC}
    assert public_functions() - tried == NOTHING_TO_REFUSE
    assert tried - public_functions() == {"experiments.settings"}


def test_the_listener_hears_a_compilation():
    COMPILED.clear()
    jax.jit(lambda x: x * 3 + 1)(jnp.ones(2))
    assert COMPILED
