"""A user's function, traced once.

A rule meets the dynamics of one unit in many places: the run forward, each block of Jacobians, the
refusals. Traced by itself in each, it would be most of what a first call waits for.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

import jax

_KNOWN: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
"""{function: {form: form(function, …), compiled}}, for as long as the function lives"""


def once(form: Callable, function: Callable, static: tuple[int, ...] = ()) -> Callable:
    """(…) -> form(function, …), traced once for each kind of arguments and laid into what calls it.

    `form` is a function of a module, so that it is the same one each time; the arguments at `static`,
    counted without the function, are no arrays.
    """
    try:
        known = _KNOWN.setdefault(function, {})
    except TypeError:  # it can be no key: traced each time
        return lambda *given: form(function, *given)
    if form not in known:
        of = weakref.ref(function)  # what is known of a function does not keep it
        known[form] = jax.jit(lambda *given: form(of(), *given), static_argnums=static, inline=True)
    return known[form]
