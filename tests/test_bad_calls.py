"""Wrong calls over the whole public surface: refused by name, before anything is compiled.

`test_refusals.py` has the wrong parameters, sequences, carries, cells and losses that a rule can
meet; here each public function has at least one wrong call of its own.
"""

import inspect
import os
import traceback

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matplotlib.figure import Figure

import eprop_jax as ej
from eprop_jax import experiments, plotting, training

KEY = jax.random.key(0)
KEYS = jax.random.split(KEY, 2)
N_IN, N, N_OUT = 3, 5, 2
NET = ej.Network(ej.cells.rnn(N_IN, N), ej.readouts.linear(N, N_OUT))
PARAMS = jax.tree.map(jnp.asarray, NET.init(KEY))
# NumPy arrays, whose slices compile nothing.
XS, YS = np.ones((4, 2, N_IN)), np.ones((4, 2, N_OUT))
IMAGES, LABELS = np.zeros((2, 8, 8)), np.zeros(2, "int32")
FRAMES, LENGTHS = np.ones((2, 5, 12)), np.array([4, 2])
SGD = optax.sgd(0.1)
NAN = float("nan")
PATTERN = ej.tasks.pattern_generation()
AX = Figure().subplots()
COMPILED = []


def loss(y, target):
    raise AssertionError("the loss was traced before the refusal")


def hear(event, *_, **__):
    if "backend_compile" in event:
        COMPILED.append(event)


jax.monitoring.register_event_duration_secs_listener(hear)
RULE = ej.eprop(NET, loss)
TRAINER = training.trainer(RULE, SGD, lambda key: (XS, YS))
STATE = TRAINER.init(PARAMS, KEY)
LEARNER = ej.online(RULE, SGD)
MESH = ej.sharding.mesh(batch=1, units=1)
CELL = NET.cell
FOLDER = "no/such/folder"

vjp = jax.custom_vjp(lambda x: x)
vjp.defvjp(lambda x: (x, None), lambda _, g: (g,))


def own(dynamics=lambda theta, c, a: 0.5 * c + a, output=lambda theta, c: c):
    net = ej.Network(ej.cells.custom(N_IN, N, dynamics, output, 0.0), NET.readout)
    return ej.value_and_grad(ej.eprop(net, loss))


REVERSE_DYNAMICS = own(dynamics=lambda theta, c, a: 0.5 * c + vjp(a))
REVERSE_OUTPUT = own(output=lambda theta, c: vjp(c))
HYBRID = ej.hybrids.first_explicit_gradient(NET, loss)


def spiking(psi):
    return ej.cells.lif(N_IN, N, surrogate=psi)


# (the function, the wrong call, words of the refusal: the argument, then what came, what was wanted)
TABLE = [
    # rules and what is made of them
    ("bptt", lambda: ej.bptt(None, loss), ("net", "NoneType", "Network")),
    ("bptt", lambda: ej.bptt(NET, loss, activity_loss="rate"),
     ("activity_loss", "str", "function")),
    ("eprop", lambda: ej.eprop(loss, NET), ("net", "function", "Network")),
    ("eprop", lambda: ej.eprop(NET, loss, feedback=True), ("feedback", "True", "symmetric")),
    ("rtrl", lambda: ej.rtrl(NET, loss, activity_loss=3), ("activity_loss", "int", "function")),
    ("m_order_eprop", lambda: ej.m_order_eprop(NET, loss, order="2"), ("order", "'2'", "int")),
    ("value_and_grad", lambda: ej.value_and_grad(RULE, has_aux=1), ("has_aux", "1", "True or")),
    ("value_and_grad", lambda: ej.value_and_grad(RULE, chunk="all"), ("chunk", "'all'", "auto")),
    ("check_finite", lambda: ej.check_finite(loss), ("rule", "function", "LearningRule")),
    ("check_finite", lambda: ej.check_finite(RULE, chunk=0), ("chunk", "0", ">= 1")),
    ("check_finite", lambda: ej.check_finite(RULE)(PARAMS, XS, YS[:3]),
     ("ys", "[3, 2, 2]", "[4, 2]")),
    ("check_finite", lambda: ej.check_finite(RULE)(None, XS, YS),
     ("params", "NoneType", "net.init")),
    ("compare", lambda: ej.compare([RULE], PARAMS, XS, YS), ("rules", "[", "dict")),
    ("compare", lambda: ej.compare({"a": RULE}, None, XS, YS), ("params", "NoneType", "net.init")),
    ("compare", lambda: ej.compare({"a": RULE}, PARAMS, XS, YS[1:], reference=RULE),
     ("ys", "[3, 2, 2]", "[4, 2]")),
    ("fidelity", lambda: ej.fidelity({"w": XS}, {"v": XS}), ("g", "'w'", "'v'")),
    ("fidelity", lambda: ej.fidelity(XS, YS), ("g", "[4, 2, 3]", "[4, 2, 2]")),
    ("fidelity", lambda: ej.fidelity({"w": "x"}, {"w": XS}), ("g['w']", "str", "array")),
    ("fidelity", lambda: ej.fidelity(None, None), ("g", "None", "at least one")),
    ("cost", lambda: ej.cost(NET, PARAMS), ("rule", "Network", "rules")),
    ("cost", lambda: ej.cost(RULE, PARAMS, batch_shape="8"), ("batch_shape", "'8'", "(8,)")),
    ("cost", lambda: ej.cost(RULE, PARAMS, chunk=0.5), ("chunk", "0.5", "int")),
    ("cost", lambda: ej.cost(RULE, []), ("params", "list", "net.init")),
    ("narrow_traces", lambda: ej.narrow_traces(NET), ("rule", "Network", "library's rules")),
    ("narrow_traces", lambda: ej.narrow_traces(RULE, "int16"), ("dtype", "int16", "floating")),
    ("narrow_traces", lambda: ej.narrow_traces(RULE, "b16"), ("dtype", "'b16'", "bfloat16")),
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
    ("cells.custom", lambda: ej.cells.custom(N_IN, N, loss, None, 0.0),
     ("output", "NoneType", "function")),
    ("cells.custom", lambda: REVERSE_DYNAMICS(PARAMS, XS, YS),
     ("dynamics", "custom_vjp", "custom_jvp")),
    ("cells.custom", lambda: REVERSE_OUTPUT(PARAMS, XS, YS),
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
    ("encodings.poisson", lambda: ej.encodings.poisson(3, YS), ("key", "3", "PRNG key")),
    ("encodings.poisson", lambda: ej.encodings.poisson(KEY, "fast"),
     ("rate", "<U4", "real numbers")),
    ("encodings.poisson", lambda: ej.encodings.poisson(KEY, [2000.0]), ("rate", "2000", "at most")),
    ("encodings.population", lambda: ej.encodings.population([[1.0], []], 4),
     ("x", "[]", "numbers")),
    ("encodings.population", lambda: ej.encodings.population([0.5], 4, low=np.zeros(2)),
     ("low", "[2]", "one number")),
    ("encodings.level_crossing", lambda: ej.encodings.level_crossing(None, 0.5),
     ("xs", "object", "real numbers")),
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
    ("plotting.demo_figure", lambda: plotting.demo_figure("a.png", [], {}, None),
     ("results", "list", "dict")),
]  # fmt: skip

# Nothing is given, or an index into the arrays of a tiny network, which NumPy looks up.
NOTHING_TO_REFUSE = {"tasks.digits", "tasks.japanese_vowels"} | {
    f"equations.{name}"
    for name in (
        "chains", "eligibility_trace", "explicit_eligibility_trace", "explicit_increment",
        "explicit_variable", "implicit_increment", "implicit_path", "implicit_variable",
        "leaky_readout_implicit_variable", "linear_units", "readout_implicit_variable",
        "readout_increment", "recurrence_eligibility_trace", "recurrence_increment",
        "recurrence_variable",
    )
}  # fmt: skip


@pytest.mark.parametrize(
    "call, words", [row[1:] for row in TABLE], ids=[f"{row[0]}-{row[2][0]}" for row in TABLE]
)
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


def public_functions():
    """The names of `ej.__all__`, and the functions of its modules and of plotting."""
    modules = {
        name: getattr(ej, name) for name in ej.__all__ if inspect.ismodule(getattr(ej, name))
    }
    found = {name for name in ej.__all__ if inspect.isfunction(getattr(ej, name))} | {"Network"}
    for label, module in {**modules, "plotting": plotting}.items():
        names = getattr(module, "__all__", None) or [n for n in dir(module) if n[0] != "_"]
        for name in names:
            value = getattr(module, name)
            own = hasattr(module, "__all__") or getattr(value, "__module__", "") == module.__name__
            if inspect.isfunction(value) and own:
                found.add(f"{label}.{name}")
    return found


def test_every_public_function_has_its_wrong_calls():
    tried = {row[0] for row in TABLE}
    assert len(TABLE) >= 60
    assert public_functions() - tried == NOTHING_TO_REFUSE
    assert tried - public_functions() == {"experiments.settings"}


def test_the_listener_hears_a_compilation():
    COMPILED.clear()
    jax.jit(lambda x: x * 3 + 1)(jnp.ones(2))
    assert COMPILED
