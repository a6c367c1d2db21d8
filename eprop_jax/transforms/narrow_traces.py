"""Traces stored in fewer bits than they are computed in.

A trace that lies in bfloat16 takes half the memory of float32, and is rounded once a step call:
S ← round(Φ S + …), with Φ the decay over the chunk. What is below about 2⁻⁸ of S is then lost, of
new terms as well as of the decay. docs/PRECISION.md says what that costs.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from eprop_jax.engine import definition, derivative, objective
from eprop_jax.network.types import NO_STEPS, LearningRule, PyTree, RuleSpec

__all__ = ["narrow_traces"]


def narrow_traces(rule: LearningRule, dtype: Any = jnp.bfloat16) -> LearningRule:
    """The same rule, with the traces in its carry stored in this dtype between step calls.

    States, gradients and all arithmetic keep the compute dtype (the parameters', and at least
    float32). The longer the chunk, the fewer the roundings; one call for the whole sequence
    (`ej.value_and_grad` without a chunk) has no traces, and is not changed.

    Args:
      rule: one of the library's rules.
      dtype: a floating dtype of 16 bits, such as bfloat16. float16 has 3 bits more, and overflows
        above 65504.

    Returns:
      A `LearningRule` whose carry holds ε, β, α and γ in `dtype`.

    Raises:
      TypeError: for what is none of the library's rules, or another dtype; when called, for a
        carry whose traces are of another dtype.

    >>> import jax, jax.numpy as jnp, eprop_jax as ej
    >>> net = ej.Network(ej.cells.lif(3, 5), ej.readouts.leaky(5, 2))
    >>> params = net.init(jax.random.key(0))
    >>> rule = ej.eprop(net, ej.losses.squared_error)
    >>> narrow = ej.narrow_traces(rule, jnp.bfloat16)
    >>> narrow.init(params, (4,)).gamma.cell["w_rec"].dtype
    dtype(bfloat16)
    >>> [ej.cost(r, params, (4,), chunk=16).trace_bytes for r in (rule, narrow)]
    [1072, 592]
    """
    spec = definition.of_library("rule", rule)
    dtype = _of_16_bits(dtype)
    of_spec = spec.gradient

    def init(params: PyTree, batch_shape: tuple[int, ...] = ()) -> Any:
        return _cast(rule.init(params, batch_shape), dtype)

    _, of_rule, _ = derivative.programs(rule)

    def program(params, carry, xs, ys, steps=NO_STEPS):
        carry, out, dL_dxs = of_rule(params, _wide(carry, dtype), xs, ys, steps)
        return _cast(carry, dtype), out, dL_dxs

    def check(params, carry, xs, ys, steps=NO_STEPS):
        jax.eval_shape(
            lambda *given: rule.step(*given, **derivative.given(steps)),
            params,
            _wide(carry, dtype),
            xs,
            ys,
        )

    step = derivative.step_by_rule(program, check)

    def gradient(spec: RuleSpec, params: dict, carry: Any, data: objective.Data, keep: bool):
        """For what runs the rule's own gradient elsewhere (`ej.sharding`)."""
        carry, out, dL_dxs = of_spec(spec, params, _wide(carry, dtype), data, keep)
        return _cast(carry, dtype), out, dL_dxs

    return LearningRule(init, step, rule.whole, spec._replace(gradient=gradient))


def _of_16_bits(value: Any) -> Any:
    wanted = "wanted a floating dtype of 16 bits, such as bfloat16"
    try:
        dtype = jnp.dtype(value)
    except TypeError:
        raise TypeError(f"dtype: got {value!r}, {wanted}") from None
    if not jnp.issubdtype(dtype, jnp.floating) or dtype.itemsize != 2:
        raise TypeError(f"dtype: got {dtype}, {wanted}")
    return dtype


def _cast(carry: Any, dtype: Any) -> Any:
    """All but the network's own state, and what is no number with a point."""
    cast = lambda x: x.astype(dtype) if _is_real(x) else x
    return jax.tree.map(cast, carry)._replace(state=carry.state)


def _is_real(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _wide(carry: Any, dtype: Any) -> Any:
    if not derivative.has_state(carry):
        raise TypeError(f"carry: got {type(carry).__name__}, wanted what this rule's init returned")
    for path, x in jax.tree.leaves_with_path(carry._replace(state=())):
        if _is_real(x) and x.dtype != dtype:
            raise TypeError(
                f"carry{jax.tree_util.keystr(path)}: got {x.dtype}, wanted {dtype}, as this rule's "
                "init returns"
            )
    return _cast(carry, carry.state.y.dtype)
