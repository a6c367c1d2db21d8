"""Gradient fidelity: how far a rule's gradient is from a reference's, parameter by parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax import checks
from eprop_jax.engine import derivative
from eprop_jax.network.types import Array, LearningRule, PyTree, RuleSpec, Steps
from eprop_jax.network.units import wide
from eprop_jax.rules.by_paths import by_paths
from eprop_jax.run.sequence import value_and_grad


class Fidelity(NamedTuple):
    """How a gradient g compares with a reference g*; each field is a scalar array."""

    cosine: Array
    """⟨g, g*⟩ / (|g| |g*|); 0 if one of them is 0"""
    relative_error: Array
    """|g − g*| / |g*|"""
    sign_agreement: Array
    """the share of entries with g* ≠ 0 where g has the same sign"""
    norm_ratio: Array
    """|g| / |g*|"""


class Comparison(NamedTuple):
    """`overall[rule]` and `parameters[rule][path]` are `Fidelity`; prints as a table."""

    overall: dict[str, Fidelity]
    parameters: dict[str, dict[str, Fidelity]]

    def __str__(self) -> str:
        rows = []
        for rule, overall in self.overall.items():
            rows.append((rule, "all", *overall))
            rows += [("", path, *f) for path, f in self.parameters[rule].items()]
        head = ("rule", "parameter", "cosine", "rel. error", "signs", "norm ratio")
        text = [head] + [(r, p, *(f"{float(x):.4g}" for x in f)) for r, p, *f in rows]
        width = [max(len(row[i]) for row in text) for i in range(len(head))]
        return "\n".join(
            "  ".join(
                v.ljust(w) if i < 2 else v.rjust(w) for i, (v, w) in enumerate(zip(row, width))
            )
            for row in text
        )

    __repr__ = __str__


def fidelity(g: PyTree, reference: PyTree) -> Fidelity:
    """Compare two gradients (arrays or trees) as one long vector each.

    Raises:
      TypeError, ValueError: if the trees differ in structure or shapes, or hold no arrays.

    >>> import jax.numpy as jnp, eprop_jax as ej
    >>> f = ej.fidelity(jnp.array([1.0, 1.0]), jnp.array([2.0, 0.0]))
    >>> [round(float(x), 3) for x in f]
    [0.707, 0.707, 1.0, 0.707]
    """
    if jax.tree.structure(g) != jax.tree.structure(reference):
        raise ValueError(
            f"g: got {checks.form(g)}, wanted the structure of the reference, "
            f"{checks.form(reference)}"
        )
    pairs = list(zip(jax.tree.leaves(g), jax.tree.leaves(reference)))
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(g)]
    if not pairs:
        raise ValueError(f"g: got {g!r}, wanted at least one array")
    for path, (a, b) in zip(paths, pairs):
        checks.array(f"g{path}", a)
        checks.array(f"reference{path}", b)
        if a.shape != b.shape:
            raise ValueError(
                f"g{path}: got shape {list(a.shape)}, wanted {list(b.shape)}, as in reference"
            )
    pairs = [(wide(a), wide(b)) for a, b in pairs]
    dot = sum(jnp.sum(a * b) for a, b in pairs)
    gg, rr = sum(jnp.sum(a * a) for a, _ in pairs), sum(jnp.sum(b * b) for _, b in pairs)
    diff = sum(jnp.sum((a - b) ** 2) for a, b in pairs)
    same = sum(jnp.sum((b != 0) & (jnp.sign(a) == jnp.sign(b))) for a, b in pairs)
    count = sum(jnp.sum(b != 0) for _, b in pairs)
    norm, ref = jnp.sqrt(gg), jnp.sqrt(rr)
    tiny = jnp.finfo(norm.dtype).tiny
    return Fidelity(
        dot / jnp.maximum(norm * ref, tiny),
        jnp.sqrt(diff) / jnp.maximum(ref, tiny),
        jnp.asarray(same, norm.dtype) / jnp.maximum(count, 1).astype(norm.dtype),
        norm / jnp.maximum(ref, tiny),
    )


def exact(spec: RuleSpec) -> LearningRule:
    """All paths, of a rule's own network and losses."""
    return by_paths(
        spec.network, spec.loss, paths="(i|e|f)*",
        activity_loss=spec.activity_loss, state_loss=spec.state_loss,
    )  # fmt: skip


def compare(
    rules: Mapping[str, LearningRule],
    params: PyTree,
    xs: Array,
    ys: PyTree,
    *,
    reference: LearningRule | None = None,
    mask: Array | None = None,
    resets: Array | None = None,
) -> Comparison:
    """How well each rule's gradient approximates the reference's on one batch of sequences.

    Args:
      rules: {name: rule}.
      params: the network's parameters; `params["feedback"]` is given to the rules that read it and
        kept from the others, and is not compared.
      xs: [T, *batch, n_in].
      ys: targets, [T, *batch, ...].
      reference: a rule; default: BPTT of the first rule's network and losses.
      mask: [T, *batch] bool, the steps that count; resets: [T, *batch] bool, the examples that start
        afresh before a step. Both as in `ej.value_and_grad`.

    Returns:
      A `Comparison`: `overall[name]`, and `parameters[name][path]`.

    Raises:
      TypeError, ValueError: if there are no rules, or if one refuses its arguments.

    >>> import jax, eprop_jax as ej
    >>> net = ej.Network(ej.cells.linear_recurrence(3, 5), ej.readouts.linear(5, 2))
    >>> xs, ys = jax.random.normal(jax.random.key(1), (7, 3)), jax.numpy.ones((7, 2))
    >>> report = ej.compare({"e-prop": ej.eprop(net, ej.losses.squared_error)},
    ...                     net.init(jax.random.key(0)), xs, ys)
    >>> round(float(report.overall["e-prop"].cosine), 4)  # no explicit recurrence: exact
    1.0
    """
    if not isinstance(rules, Mapping) or not rules:
        got = "{}" if isinstance(rules, Mapping) else type(rules).__name__
        raise ValueError(
            f'rules: got {got}, wanted a dict of at least one rule by name, such as {{"e-prop": rule}}'
        )
    for name, rule in rules.items():
        checks.instance(f"rules[{name!r}]", rule, LearningRule, "an ej.LearningRule")
    checks.instance("params", params, Mapping, "the dict that net.init gives")
    if reference is None:
        spec = next(iter(rules.values())).spec
        if spec is None:
            raise ValueError("reference: got None, wanted a rule, since the rules have no `spec`")
        reference = exact(spec)
    checks.instance("reference", reference, LearningRule, "an ej.LearningRule")
    steps = derivative.given(Steps(mask, resets))

    def gradient(rule: LearningRule) -> dict[str, Array]:
        reads = rule.spec is None or rule.spec.feedback != "symmetric"
        given = {k: v for k, v in params.items() if k != "feedback" or reads}
        grads = value_and_grad(rule)(given, xs, ys, **steps)[1]
        leaves = jax.tree.leaves_with_path({k: grads[k] for k in ("cell", "readout")})
        return {
            jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves
        }

    g_ref = gradient(reference)
    overall, parameters = {}, {}
    for name, rule in rules.items():
        g = gradient(rule)
        overall[name] = fidelity(g, g_ref)
        parameters[name] = {path: fidelity(g[path], g_ref[path]) for path in g_ref}
    return Comparison(overall, parameters)
