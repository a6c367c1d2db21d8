"""Published rules, as languages of paths."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Named(NamedTuple):
    """One rule."""

    name: str
    language: str | Callable[[int], str]
    """an expression (see `compile`); or, for m-order e-prop, a function of m"""
    source: str
    exact: str
    """networks on which the language drops nothing"""
    remark: str = ""
    """what the rule has beside its paths"""


def order(m: int) -> str:
    """At most m − 1 explicit jumps, through recurrent synapses or to a layer above (section 4).

    Raises:
      ValueError: for m < 1.

    >>> from eprop_jax.engine import paths
    >>> paths.compile(paths.order(1)) == paths.compile("i*")
    True
    """
    if m < 1:
        raise ValueError(f"order: got {m}, wanted an int >= 1")
    return f"i*((e|f)i*){{0,{m - 1}}}"


# fmt: off
NAMED = (
    Named("BPTT", "(i|e|f)*", "Eq. 2-4; Werbos 1990", "all", "backward in time"),
    Named("RTRL", "(i|e|f)*", "Eq. 22-24; Williams and Zipser 1989", "all", "forward in time"),
    Named("e-prop", "i*", "Eq. 25; Bellec 2020", "one layer, no w_rec"),
    Named("m-order e-prop", order, "section 4, Eq. 19", "below m jumps in all"),
    Named("D-RTRL", "i*f*", "braintrace", "no w_rec, no i above the first layer"),
    Named("OSTL", "(i|e)*f*", "Bohnstingl 2022; snapjax", "one layer; no i, e above the first"),
    Named("deep e-prop", "(i|f)*", "Millidge 2025", "no w_rec"),
    Named("SnAp-1", "(i|s)*f*", "Menick 2021; braintrace", "one layer, w_rec diagonal"),
    Named("OTPE", "i*(fi*f*)?", "Summe 2023", "two layers, no w_rec"),
    Named("OTTT", "i*f*", "Xiao 2022", "no w_rec, no i above the first layer", "i: the leak alone"),
    Named("SLTT", "f*", "Meng 2023", "neither i nor w_rec"),
    Named("RFLO", "i*", "Murray 2019", "one layer, no w_rec", "random feedback; i: the leak alone"),
    Named("DECOLLE", "i*", "Kaiser 2020", "one layer, no w_rec", "a fixed read-out of each layer"),
    Named("ETLP", "i*", "Quintana 2024", "one layer, no w_rec", "random feedback to each layer"),
)
# fmt: on


def as_text() -> str:
    """The table for a terminal.

    >>> from eprop_jax.engine import paths
    >>> print(paths.as_text().splitlines()[4][:38])
    e-prop          i*                  Eq
    """
    rows = [("rule", "paths", "source", "exact on", "beside its paths"), *map(_row, NAMED)]
    width = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(text.ljust(w) for text, w in zip(row, width)).rstrip() for row in rows]
    return "\n".join([lines[0], "─" * max(map(len, lines)), *lines[1:]])


def text(rule: Named) -> str:
    """Its language as an expression, of order m in terms of m.

    >>> from eprop_jax.engine import paths
    >>> [paths.text(rule) for rule in paths.NAMED[2:4]]
    ['i*', 'i*((e|f)i*){0,m-1}']
    """
    return rule.language if isinstance(rule.language, str) else "i*((e|f)i*){0,m-1}"


def _row(rule: Named) -> tuple[str, ...]:
    return rule.name, text(rule), rule.source, rule.exact, rule.remark
