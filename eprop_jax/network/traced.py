"""A user's function, traced once.

A rule meets the dynamics of one unit in many places: the run forward, each block of Jacobians, the
refusals. Traced by itself in each, it would be most of what a first call waits for.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import Any

import jax

_KNOWN: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
"""{function: (itself, weakly; {form: form(function, …), compiled})}, for as long as it lives"""


def once(form: Callable, function: Callable, static: tuple[int, ...] = ()) -> Callable:
    """(…) -> form(function, …), traced once for each kind of arguments and laid into what calls it.

    `form` is a function of a module, so that it is the same one each time; the arguments at `static`,
    counted without the function, are no arrays.
    """
    try:
        of, known = _KNOWN.get(function, (lambda: None, {}))
        if of() is not function:  # new; or known is one that is equal, as an object's method is
            # What is known of a function does not keep it.
            of, known = _KNOWN[function] = weakref.ref(function), {}
    except TypeError:  # it can be no key: traced each time
        return lambda *given: form(function, *given)
    if form not in known:
        known[form] = jax.jit(lambda *given: form(of(), *given), static_argnums=static, inline=True)
    return known[form]


def forget(*functions: Any) -> None:
    """A layer is made of them: what they read besides their arguments, such as a module's variables,
    may have changed since they were traced for another."""
    for function in functions:
        with contextlib.suppress(TypeError):
            _KNOWN.pop(function, None)
