"""`layer`: a network as a function of whole sequences, whose derivative is a rule's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eprop_jax import checks
from eprop_jax.engine import definition, layers, pulled, signals
from eprop_jax.engine import paths as languages
from eprop_jax.network.types import (
    Array,
    Network,
    PyTree,
    RuleSpec,
    Steps,
    by_layer,
    feedback_like,
)
from eprop_jax.network.units import compute_dtype


def layer(
    net: Network, paths: str = "i*", *, feedback: str = "symmetric"
) -> Callable[..., tuple[Array, PyTree]]:
    """The network as a function of whole sequences: autodiff's values, and the rule's derivative.

    For a loss of the whole sequence (a maximum over time, CTC), an encoder before and a head behind,
    regularisers in plain JAX, and modules of other libraries. With L any function of the results, the
    derivative keeps the paths of the language that end at them:

        ∂̃h_q^t = [q accepts] (B ∂̃a_out^t + ∂L/∂h^t) + Σ_e w_rec ∂̃a_{q·e}^{t+1} + Σ_f w_in ∂̃a_{q·f}^t
        dL/dw = Σ_t pre^t ⊗ ∂̃a_0^t,    ∂L/∂x^t = Σ_gates w_in ∂̃a_0^t

    ∂̃a_out is what ∂L/∂y sends to the read-out's drive, exactly (Eq. 28, 30). Where L is a sum of losses
    of steps, it is `ej.by_paths`' gradient. G. Martín-Sánchez et al. 2022, Eq. 25 and 36 ("i*").

    Args:
      net: the network.
      paths: a regular expression over `i e s f`, as in `ej.by_paths`: the read-out, and its own
        leak, are no letter of it and always kept. The default is the paper's e-prop, "(i|e|f)*"
        BPTT. In a stack, "i*" reaches the layers that the read-out hears, or whose activity is
        used; "i*f*" all.
      feedback: "symmetric": what is sent to the outputs reaches the units through w_out. "random",
        "adaptive": through params["feedback"] (`ej.feedback.init`), as in `ej.by_paths`. What is sent
        to the activity needs no such way.

    Returns:
      f(params, xs, mask=None, resets=None) -> (outputs y [T, *batch, n_out], activity h
      [T, *batch, n], of a stack a tuple, one a layer), for xs [T, *batch, n_in], from the initial
      state. Values are those of `net.apply`. `mask` [T, *batch] bool: the steps that count; at others
      the results are 0 and send nothing back, and the network runs through them all the same.
      `resets` [T, *batch] bool: examples that start afresh before a step; no path leads across.

      Memory grows with T, as BPTT's does; there are no traces. Losses are sums here, not means over
      the batch, unless yours is.

    Raises:
      TypeError, ValueError: for a wrong network, language or feedback; when it is called, for
        parameters, inputs, a mask or resets that do not fit; when it is differentiated, by a value
        that the network was made with, twice, forward (`jax.jvp`, by JAX: an adjoint has no tangent),
        or if no kept path leads from some parameter to the results that are used, with what would.

    >>> import jax, jax.numpy as jnp, eprop_jax as ej
    >>> net = ej.Network(ej.cells.alif(3, 6, tau_m=5.0), ej.readouts.leaky(6, 2))
    >>> f, params = ej.layer(net), net.init(jax.random.key(0))
    >>> def loss(params, xs):
    ...     outputs, activity = f(params, xs)
    ...     return -jax.nn.log_softmax(outputs.max(0))[..., 0].mean() + 1e-3 * jnp.sum(activity**2)
    >>> grads, to_inputs = jax.grad(loss, (0, 1))(params, jnp.ones((7, 4, 3)))
    >>> grads["cell"]["w_rec"].shape, to_inputs.shape
    ((6, 6), (7, 4, 3))
    """
    checks.instance("net", net, Network, "an ej.Network(cell, readout)")
    checks.one_of("feedback", feedback, signals.KINDS)
    languages.compile(paths)
    # Whatever the loss is, it acts as ⟨y, ∂L/∂y⟩ does.
    spec = RuleSpec("ej.layer", paths, net, jnp.vdot, None, feedback)
    expected = jax.eval_shape(lambda: net.init(jax.random.key(0)))
    tried = set()

    def check(params: Any, xs: Any, steps: Any) -> None:
        checks.parameters(params, expected, feedback_like(net), feedback != "symmetric", spec.name)
        checks.inputs(xs, net.n_in, steps)
        dtype = compute_dtype(params)
        if dtype not in tried:
            definition.check_unit(net, params)
            every = layers.ends(spec, True, (True,) * len(net.cells))
            nodes = functools.partial(layers.costates, spec._replace(ends=every))
            definition.check_delays(spec._replace(costates=nodes), params, False)
            tried.add(dtype)

    def ready(params: PyTree) -> Callable[[Any], None]:
        of_net, shapes = layers.seen(net, params), jax.tree.map(jax.typeof, params)

        def refuse(cts: Any) -> None:
            outputs, activity = cts[0] is not None, by_layer(net, cts[1])
            ends = layers.ends(spec, outputs, tuple(x is not None for x in activity))
            used = spec._replace(ends=ends)
            layers.refuse_unconnected(used, shapes, of_net, exact=not outputs)

        return refuse

    f = pulled.by_pull(
        functools.partial(layers.follow, net),
        layers.shown,
        functools.partial(layers.pull, spec),
        ready,
    )

    @jax.jit
    def compiled(params, xs, steps):
        check(params, xs, steps)
        return f(params, xs, steps)

    call = checks.explained(compiled, check)

    def of_sequence(
        params: PyTree, xs: Array, mask: Array | None = None, resets: Array | None = None
    ) -> tuple[Array, PyTree]:
        return call(params, xs, Steps(mask, resets))

    return of_sequence
