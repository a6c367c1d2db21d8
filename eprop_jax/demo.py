"""The main job: handwritten digits, read row by row, learned by every rule.

Two networks (a GRU; adaptive spiking units, ALIF) see a digit as 8 rows of 8 pixels, one after the
other, and name it while the last row is shown: only there does the loss count. Each rule trains the
same initial networks on the same batches in the same order with the same optimiser, so that what
differs is the gradient. `python -m eprop_jax` runs it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eprop_jax import cells, feedback, jacobians, losses, readouts, taxonomy, training
from eprop_jax.base import Array, LearningRule, Network, PyTree
from eprop_jax.bptt import bptt
from eprop_jax.compare import Fidelity, fidelity
from eprop_jax.eprop import eprop
from eprop_jax.m_order import m_order_eprop
from eprop_jax.sequence import value_and_grad
from eprop_jax.tasks import CLASSES, COLUMNS, Digits, batches, row_by_row

LOSS = losses.masked(losses.softmax_cross_entropy)
CELLS = ("gru", "alif")
RULES = ("bptt", "m-order", "symmetric", "random", "adaptive", "frozen")
DEFAULT_RULES = ("bptt", "m-order", "symmetric", "random", "frozen")
DEFAULT_ORDERS = (4, 2)
PROBE = 256
"""training examples in the batch on which gradients are compared"""
LIGHT = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
SEGMENTS = 20
"""training pauses so often to move the progress bar and to be tested"""


class Setup(NamedTuple):
    """A network, how digits are shown to it, and how it is trained: the same for every rule."""

    net: Network
    steps_a_row: int
    updates: int
    learning_rate: float
    orders: tuple[int, ...]
    """whose gradients are compared with BPTT's"""
    weight_decay: float = 0.1
    batch: int = 64


class Method(NamedTuple):
    """A rule, and which of the parameters it trains."""

    key: str
    name: str
    rule: LearningRule
    trains: tuple[str, ...]
    order: int | None = None


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


def setup(cell: str) -> Setup:
    """The experiment of one cell: "gru" (64 units) or "alif" (200 units).

    Raises:
      KeyError: for another name.

    >>> from eprop_jax import demo
    >>> demo.setup("gru").net.cell.n_units
    64
    """
    return {"gru": _gru, "alif": _alif}[cell]()


def _gru() -> Setup:
    net = Network(cells.gru(COLUMNS, 64), readouts.linear(64, CLASSES))
    return Setup(net, steps_a_row=1, updates=1500, learning_rate=1e-2, orders=tuple(range(1, 9)))


def _alif() -> Setup:
    # dt = 1 ms and each row stays 3 ms, so the units' memory (5 ms, 20 ms) spans two rows or more.
    cell = cells.alif(COLUMNS, 200, tau_m=5.0, tau_a=20.0, refractory=2, gain_in=2.0)
    net = Network(cell, readouts.leaky(200, CLASSES, tau=5.0))
    return Setup(net, steps_a_row=3, updates=400, learning_rate=5e-3, orders=(1, 2, 4, 8))


def methods(net: Network, rules: Sequence[str], orders: Sequence[int]) -> list[Method]:
    """The rules by their `--rule` names; "m-order" becomes one method an order.

    Args:
      net: the network.
      rules: from `RULES`.
      orders: of m-order e-prop, each ≥ 1.

    Raises:
      KeyError: for a rule of another name.

    >>> from eprop_jax import demo
    >>> [m.name for m in demo.methods(demo.setup("gru").net, ["bptt", "m-order"], [4, 2])]
    ['BPTT', 'e-prop, order 4', 'e-prop, order 2']
    """
    both = ("cell", "readout")

    def of(key: str) -> list[Method]:
        if key == "m-order":
            return [
                Method(key, f"e-prop, order {m}", m_order_eprop(net, LOSS, order=m), both, m)
                for m in orders
            ]
        if key == "bptt":
            return [Method(key, "BPTT", bptt(net, LOSS), both)]
        if key == "frozen":  # the read-out's gradient is exact under every rule
            return [Method(key, "frozen layer", eprop(net, LOSS), ("readout",))]
        rule = {k: lambda k=k: eprop(net, LOSS, feedback=k) for k in feedback.KINDS}[key]()
        trains = (*both, "feedback") if key == "adaptive" else both
        return [Method(key, f"e-prop, {key}", rule, trains, 1)]

    return [method for key in rules for method in of(key)]


# -- training --------------------------------------------------------------------------------------


def initial(net: Network, keys: Array) -> PyTree:
    """Parameters of several seeds, {"cell", "readout", "feedback"}, each leaf with a seed axis.

    >>> import jax
    >>> from eprop_jax import demo
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
    start = training.trainer(method.rule, only(method.trains, optimizer), lambda key: ()).init
    return params, jax.vmap(lambda p: start(p, jax.random.key(0)).opt_state)(params)


def only(names: Sequence[str], optimizer: optax.GradientTransformation) -> Any:
    """The optimiser for these parts of the parameters; the others stay as they are."""

    def label(params):
        what = lambda path: "trained" if path[0].key in names else "frozen"
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
    >>> from eprop_jax import demo, tasks
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
        t = training.trainer(
            method.rule, only(method.trains, optimizer), jax.vmap(present)(indices)
        )
        params, opt_state = state
        begun = training.TrainState(params, opt_state, jax.random.key(0), jnp.int32(0))
        after, log = t.run(begun, len(indices))
        return (after.params, after.opt_state), log["loss"]

    return jax.jit(jax.vmap(segment))


def presenter(s: Setup, images: np.ndarray, labels: np.ndarray) -> Callable[[Array], tuple]:
    """indices [B] -> (xs [T, B, 8], ys), as `row_by_row` shows those digits."""
    shown, named = jnp.asarray(images), jnp.asarray(labels)
    return lambda indices: row_by_row(shown[indices], named[indices], s.steps_a_row)


def tester(s: Setup, images: np.ndarray, labels: np.ndarray) -> Callable[[PyTree], Array]:
    """params [seeds, …] -> accuracy [seeds] on these digits, from the last row's mean output."""
    forward = value_and_grad(bptt(s.net, LOSS), has_aux=True)  # the unused gradient is cut away
    xs, ys = presenter(s, images, labels)(jnp.arange(len(labels)))

    def accuracy(params):
        (_, aux), _ = forward({k: params[k] for k in ("cell", "readout")}, xs, ys)
        logits = jnp.sum(aux.outputs * ys[1][..., None].astype(aux.outputs.dtype), 0)
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
        exact = self.gradient(bptt(self.net, LOSS), given)
        given = params if reads_feedback(rule) else given
        return jax.tree.map(np.asarray, _fidelity(self.gradient(rule, given), exact))

    def gradient(self, rule: LearningRule, params: PyTree) -> PyTree:
        key = rule.spec and (rule.spec.order, rule.spec.feedback)  # e-prop is order 1
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
    progress: Callable[[str, int], Any] = lambda name, done: None,
) -> tuple[list[Result], OrderFidelity]:
    """Train one cell under each rule, test it, and compare the gradients.

    Args:
      cell: "gru" or "alif".
      data: from `ej.tasks.digits`.
      rules, orders: as in `methods`.
      seed, seeds: the first seed and how many; all seeds of a rule train as one program.
      updates: None: as `setup` has it.
      progress: called as progress(name of the rule, updates just done).

    Returns:
      A `Result` a rule, and the fidelity of `Setup.orders` at the first rule's initial and trained
      parameters.

    Raises:
      KeyError: for an unknown cell or rule.

    >>> from eprop_jax import demo, tasks
    >>> (result,), by_order = demo.run("gru", tasks.digits(), rules=["frozen"], seeds=1, updates=2)
    >>> result.curve.shape, by_order.start.cosine.shape
    ((1, 2), (1, 8))
    """
    s = setup(cell)
    s = s._replace(updates=s.updates if updates is None else updates)
    present = presenter(s, data.train_images, data.train_labels)
    test = tester(s, data.test_images, data.test_labels)
    probe = Probe(s.net, *present(jnp.arange(PROBE)))
    keys = jax.vmap(jax.random.key)(jnp.arange(seed, seed + seeds))
    params = initial(s.net, keys)
    n = len(data.train_labels)
    order = jax.vmap(lambda k: batches(jax.random.fold_in(k, 1), n, s.batch, s.updates))(keys)
    results = [
        train(cell, s, method, params, order, present, test, probe, progress)
        for method in methods(s.net, rules, orders)
    ]
    return results, by_order(s, params, results[0].params, probe)


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
        trained = "cell" in method.trains
        return np.asarray(probe.fidelity(method.rule, params).cosine) if trained else None

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
        progress(method.name, size)
    about = taxonomy.find(method.key)
    return Result(
        cell, method.key, method.name, method.order, about.causal, about.local, curve[-1],
        cosine_start, cosine(state[0]), np.asarray(loss.mean(1)), 1e3 * statistics.median(seconds),
        np.asarray(steps), np.stack(curve, 1), state[0],
    )  # fmt: skip


def by_order(s: Setup, start: PyTree, end: PyTree, probe: Probe) -> OrderFidelity:
    """How far the gradient of each order is from BPTT's, before and after training."""

    def at(params):
        params = {k: params[k] for k in ("cell", "readout")}
        rules = [m_order_eprop(s.net, LOSS, order=m) for m in s.orders]
        return jax.tree.map(lambda *x: np.stack(x, 1), *(probe.fidelity(r, params) for r in rules))

    return OrderFidelity(s.orders, at(start), at(end))


# -- a look inside ---------------------------------------------------------------------------------


class Recording(NamedTuple):
    """One network reading a few digits one after the other, from rest each time."""

    spikes: np.ndarray
    """h, [T, n] over all digits"""
    traces: np.ndarray
    """eligibility traces e_ij^t of a few recurrent synapses, [T, synapses]"""
    synapses: list[tuple[int, int]]
    """(i, j): presynaptic, postsynaptic"""
    steps: int
    """a digit"""
    labels: list[int]


def record(s: Setup, params: PyTree, images: np.ndarray, labels: np.ndarray) -> Recording:
    """Run e-prop step by step, and keep h and the largest eligibility traces e = ψ ε (Eq. 9).

    Args:
      s: the experiment.
      params: one seed's {"cell", "readout"}.
      images, labels: [B, 8, 8] and [B], a few digits.

    Raises:
      ValueError: if the cell has several drives (its traces are one a gate, not one a synapse).

    >>> import jax
    >>> from eprop_jax import demo, tasks
    >>> s, data = demo.setup("alif"), tasks.digits()
    >>> params = s.net.init(jax.random.key(0))
    >>> seen = demo.record(s, params, data.test_images[:2], data.test_labels[:2])
    >>> seen.spikes.shape, seen.traces.shape
    ((48, 200), (48, 3))
    """
    if isinstance(params["cell"]["w_rec"], dict):
        raise ValueError("s: the cell has several drives, wanted one")
    rule, n = eprop(s.net, LOSS), s.net.cell.n_units
    xs, ys = presenter(s, images, labels)(jnp.arange(len(labels)))
    params = {k: params[k] for k in ("cell", "readout")}

    def step(carry, now):
        carry, out = rule.step(params, carry, *jax.tree.map(lambda x: x[None], now))
        psi = jacobians.output_blocks(s.net.cell, params["cell"], carry.state.c)[0]
        epsilon = [x for x in jax.tree.leaves(carry.epsilon["w_rec"]) if x.ndim == 3]
        e = sum(p[:, None, :] * jnp.broadcast_to(eps, (eps.shape[0], n, n))
                for p, eps in zip((p for p in psi if p is not None), epsilon))  # fmt: skip
        return carry, (out.activity[0], e)

    _, (h, e) = jax.lax.scan(step, rule.init(params, (len(labels),)), (xs, ys))
    e = np.asarray(e)  # [T, B, i, j]
    # Of each postsynaptic unit its strongest synapse, then the three strongest units.
    strength = np.where(np.eye(n, dtype=bool), 0.0, np.abs(e).sum((0, 1)))
    post = np.argsort(strength.max(0))[::-1][:3]
    synapses = [(int(strength[:, j].argmax()), int(j)) for j in post]
    in_turn = lambda x: np.swapaxes(np.asarray(x), 0, 1).reshape(-1, *x.shape[2:])
    traces = np.stack([in_turn(e[:, :, i, j]) for i, j in synapses], 1)
    return Recording(in_turn(h), traces, synapses, xs.shape[0], [int(k) for k in labels])
