"""Many devices, through JAX's own meshes and `shard_map`.

    batch: examples over a mesh axis. Gradients are summed once a step call.
    units: postsynaptic units over a mesh axis. Device i holds the weights, states and traces of its
           own n units of all N.

E-prop is local, so nothing that is held by unit is ever moved (Eq. 8, 9, 25: j is the same on both
sides). A step moves what the paper's picture moves between units:

    a_j^t = Σ_i h_i^{t-1} w_ij + …     h^{t-1} of all units: one all-gather of N floats an example
    y_k^t = Σ_j h_j^t w_jk + …         partial sums: one all-reduce of n_out floats an example

With y everywhere, so is ∂L/∂y, and each device finds the learning signals of its own units. BPTT
also sends Σ_k ∂̃a_k w_jk back at each step (Eq. 2): a reduce-scatter of N floats an example. RTRL's
trace of synapse ij meets the weights of all units (Eq. 22), which no device holds: there XLA's
partitioner decides what to move.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from eprop_jax import checks
from eprop_jax.engine import definition, derivative
from eprop_jax.engine.adjoint import LOCAL
from eprop_jax.network.types import (
    NO_STEPS,
    Gamma,
    LearningRule,
    Network,
    PyTree,
    State,
    StepOutput,
)
from eprop_jax.transforms.own_units import can_be_split, own_units

__all__ = ["mesh", "parallel", "replicated", "shardings"]


def mesh(**axes: int) -> Mesh:
    """A mesh of all devices, with axes of these names and sizes: `jax.make_mesh`, whose axes are of
    the automatic kind in every version of JAX.

    Args:
      axes: name=size; the sizes multiply to the number of devices.

    Raises:
      TypeError, ValueError: for no axes, or sizes that do not fit the devices.

    >>> import eprop_jax as ej
    >>> ej.sharding.mesh(batch=1, units=1).axis_names
    ('batch', 'units')
    """
    shape = tuple(checks.size(name, size) for name, size in axes.items())
    if not axes or math.prod(shape) != jax.device_count():
        raise ValueError(
            f"axes: got {axes}, wanted sizes whose product is {jax.device_count()}, the devices"
        )
    return Mesh(jax.make_mesh(shape, tuple(axes)).devices, tuple(axes))


def parallel(
    rule: LearningRule, mesh: Mesh, *, batch: str | None = None, units: str | None = None
) -> LearningRule:
    """The same rule over the devices of a mesh: the same numbers, up to the order of sums.

    Args:
      rule: one of the library's rules.
      mesh: a `jax.sharding.Mesh`, of the devices of one process or (`jax.distributed`) of many. Of
        one whose axes are of the explicit kind (as `jax.make_mesh` gives) the devices are taken,
        with axes of the automatic kind, as `ej.sharding.mesh` gives: results lie there.
      batch: the mesh axis over which the first batch axis is split.
      units: the mesh axis over which postsynaptic units are split. On one layer e-prop and BPTT, and
        every rule's whole sequence, run as written above; `step` of RTRL and of m-order e-prop, and
        of a stack all, is left to XLA's partitioner, with each trace kept beside its synapse.

    Returns:
      A `LearningRule`, for `ej.value_and_grad`, `ej.online` or a loop of your own. Parameters and
      carry keep the placement of `shardings`; xs and ys may come placed, or as arrays that every
      process holds alike. Loss, outputs y and each step's losses are held by all devices along
      `units`.

    Raises:
      TypeError, ValueError: for no rule of the library, for an axis that the mesh does not have, or
        a number of units (when called: of examples) that the axis does not divide. When called,
        for arrays that are split over axes of the explicit kind, or where `jax.set_mesh` has set
        a mesh of such axes.

    >>> import jax, jax.numpy as jnp, eprop_jax as ej
    >>> net = ej.Network(ej.cells.lif(3, 4), ej.readouts.leaky(4, 2))
    >>> mesh = ej.sharding.mesh(batch=1, units=1)
    >>> rule = ej.eprop(net, ej.losses.squared_error)
    >>> rule = ej.sharding.parallel(rule, mesh, batch="batch", units="units")
    >>> params = net.init(jax.random.key(0))
    >>> params = jax.device_put(params, ej.sharding.shardings(params, mesh, units="units"))
    >>> carry = rule.init(params, batch_shape=(8,))
    >>> carry, out = rule.step(params, carry, jnp.ones((1, 8, 3)), jnp.ones((1, 8, 2)))
    >>> jax.tree.map(jnp.shape, out.grads["readout"])
    {'bias': (2,), 'w_out': (4, 2)}
    """
    spec = definition.of_library("rule", rule)
    mesh = _automatic(mesh, batch=batch, units=units)
    if batch is None and units is None:
        raise ValueError(
            "batch, units: got neither, wanted the name of a mesh axis for one or both"
        )
    net, known = spec.network, {}
    for cell in net.cells:
        _divides(mesh, "units", units, cell.n_units, "the network's n_units")
        if units is not None:
            can_be_split(cell, net.readout)
    whole_by_unit = units is None or not net.stacked
    step_by_unit = whole_by_unit and (units is None or spec.moves == LOCAL or spec.name == "BPTT")

    put = lambda tree, specs: jax.lax.with_sharding_constraint(tree, _named(mesh, specs))
    _, of_step, of_whole = derivative.programs(rule)

    def own(params, carry, xs, ys, steps, keep, by_xs, window=None):
        """On one device: its own units and examples."""
        here = spec if units is None else own_units(spec, mesh, units)
        carry, out, dL_dxs = definition.advance(here, params, carry, xs, ys, steps, keep, window)
        dL_dxs = dL_dxs() if by_xs else None
        if batch is not None:
            loss, grads = jax.lax.pmean((out.loss, out.grads), batch)
            out = out._replace(loss=loss, grads=grads)
            dL_dxs = None if dL_dxs is None else dL_dxs / mesh.shape[batch]
        return carry, out, dL_dxs

    def local(params, carry, xs, ys, steps, keep, window=None):
        """`own` on every device: (carry, StepOutput, () -> ∂L/∂xs)."""
        p, c, b = _params(params, units), _carry(carry, net, batch, units), P(None, batch)
        h = P(None, *_spec(xs.ndim - 1, batch, units))
        specs: tuple[Any, ...] = P(), p, b, h, b

        def over(by_xs):
            return jax.shard_map(
                functools.partial(own, keep=keep, by_xs=by_xs, window=window),
                mesh=mesh,
                in_specs=(p, c, b, b, b),
                out_specs=(c, StepOutput(*specs), b),
                # What is the same on all devices is so by construction: y is a sum over all of them.
                check_vma=False,
            )(params, carry, xs, ys, steps)

        carry_K, out, _ = over(False)
        return carry_K, out, None if spec.language is None else lambda: over(True)[2]

    def partitioned(params, carry, xs, ys, steps):
        """What stands where, before and after; the rest is XLA's."""
        p, c, b = _params(params, units), _carry(carry, net, batch, units), P(None, batch)
        xs, ys, steps = jax.tree.map(lambda x: put(x, b), (xs, ys, steps))
        carry, out, dL_dxs = of_step(put(params, p), put(carry, c), xs, ys, steps)
        return put(carry, c), out._replace(grads=put(out.grads, p)), dL_dxs

    def partitioned_whole(params, xs, ys, steps, window):
        p, b = _params(params, units), P(None, batch)
        xs, ys, steps = jax.tree.map(lambda x: put(x, b), (xs, ys, steps))
        out, dL_dxs = of_whole(put(params, p), xs, ys, steps, window)
        return out._replace(grads=put(out.grads, p)), dL_dxs

    def init(params, batch_shape=()) -> Any:
        _refuse_context()
        batch_shape = checks.batch(batch_shape)
        _divides_batch(mesh, batch, batch_shape, "batch_shape")
        if batch_shape not in known:  # one jitted function a batch, so that it compiles once
            like = jax.eval_shape(lambda p: rule.init(p, batch_shape), params)
            placed = _named(mesh, _carry(like, net, batch, units))
            known[batch_shape] = jax.jit(lambda p: rule.init(p, batch_shape), out_shardings=placed)
        return known[batch_shape](params)

    def check_step(params, carry, xs, ys, steps=NO_STEPS):
        _refuse_context()
        jax.eval_shape(
            lambda *given: rule.step(*given, **derivative.given(steps)), params, carry, xs, ys
        )
        _divides_batch(mesh, batch, xs.shape[1:-1], "xs")

    def check_whole(params, xs, ys, steps=NO_STEPS):
        _refuse_context()
        jax.eval_shape(lambda *given: rule.whole(*given, **derivative.given(steps)), params, xs, ys)
        _divides_batch(mesh, batch, xs.shape[1:-1], "xs")

    def step(params, carry, xs, ys, steps=NO_STEPS):
        if not step_by_unit:
            return partitioned(params, carry, xs, ys, steps)
        return local(params, carry, xs, ys, steps, True)

    def whole(params, xs, ys, steps=NO_STEPS, window=None):
        if not whole_by_unit:
            return partitioned_whole(params, xs, ys, steps, window)
        carry = definition.beginning(spec, definition.without_traces, params, xs.shape[1:-1])
        return local(params, carry, xs, ys, steps, False, window)[1:]

    return LearningRule(
        init,
        derivative.step_by_rule(step, check_step),
        None if rule.whole is None else derivative.whole_by_rule(whole, check_whole),
        spec,
    )


def shardings(params: PyTree, mesh: Mesh, *, units: str | None = None) -> PyTree:
    """Where parameters stand: a tree of `NamedSharding`s, for `jax.device_put` or `jax.jit`.

    Weights and values of the cell are split by postsynaptic unit (their last axis), w_out and
    feedback weights by the unit that they leave (their first); all else is on every device.

    Args:
      params: the network's parameters, or their shapes (`jax.eval_shape`).
      mesh: as in `parallel`.
      units: the mesh axis over which units are split; None: all is on every device.

    Raises:
      TypeError, ValueError: for no mesh, or an axis that it does not have.

    >>> import jax, eprop_jax as ej
    >>> net = ej.Network(ej.cells.lif(3, 4), ej.readouts.leaky(4, 2))
    >>> mesh = ej.sharding.mesh(units=1)
    >>> where = ej.sharding.shardings(net.init(jax.random.key(0)), mesh, units="units")
    >>> tuple(where["cell"]["w_rec"].spec), tuple(where["readout"]["w_out"].spec)
    ((None, 'units'), ('units', None))
    """
    mesh = _automatic(mesh, units=units)
    if not isinstance(params, dict) or not {"cell", "readout"} <= set(params):
        raise TypeError(f"params: got {type(params).__name__}, wanted the dict that net.init gives")
    return _named(mesh, _params(params, units))


def replicated(tree: PyTree, mesh: Mesh) -> PyTree:
    """The whole of every array on every device: what `numpy.asarray` can read in any process, to
    save or to print. Every process must call it.

    Args:
      tree: arrays placed on the mesh.
      mesh: as in `parallel`.

    Raises:
      TypeError: for no mesh.

    >>> import jax, jax.numpy as jnp, eprop_jax as ej
    >>> mesh = ej.sharding.mesh(units=1)
    >>> ej.sharding.replicated({"w": jnp.ones(2)}, mesh)["w"].is_fully_replicated
    True
    """
    mesh = _automatic(mesh)
    return jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, P()))(tree)


# -- what stands where ----------------------------------------------------------------------------


def _params(params: PyTree, units: str | None) -> PyTree:
    def place(path, x):
        if path[0].key == "cell":
            return _spec(x.ndim, None, units)
        # A read-out's θ may bear any name, w_out too.
        from_units = path[0].key == "feedback" or path[1].key == "w_out"
        return P(units, None) if from_units else P()

    return jax.tree_util.tree_map_with_path(place, params)


def _carry(carry: Any, net: Network, batch: str | None, units: str | None) -> Any:
    """The same for states and traces. A trace of a shared component is one for all units."""
    sizes = {cell.n_units for cell in net.cells}

    def by_unit(x):
        return _spec(x.ndim, batch, units if x.ndim > 1 and x.shape[-1] in sizes else None)

    def of_readout(path, x):
        from_units = path[0].key in ("w_out", "w_unread")
        return _spec(x.ndim, batch, units if from_units else None, at=-2)

    each = lambda tree: jax.tree.map(by_unit, tree)

    def trace(x):
        if not isinstance(x, Gamma):
            return by_unit(x)
        return Gamma(jax.tree_util.tree_map_with_path(of_readout, x.readout), each(x.cell))

    y: Any = _spec(carry.state.y.ndim, batch, None)
    is_gamma = lambda x: isinstance(x, Gamma)
    traces = jax.tree.map(trace, carry._replace(state=()), is_leaf=is_gamma)
    return traces._replace(state=State(each(carry.state.c), y, each(carry.state.past)))


def _spec(ndim: int, batch: str | None, units: str | None, at: int = -1) -> P:
    """Examples along the first axis, units along the last (or another)."""
    axes: dict[int, str | None] = dict.fromkeys(range(ndim))
    if batch is not None:
        axes[0] = batch
    if units is not None:
        axes[at % ndim] = units
    return P(*axes.values())


def _named(mesh: Mesh, specs: PyTree) -> PyTree:
    is_spec = lambda x: isinstance(x, P)
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=is_spec)


# -- refusals -------------------------------------------------------------------------------------


def _automatic(mesh: Any, **axes: str | None) -> Mesh:
    """The mesh's devices, with axes of the automatic kind; refuse what is no mesh, or no axis."""
    checks.instance("mesh", mesh, Mesh, "a jax.sharding.Mesh")
    for name, axis in axes.items():
        if axis is not None and axis not in mesh.axis_names:
            raise ValueError(f"{name}: got {axis!r}, wanted an axis of the mesh, {mesh.axis_names}")
    named = [axis for axis in axes.values() if axis is not None]
    if len(set(named)) < len(named):
        raise ValueError(f"{', '.join(axes)}: got {named[0]!r} for both, wanted an axis for each")
    return Mesh(mesh.devices, mesh.axis_names)


def _refuse_context() -> None:
    """`shard_map` takes no other mesh than the one that `jax.set_mesh` has set."""
    get = getattr(jax.sharding, "get_abstract_mesh", None)
    kinds = getattr(get(), "axis_types", ()) if get else ()
    if any("explicit" in str(kind).lower() for kind in kinds or ()):
        raise ValueError(
            f"mesh: jax.set_mesh has set one whose axes are of the kinds {kinds}, wanted none, or "
            "one of the automatic kind: call this outside of it, or jax.set_mesh(ej.sharding.mesh(…))"
        )


def _divides(mesh: Mesh, name: str, axis: str | None, size: int, what: str) -> None:
    if axis is not None and size % mesh.shape[axis]:
        raise ValueError(
            f"{name}: got {size}, {what}, which the {mesh.shape[axis]} devices along the mesh axis "
            f"{axis!r} do not divide; wanted a multiple of {mesh.shape[axis]}"
        )


def _divides_batch(mesh: Mesh, axis: str | None, batch: tuple[int, ...], name: str) -> None:
    if axis is not None and not batch:
        raise ValueError(f"{name}: got no batch axis, wanted one to split over {axis!r}")
    if axis is not None:
        _divides(mesh, name, axis, batch[0], "the size of its first batch axis")
