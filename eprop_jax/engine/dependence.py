"""What a traced function's results depend on, read from its jaxpr and from those inside it.

An answer "does not depend" is certain, whatever the values are; "depends" may be said of what is
always zero. Of a primitive that is not known here, each result depends on each argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Sources = frozenset[int]
"""positions of arguments"""


def of_results(jaxpr: Any) -> list[Sources]:
    """For each result of a jaxpr, the positions of the arguments that it depends on.

    >>> import jax
    >>> from eprop_jax.engine import dependence
    >>> f = jax.jit(lambda x, y: (2 * x, x + y))
    >>> dependence.of_results(jax.make_jaxpr(f)(1.0, 1.0).jaxpr)
    [frozenset({0}), frozenset({0, 1})]
    """
    return propagate(jaxpr, [frozenset({i}) for i in range(len(jaxpr.invars))])


def propagate(jaxpr: Any, given: Sequence[Sources]) -> list[Sources]:
    """The sources of a jaxpr's results, from those of its arguments."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)  # of a closed one
    known = dict(zip(jaxpr.invars, given))
    of = lambda v: frozenset() if hasattr(v, "val") else known.get(v, frozenset())
    for eqn in jaxpr.eqns:
        known.update(zip(eqn.outvars, through(eqn, [of(v) for v in eqn.invars])))
    return [of(v) for v in jaxpr.outvars]


def through(eqn: Any, given: list[Sources]) -> Sequence[Sources]:
    """The sources of one equation's results, from those of its arguments."""
    kind, p = eqn.primitive.name, eqn.params
    if kind == "cond":
        which, *operands = given
        found = [propagate(branch, operands) for branch in p["branches"]]
        return [which.union(*each) for each in zip(*found)]
    if kind == "while":
        n_cond, n_body = p["cond_nconsts"], p["body_nconsts"]
        of_cond, of_body = given[:n_cond], given[n_cond : n_cond + n_body]

        def round_of_while(carry):
            (again,) = propagate(p["cond_jaxpr"], [*of_cond, *carry])
            return [again | x for x in propagate(p["body_jaxpr"], [*of_body, *carry])]

        return _settled(round_of_while, given[n_cond + n_body :])
    if kind == "scan":
        n_consts, n_carry = p["num_consts"], p["num_carry"]
        consts, slices = given[:n_consts], given[n_consts + n_carry :]
        round_of_scan = lambda carry: propagate(p["jaxpr"], [*consts, *carry, *slices])
        start = given[n_consts : n_consts + n_carry]
        carry = _settled(lambda carry: round_of_scan(carry)[:n_carry], start)
        return [*carry, *round_of_scan(carry)[n_carry:]]
    inner = [p[name] for name in ("jaxpr", "call_jaxpr", "fun_jaxpr") if name in p]
    if kind in CALLS and inner and len(getattr(inner[0], "jaxpr", inner[0]).invars) == len(given):
        return propagate(inner[0], given)
    return [frozenset().union(*given)] * len(eqn.outvars)


CALLS = (
    "pjit",
    "jit",
    "closed_call",
    "core_call",
    "remat",
    "checkpoint",
    "remat2",
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vjp_call_jaxpr",
)
"""primitives whose results are those of one inner jaxpr"""


def _settled(round_of: Any, carry: Sequence[Sources]) -> list[Sources]:
    """What a loop's carry depends on after any number of rounds."""
    while True:
        more = [a | b for a, b in zip(carry, round_of(carry))]
        if more == list(carry):
            return more
        carry = more
