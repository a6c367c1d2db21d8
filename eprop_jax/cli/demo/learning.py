"""Training under each rule, testing on the way, and gradients held against BPTT's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eprop_jax.cli import naming
from eprop_jax.cli.demo.setups import (
    DEFAULT_ORDERS,
    DEFAULT_RULES,
    LOSS,
    Method,
    Setup,
    methods,
    presenter,
    setup,
)
from eprop_jax.engine import paths
from eprop_jax.network.types import Array, LearningRule, Network, PyTree
from eprop_jax.paper import taxonomy
from eprop_jax.rules import feedback
from eprop_jax.rules.by_paths import by_paths
from eprop_jax.run import training
from eprop_jax.run.compare import Fidelity, fidelity
from eprop_jax.run.sequence import value_and_grad
from eprop_jax.tasks import Digits, batches

PROBE = 256
"""training examples in the batch on which gradients are compared"""
LIGHT = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
SEGMENTS = 20
"""training pauses so often to move the progress bar and to be tested"""


class Result(NamedTuple):
    """What came out for one cell and rule; arrays [seeds] unless said otherwise."""

    cell: str
    key: str
    name: str
    order: int | None
    causal: str
    local: str
    accuracy: np.ndarray
    """on the test digits, 0 to 1"""
    cosine_start: np.ndarray | None
    """to BPTT's gradient of the cell's parameters; None where they are not trained"""
    cosine_end: np.ndarray | None
    loss: np.ndarray
    """training loss in nats, mean of the last segment's updates"""
    update_ms: float
    """median time of one update of one seed's network"""
    steps: np.ndarray
    """[S] updates done at each test"""
    curve: np.ndarray
    """[seeds, S] test accuracy then"""
    params: PyTree
    """trained, with a leading seed axis"""


class OrderFidelity(NamedTuple):
    """Gradients of order 1, 2, … against BPTT's, for one cell; arrays [seeds, orders]."""

    orders: tuple[int, ...]
    start: Fidelity
    end: Fidelity


def initial(net: Network, keys: Array) -> PyTree:
    """Parameters of several seeds, {"cell", "readout", "feedback"}, each leaf with a seed axis.

    >>> import jax
    >>> from eprop_jax.cli import demo
    >>> net = demo.setup("gru").net
    >>> demo.initial(net, jax.random.split(jax.random.key(0), 3))["feedback"].shape
    (3, 64, 10)
    """

    def of(key):
        k_net, k_feedback = jax.random.split(key)
        return {**net.init(k_net), "feedback": feedback.init(k_feedback, net)}

    return jax.jit(jax.vmap(of))(keys)


def begin(method: Method, params: PyTree, optimizer: optax.GradientTransformation) -> tuple:
    """(what the method reads of `params`, the optimiser's state for what it trains), by seed."""
    names = ("cell", "readout", "feedback") if reads_feedback(method.rule) else ("cell", "readout")
    params = {k: params[k] for k in names}
    start = training.trainer(method.rule, only(method, optimizer), lambda key: ()).init
    return params, jax.vmap(lambda p: start(p, jax.random.key(0)).opt_state)(params)


def only(method: Method, optimizer: optax.GradientTransformation) -> Any:
    """The optimiser for what the method trains; the rest stays as it is."""

    def label(params):
        def what(path):
            still = method.freeze and path[0].key == "cell" and path[1].idx in method.freeze
            return "trained" if path[0].key in method.trains and not still else "frozen"

        return jax.tree.map_with_path(lambda path, _: what(path), params)

    return optax.multi_transform({"trained": optimizer, "frozen": optax.set_to_zero()}, label)


def reads_feedback(rule: LearningRule) -> bool:
    return rule.spec is not None and rule.spec.feedback != "symmetric"


def trainer(method: Method, optimizer: optax.GradientTransformation, present: Callable) -> Callable:
    """A compiled stretch of training: `training.trainer`, `vmap`ped over seeds.

    Args:
      method: the rule, and which parameters it trains; the others stay as they are.
      optimizer: any optax transformation.
      present: (indices [B]) -> (xs [T, B, n_in], ys), the batch of those training examples.

    Returns:
      segment(state, indices [seeds, U, B]) -> (state, losses [seeds, U]), with state the pair
      (params, opt_state), each leaf with a leading seed axis.

    Raises:
      TypeError, ValueError: when called, for what does not fit the network.

    >>> import jax, jax.numpy as jnp, optax
    >>> from eprop_jax import tasks
    >>> from eprop_jax.cli import demo
    >>> data, s, sgd = tasks.digits(), demo.setup("gru"), optax.sgd(0.1)
    >>> (method,) = demo.methods(s.net, ["frozen"], [])
    >>> params = demo.initial(s.net, jax.random.split(jax.random.key(0), 2))
    >>> state = demo.begin(method, params, sgd)
    >>> segment = demo.trainer(method, sgd, demo.presenter(s, data.train_images, data.train_labels))
    >>> state, losses = segment(state, jnp.zeros((2, 3, 8), int))
    >>> losses.shape
    (2, 3)
    """

    def segment(state, indices):
        t = training.trainer(method.rule, only(method, optimizer), jax.vmap(present)(indices))
        params, opt_state = state
        begun = training.TrainState(params, opt_state, jax.random.key(0), jnp.int32(0))
        after, log = t.run(begun, len(indices))
        return (after.params, after.opt_state), log["loss"]

    return jax.jit(jax.vmap(segment))


def tester(s: Setup, images: np.ndarray, labels: np.ndarray) -> Callable[[PyTree], Array]:
    """params [seeds, …] -> accuracy [seeds] on these digits, from the last row's mean output."""
    xs, ys = presenter(s, images, labels)(jnp.arange(len(labels)))

    def accuracy(params):
        outputs = s.net.apply({k: params[k] for k in ("cell", "readout")}, xs).outputs
        logits = jnp.sum(outputs * ys[1][..., None].astype(outputs.dtype), 0)
        return jnp.mean((jnp.argmax(logits, -1) == ys[0][0]).astype(logits.dtype))

    return jax.jit(jax.vmap(accuracy))


class Probe:
    """Gradients on one batch of training data against BPTT's; one compilation a rule."""

    def __init__(self, net: Network, xs: Array, ys: PyTree):
        self.net, self.xs, self.ys = net, xs, ys
        self.compiled: dict[Any, Callable] = {}

    def fidelity(self, rule: LearningRule, params: PyTree) -> Fidelity:
        """params [seeds, …] -> `Fidelity` of the cell's gradient, each field [seeds]."""
        given = {k: params[k] for k in ("cell", "readout")}
        exact = self.gradient(by_paths(self.net, LOSS, paths="(i|e|f)*"), given)
        given = params if reads_feedback(rule) else given
        return jax.tree.map(np.asarray, _fidelity(self.gradient(rule, given), exact))

    def gradient(self, rule: LearningRule, params: PyTree) -> PyTree:
        key = rule.spec and (rule.spec.language, rule.spec.feedback)
        if key not in self.compiled:
            f = value_and_grad(rule)
            # Run a few times each: the time goes into compiling, so compile lightly.
            self.compiled[key] = jax.jit(
                jax.vmap(lambda params: f(params, self.xs, self.ys)[1]["cell"]),
                compiler_options=LIGHT if jax.default_backend() == "cpu" else None,
            )
        return self.compiled[key](params)


_fidelity = jax.jit(jax.vmap(fidelity))


# -- the job ---------------------------------------------------------------------------------------


def run(
    cell: str,
    data: Digits,
    *,
    rules: Sequence[str] = DEFAULT_RULES,
    orders: Sequence[int] = DEFAULT_ORDERS,
    seed: int = 0,
    seeds: int = 3,
    updates: int | None = None,
    layers: Sequence[int] = (),
    freeze: Sequence[int] = (),
    progress: Callable[..., Any] = lambda name, done, seen=None: None,
) -> tuple[list[Result], OrderFidelity]:
    """Train one cell under each rule, test it, and compare the gradients.

    Args:
      cell: "gru" or "alif".
      data: from `ej.tasks.digits`.
      rules, orders: as in `methods`.
      seed, seeds: the first seed and how many; all seeds of a rule train as one program.
      updates: None: as `setup` has it.
      layers: units of each layer of a stack, the lowest first; (): one layer, as `setup` has it.
      freeze: layers that no rule trains.
      progress: called as progress(name of the rule, updates just done), and with what was seen
        then, a dict, as a third argument.

    Returns:
      A `Result` a rule, and the fidelity of `Setup.orders` at the first rule's initial and trained
      parameters.

    Raises:
      KeyError: for an unknown cell or rule.
      ValueError: before any training, for a rule under which a parameter has no gradient.

    >>> from eprop_jax import tasks
    >>> from eprop_jax.cli import demo
    >>> (result,), by_order = demo.run("gru", tasks.digits(), rules=["frozen"], seeds=1, updates=2)
    >>> result.curve.shape, by_order.start.cosine.shape
    ((1, 2), (1, 8))
    """
    s = setup(cell, layers)
    s = s._replace(updates=s.updates if updates is None else updates)
    present = presenter(s, data.train_images, data.train_labels)
    test = tester(s, data.test_images, data.test_labels)
    probe = Probe(s.net, *present(jnp.arange(PROBE)))
    keys = jax.vmap(jax.random.key)(jnp.arange(seed, seed + seeds, dtype=jnp.uint32))
    params = initial(s.net, keys)
    asked = methods(s.net, rules, orders, freeze)
    for method in asked:
        refuse(method, s.net)
    n = len(data.train_labels)
    order = jax.vmap(lambda k: batches(jax.random.fold_in(k, 1), n, s.batch, s.updates))(keys)
    results = [
        train(cell, s, method, params, order, present, test, probe, progress) for method in asked
    ]
    return results, by_order(s, params, results[0].params, probe)


def refuse(method: Method, net: Network) -> None:
    """What the rule refuses of this network."""

    def start(key):
        B = {"feedback": feedback.init(key, net)} if reads_feedback(method.rule) else {}
        return method.rule.init({**net.init(key), **B}, (1,))

    jax.eval_shape(start, jax.random.key(0))


def train(
    cell: str, s: Setup, method: Method, params: PyTree, order: Array, present: Callable,
    test: Callable, probe: Probe, progress: Callable,
) -> Result:  # fmt: skip
    """One rule: train, test on the way, and compare its gradient before and after."""
    optimizer = optax.adamw(
        optax.cosine_decay_schedule(s.learning_rate, s.updates), weight_decay=s.weight_decay
    )
    segment = trainer(method, optimizer, present)
    state = begin(method, params, optimizer)

    def cosine(params):
        return np.asarray(probe.fidelity(method.rule, params).cosine) if method.whole else None

    cosine_start = cosine(state[0])
    compiled, steps, curve, seconds, done, loss = {}, [], [], [], 0, jnp.zeros((1, 1))
    progress(method.name, 0)
    while done < s.updates:
        size = min(max(1, s.updates // SEGMENTS), s.updates - done)
        part = order[:, done : done + size]
        if size not in compiled:  # so that no time below has a compilation in it
            compiled[size] = segment.lower(state, part).compile()
        began = time.perf_counter()
        state, loss = jax.block_until_ready(compiled[size](state, part))
        seconds.append((time.perf_counter() - began) / size / len(part))
        done += size
        steps.append(done)
        curve.append(np.asarray(test(state[0])))
        progress(method.name, size, {"test accuracy": float(curve[-1].mean())})
    named = naming.language(method.key) is None  # how local a language is, its report says
    about = taxonomy.find(method.key) if named else None
    return Result(
        cell, method.key, method.name, method.order,
        about.causal if about else "–", about.local if about else "–", curve[-1],
        cosine_start, cosine(state[0]), np.asarray(loss.mean(1)), 1e3 * statistics.median(seconds),
        np.asarray(steps), np.stack(curve, 1), state[0],
    )  # fmt: skip


def by_order(s: Setup, start: PyTree, end: PyTree, probe: Probe) -> OrderFidelity:
    """How far the gradient of each order is from BPTT's, before and after training."""

    def at(params):
        params = {k: params[k] for k in ("cell", "readout")}
        rules = [by_paths(s.net, LOSS, paths=paths.order(m)) for m in s.orders]
        return jax.tree.map(lambda *x: np.stack(x, 1), *(probe.fidelity(r, params) for r in rules))

    return OrderFidelity(s.orders, at(start), at(end))
