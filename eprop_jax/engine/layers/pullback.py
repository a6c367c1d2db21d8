"""A whole sequence as a function of parameters and inputs, and its pullback by a language of paths.

What the function's results get, ∂L/∂y^t and ∂L/∂h^t of any loss, stands where a rule's own loss has
them; from there on it is the descent of a chunk without traces:

    ∂̃h_q^t = [q accepts] (B ∂̃a_out^t + ∂L/∂h^t) + Σ_e w_rec ∂̃a_{q·e}^{t+1} + Σ_f w_in ∂̃a_{q·f}^t
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from eprop_jax.engine import objective, seeds
from eprop_jax.engine.adjoint import Source
from eprop_jax.engine.layers import connected, gradients, meets
from eprop_jax.engine.layers.descend import Family, Meets, descend, to_inputs
from eprop_jax.engine.maybe import each, some, there
from eprop_jax.network.forward import compute, init_state
from eprop_jax.network.stacks import Run, run
from eprop_jax.network.types import Array, Network, PyTree, RuleSpec, Steps, by_layer

Results = tuple[Any, PyTree]
"""outputs [T, *batch, n_out], and activity [T, *batch, n] (of a stack a tuple, one a layer); or what
reaches them, None where nothing does"""


def follow(net: Network, params: dict, xs: Array, steps: Steps) -> Run:
    """The network from its initial state over xs [T, *batch, n_in], on one batch axis."""
    data = objective.fold(params, xs, (), steps)
    state = init_state(net, params, data.xs.shape[1:2])
    return run(net, compute(net, params), state, data.xs, data.resets)


def shown(xs: Array, steps: Steps, path: Run) -> Results:
    """What a user sees of it: at steps that do not count, zeros."""

    def show(x):
        x = x.reshape(*xs.shape[:-1], x.shape[-1])
        mask = steps.mask
        return x if mask is None else jnp.where(mask[..., None], x, jnp.zeros_like(x))

    return show(path.y), jax.tree.map(show, path.h)


def ends(spec: RuleSpec, outputs: bool, activity: tuple[bool, ...]) -> tuple[tuple[str, ...], ...]:
    """Of each layer what its paths may end at, where these results are used."""
    net, by_w_out = spec.network, spec.feedback == "symmetric"

    def of_layer(l):
        out = "feedback" if not by_w_out else "read-out" if l in net.reads else ""
        own = "activity" if activity[l] else ""
        return tuple(x for x in (out if outputs else "", own) if x)

    return tuple(map(of_layer, range(len(net.cells))))


def pull(
    spec: RuleSpec,
    params: dict,
    xs: Array,
    steps: Steps,
    path: Run,
    cts: Results,
    of_net: connected.Seen | None = None,
) -> tuple[PyTree, Array]:
    """(dL/dparams, ∂L/∂xs) by the paths of `spec.language` that end where `cts` arrive."""
    net, T, B = spec.network, *path.xs.shape[:2]
    mask = None if steps.mask is None else steps.mask.reshape(T, B)
    fold = lambda ct: objective.only(mask, ct.reshape(T, B, ct.shape[-1]))
    dL_dy = each(fold, cts[0])
    dL_dh = [each(fold, ct) for ct in by_layer(net, cts[1])]
    used = there(dL_dy), tuple(map(there, dL_dh))
    spec, w = spec._replace(ends=ends(spec, *used)), compute(net, params)
    nodes = connected.costates(spec, w, of_net and of_net.J)
    wide = meets.wide_readout(spec, w)
    grads_out = [jnp.zeros_like(x) for x in jax.tree.leaves(wide.params)]
    sources: list[list[Source]] = [some([each(Source, x)]) for x in dL_dh]
    if there(dL_dy):
        (back,) = meets.at_readout(spec, wide, path, [seeds.of_loss(dL_dy)])
        grads_out = meets.readout_gradient(wide, path, back)
        for l, B_l in enumerate(meets.feedback_of(spec, w, path)):
            sources[l] += some([each(lambda w: meets.from_readout(back.da[""], w), B_l)])
    family = Family(frozenset(range(len(nodes))), tuple(Meets(tuple(x)) for x in sources), {})
    (found,) = descend(spec, w, path, nodes, [family])
    grads = gradients.of_cells(spec, w, path, found)
    grads = gradients.with_first(spec, w, path, found, jnp.ones(B, path.y.dtype), grads)
    tree = gradients.as_params(spec, w, wide, grads, grads_out)
    to_xs = to_inputs(spec, w, path, found).reshape(xs.shape)
    return jax.tree.map(lambda g, p: g.astype(p.dtype), tree, params), to_xs
