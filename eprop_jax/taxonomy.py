"""The paper's taxonomy as data: each rule's equation, what it keeps and cuts, and what it costs.

n units, p synapses (n² where dense), T steps, m the order, K the steps of a chunk. The costs of the
first three are the paper's Table 1; the others are this library's forms of the same gradients.
"""

from __future__ import annotations

from typing import NamedTuple

from eprop_jax.engine import paths


class Entry(NamedTuple):
    """One rule."""

    key: str
    """as `--rule` names it"""
    name: str
    function: str
    """how the library spells it"""
    equation: str
    numbers: str
    """equation numbers in the paper"""
    keeps: str
    cuts: str
    exact: bool
    causal: str
    local: str


class Cost(NamedTuple):
    """What one form of a rule costs: over the whole sequence, or a step where it says so."""

    rule: str
    form: str
    compute: str
    memory: str
    source: str


RULES = (
    Entry(
        "bptt",
        "BPTT",
        "ej.bptt(net, loss)",
        "dL/dw_ij = Σ_t dL/dc_j^t ∂c_j^t/∂w_ij",
        "2-4",
        "every path, swept backward in time",
        "nothing",
        True,
        "no",
        "no",
    ),
    Entry(
        "rtrl",
        "RTRL",
        "ej.rtrl(net, loss)",
        "dL/dw_ij = Σ_t Σ_k ∂L/∂h_k^t ∂h_k^t/∂c_k^t α_ij^{t,k}",
        "22-24",
        "every path, summed forward in time into α",
        "nothing",
        True,
        "yes",
        "no",
    ),
    Entry(
        "m-order",
        "m-order e-prop",
        "ej.m_order_eprop(net, loss, order=m)",
        "dL/dw_ij ≈ Σ_t Σ_{s<m} Σ_{k_s…k_1} ∂L/∂h_{k_s}^t b_ij^t(k_s, …, k_1, j)",
        "15-16, 19",
        "paths with up to m − 1 explicit jumps h^{t-1} → c^t",
        "paths with m jumps or more",
        False,
        "yes",
        "partly",
    ),
    Entry(
        "eprop",
        "e-prop, symmetric",
        "ej.eprop(net, loss)",
        "dL/dw_ij ≈ Σ_t L_j^t F_κ(e_ij^t),  L_j^t = Σ_k w_jk ∂L/∂y_k^t",
        "8-9, 25, 36, 40",
        "the implicit recurrence, inside each unit",
        "every explicit jump",
        False,
        "yes",
        "yes",
    ),
    Entry(
        "random",
        "e-prop, random",
        'ej.eprop(net, loss, feedback="random")',
        "as symmetric, with L_j^t = Σ_k B_jk ∂L/∂y_k^t and B fixed",
        "25, 40",
        "the implicit recurrence, inside each unit",
        "every explicit jump, and the read-out's own weights on the way back",
        False,
        "yes",
        "yes",
    ),
    Entry(
        "adaptive",
        "e-prop, adaptive",
        'ej.eprop(net, loss, feedback="adaptive")',
        "as random, with B getting the updates of w^out",
        "25, 40",
        "the implicit recurrence, inside each unit",
        "every explicit jump; B comes closer to the read-out's weights by itself",
        False,
        "yes",
        "yes",
    ),
    Entry(
        "frozen",
        "recurrent layer frozen",
        "optimise params['readout'] alone",
        "dL/dw_ij ≈ 0, and the read-out's own gradient",
        "27-28",
        "the read-out",
        "the recurrent layer",
        False,
        "yes",
        "yes",
    ),
)

KEYS = tuple(entry.key for entry in RULES)
"""the names of rules, in every command"""
OLD = {"symmetric": "eprop"}
"""names that are taken too"""

COSTS = (
    Cost("BPTT", "whole sequence", "O(pT)", "O(nT)", "Table 1"),
    Cost("RTRL", "textbook recursion", "O(p²T)", "O(np)", "Table 1"),
    Cost("RTRL", "chunks of K ≥ n steps", "O(n³) a step", "O(np)", "exact; Schmidhuber 1992"),
    Cost("e-prop", "step by step", "O(pT)", "O(p)", "Table 1"),
    Cost("e-prop", "chunks of K steps", "O(pT)", "O(p + nK)", "exact e-prop"),
    Cost("e-prop", "whole sequence", "O(pT)", "O(nT)", "no traces"),
    Cost("m-order", "whole sequence", "O(mpT)", "O(nT)", "graded adjoint, no traces"),
    Cost("m-order", "step by step", "O(mp²T)", "O(mnp)", "β summed over chains"),
    Cost("m-order", "chunks of K ≥ n steps", "O(mn³) a step", "O(mnp)", "more than RTRL if dense"),
)

PATHS = (
    "ej.by_paths(net, loss, paths=…). i: a unit's own dynamics; e: a recurrent synapse (s: of a unit\n"
    "to itself); f: a synapse to a layer above, within the step."
)


def find(key: str) -> Entry:
    """The entry that `--rule` calls `key`; "symmetric", as it was called once, is "eprop".

    Raises:
      KeyError: if there is none.

    >>> from eprop_jax import taxonomy
    >>> taxonomy.find("bptt").causal
    'no'
    """
    return {entry.key: entry for entry in RULES}[OLD.get(key, key)]


def as_dict() -> dict:
    """The whole taxonomy as plain lists of dicts, ready for JSON.

    >>> from eprop_jax import taxonomy
    >>> taxonomy.as_dict()["costs"][0]["memory"]
    'O(nT)'
    """
    return {
        "rules": [entry._asdict() for entry in RULES],
        "costs": [cost._asdict() for cost in COSTS],
        "paths": [row._asdict() | {"language": paths.text(row)} for row in paths.NAMED],
    }


def as_text() -> str:
    """The taxonomy for a terminal: a block a rule, the table of costs, and rules as languages of paths.

    >>> from eprop_jax import taxonomy
    >>> print(taxonomy.as_text().splitlines()[0])
    BPTT  (Eq. 2-4)   ej.bptt(net, loss)
    """
    lines = []
    for e in RULES:
        lines += [
            f"{e.name}  (Eq. {e.numbers})   {e.function}",
            f"    {e.equation}",
            f"    keeps   {e.keeps}",
            f"    cuts    {e.cuts}",
            f"    exact   {'yes' if e.exact else 'no':<8}causal  {e.causal:<8}local  {e.local}",
            "",
        ]
    head = ("rule", "form", "compute", "memory", "")
    lines += [table([head, *COSTS]), ""]
    lines.append("n units, p synapses (n² if dense), T steps, m the order, K the steps of a chunk.")
    lines.append("E-prop is order 1; order ≥ T is exact. Local but for the learning signal L_j.")
    lines += ["", paths.as_text(), "", PATHS]
    return "\n".join(lines)


def table(rows, right: tuple[int, ...] = ()) -> str:
    """Rows of text in aligned columns, a rule under the first.

    Args:
      rows: tuples of equal length; the first is the head.
      right: columns to align on the right.

    >>> from eprop_jax import taxonomy
    >>> print(taxonomy.table([("rule", "ms"), ("BPTT", "12")], right=(1,)))
    rule  ms
    ────────
    BPTT  12
    """
    rows = [tuple(map(str, row)) for row in rows]
    width = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def line(row):
        cells = (
            v.rjust(w) if i in right else v.ljust(w) for i, (v, w) in enumerate(zip(row, width))
        )
        return "  ".join(cells).rstrip()

    head, *body = rows
    return "\n".join([line(head), "─" * (sum(width) + 2 * len(width) - 2), *map(line, body)])
