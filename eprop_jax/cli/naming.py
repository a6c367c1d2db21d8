"""What rules and networks are called: on the command line, in tables and in pictures.

A rule is called by a name of the taxonomy, or by the language of paths that it keeps: `paths:i*f*`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from eprop_jax import checks
from eprop_jax.engine import paths
from eprop_jax.paper import taxonomy

RULES = taxonomy.KEYS
"""of every command: eprop is e-prop with symmetric feedback, other feedback goes by its name"""
PATHS = "paths:"


def language(rule: str) -> str | None:
    """The language that a rule is called by.

    >>> from eprop_jax.cli import naming
    >>> naming.language("paths:i*f*"), naming.language("bptt")
    ('i*f*', None)
    """
    return rule.removeprefix(PATHS).strip() if rule.startswith(PATHS) else None


def rule(name: Any) -> str:
    """A rule by its name or its language, refused if it is none.

    Raises:
      ValueError: naming what came; of a wrong language, with the place.

    >>> from eprop_jax.cli import naming
    >>> naming.rule("paths:i*f*")
    'paths:i*f*'
    """
    expression = language(name) if isinstance(name, str) else None
    if expression is None:
        return checks.one_of("rule", name, (*RULES, f"{PATHS}…"))
    paths.compile(expression)
    return name


def split(text: str) -> list[str]:
    """Names separated by commas, but for those in a language's braces.

    >>> from eprop_jax.cli import naming
    >>> naming.split("bptt, paths:i*(fi*){0,2},random")
    ['bptt', 'paths:i*(fi*){0,2}', 'random']
    """
    return [part.strip() for part in re.split(r",(?![^{]*\})", text)]


def of_language(rule: str) -> str:
    """As tables call it, and the library.

    >>> from eprop_jax.cli import naming
    >>> naming.of_language("paths:i*f*")
    'paths i*f*'
    """
    return f"paths {language(rule)}"


def all_frozen(n_layers: int) -> str:
    """The rule that trains the read-out alone.

    >>> from eprop_jax.cli import naming
    >>> naming.all_frozen(1), naming.all_frozen(2)
    ('frozen layer', 'frozen layers')
    """
    return "frozen layer" if n_layers == 1 else "frozen layers"


def frozen(freeze: Sequence[int]) -> str:
    """Which layers do not train.

    >>> from eprop_jax.cli import naming
    >>> naming.frozen((0, 1))
    'layers 0, 1 frozen'
    """
    return f"layer{'s' if len(freeze) > 1 else ''} {', '.join(map(str, freeze))} frozen"


def sizes(units: Sequence[int]) -> str:
    """The units of each layer.

    >>> from eprop_jax.cli import naming
    >>> naming.sizes((200, 100)), naming.sizes((64,))
    ('200-100', '64')
    """
    return "-".join(map(str, units))
