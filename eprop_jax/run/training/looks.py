"""What to look at while training: accuracies and errors, and how good the gradient is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from eprop_jax import checks
from eprop_jax.engine import definition
from eprop_jax.network.types import Array, LearningRule, PyTree
from eprop_jax.run.compare import exact, fidelity
from eprop_jax.run.sequence import value_and_grad
from eprop_jax.run.training.batches import Batch, is_read, reader, sampler
from eprop_jax.run.training.updates import Metric, metric_functions


def accuracy(outputs: Array, ys: PyTree) -> Array:
    """Share of sequences that are named rightly, by the largest of the outputs' sum over the window.

    Args:
      outputs: [T, *batch, n_out].
      ys: (class [T, *batch], weight [T, *batch]), with one class a sequence wherever its weight is
        not 0; where the class changes, take `step_accuracy`.

    Raises:
      TypeError, ValueError: if ys is no such pair, or does not fit the outputs.

    >>> import jax.numpy as jnp, eprop_jax as ej
    >>> ys = jnp.array([[1], [1]]), jnp.array([[0.0], [1.0]])
    >>> float(ej.training.accuracy(jnp.array([[[9.0, 0.0]], [[0.0, 1.0]]]), ys))
    1.0
    """
    label, weight = _classes(outputs, ys)
    logits = jnp.sum(outputs * weight[..., None].astype(outputs.dtype), 0)
    label = jnp.max(jnp.where(weight > 0, label, 0), 0)
    return jnp.mean((jnp.argmax(logits, -1) == label).astype(outputs.dtype))


def step_accuracy(outputs: Array, ys: PyTree) -> Array:
    """Share of steps that are named rightly by the largest output, weighted as the loss is.

    Args:
      outputs, ys: as in `accuracy`; the class may change from step to step.

    Raises:
      TypeError, ValueError: if ys is no such pair, or does not fit the outputs.

    >>> import jax.numpy as jnp, eprop_jax as ej
    >>> ys = jnp.array([[0], [1]]), jnp.array([[0.5], [0.5]])
    >>> float(ej.training.step_accuracy(jnp.array([[[9.0, 0.0]], [[1.0, 0.0]]]), ys))
    0.5
    """
    label, weight = _classes(outputs, ys)
    weight = weight.astype(outputs.dtype)
    right = (jnp.argmax(outputs, -1) == label).astype(outputs.dtype)
    return jnp.sum(weight * right) / jnp.sum(weight)


def normalised_mse(outputs: Array, ys: Array) -> Array:
    """Σ (y − y*)² / Σ (y* − ȳ*)², ȳ* the target's mean over time (Bellec et al. 2020).

    Args:
      outputs, ys: [T, *batch, n_out].

    Raises:
      TypeError, ValueError: if they are not two arrays of one shape.

    >>> import jax.numpy as jnp, eprop_jax as ej
    >>> target = jnp.array([[0.0], [2.0]])
    >>> float(ej.training.normalised_mse(jnp.ones((2, 1)), target))
    1.0
    """
    checks.array("outputs", outputs)
    if checks.array("ys", ys).shape != outputs.shape:
        raise ValueError(
            f"ys: got shape {list(ys.shape)}, wanted {list(outputs.shape)}, as outputs"
        )
    target = ys.astype(outputs.dtype)
    spread = jnp.sum((target - jnp.mean(target, 0, keepdims=True)) ** 2)
    return jnp.sum((outputs - target) ** 2) / spread


def evaluator(
    rule: LearningRule,
    data: Any,
    *,
    metrics: Mapping[str, Metric] | None = None,
    batches: int = 1,
    cosine: bool = False,
    reference: LearningRule | None = None,
) -> Callable[[PyTree, Array], dict[str, Array]]:
    """(params, key) -> {"test_loss", "test_" + each metric, "cosine"}, compiled, for `fit`.

    Args:
      rule: the rule in training; of it, the network and the loss are read.
      data: as in `trainer`; batch b of the key is drawn with fold_in(key, b). Of an iterable it is
        the first `batches`, at every look the same.
      metrics: as in `trainer`.
      batches: how many, over which the mean is taken.
      cosine: also the cosine of the rule's gradient of the cell's parameters to the reference's,
        on the first batch.
      reference: a rule of symmetric feedback; None: BPTT of the same network and losses. Over long
        sequences of spikes BPTT may explode where no gradient passes the reset; then another
        network with the same parameters, in which it does pass, makes the better reference.

    Raises:
      TypeError, ValueError: as `trainer`; for a rule of your own with no `spec`.

    >>> import functools, jax, eprop_jax as ej
    >>> task = functools.partial(ej.tasks.copy_memory(n_symbols=2, length=1, delay=3), batch=4)
    >>> net = ej.Network(ej.cells.gru(4, 8), ej.readouts.linear(8, 2))
    >>> rule = ej.eprop(net, ej.losses.masked(ej.losses.softmax_cross_entropy))
    >>> look = ej.training.evaluator(rule, task, metrics={"accuracy": ej.training.accuracy},
    ...                              batches=2, cosine=True)
    >>> sorted(look(net.init(jax.random.key(0)), jax.random.key(1)))
    ['cosine', 'test_accuracy', 'test_loss']
    """
    spec = definition.of_library("rule", rule)
    checks.size("batches", batches)
    checks.flag("cosine", cosine)
    metrics = metric_functions(metrics)
    reference = exact(spec) if reference is None else reference
    checks.instance("reference", reference, LearningRule, "an ej.LearningRule")
    forward = value_and_grad(reference, has_aux=True)
    own = value_and_grad(rule)
    network = lambda params: {k: params[k] for k in ("cell", "readout")}

    def one(params, batch: Batch):
        xs, ys, mask = batch
        (loss, aux), _ = forward(network(params), xs, ys, mask=mask)
        return {"test_loss": loss} | {f"test_{k}": f(aux.outputs, ys) for k, f in metrics.items()}

    def angle(params, batch: Batch):
        xs, ys, mask = batch
        _, wanted = forward(network(params), xs, ys, mask=mask)
        grads = own(params, xs, ys, mask=mask)[1]
        return {"cosine": fidelity(grads["cell"], wanted["cell"]).cosine}

    if is_read(data):
        one, angle = jax.jit(one), jax.jit(angle)

        def read(params, key):
            following = reader(data)
            found, cosines = [], {}
            for b in range(batches):
                batch = following()
                found.append(one(params, batch))
                cosines = angle(params, batch) if cosine and not b else cosines
            return jax.tree.map(lambda *x: jnp.mean(jnp.stack(x)), *found) | cosines

        return read

    draw = sampler(data)

    @jax.jit
    def evaluate(params, key):
        found = jax.lax.map(lambda b: one(params, draw(key, b)), jnp.arange(batches))
        found = {name: jnp.mean(x) for name, x in found.items()}
        return found | (angle(params, draw(key, jnp.int32(0))) if cosine else {})

    return evaluate


def _classes(outputs: Array, ys: PyTree) -> tuple[Array, Array]:
    lead = list(checks.array("outputs", outputs).shape[:-1])
    if not isinstance(ys, tuple) or len(ys) != 2:
        raise TypeError(f"ys: got {type(ys).__name__}, wanted the pair (class, weight)")
    for i, y in enumerate(ys):
        if list(checks.array(f"ys[{i}]", y).shape) != lead:
            raise ValueError(f"ys[{i}]: got shape {list(y.shape)}, wanted {lead}, as outputs")
    return ys
