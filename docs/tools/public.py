"""The public names, as users write them: `ej.cells.alif`, not the file where it stands."""

import inspect
import sys

import eprop_jax as ej
from eprop_jax import plotting


def modules() -> dict:
    """{"ej": the library, "ej.cells": …}, and what is imported by itself."""
    below = {f"ej.{name}": getattr(ej, name) for name in ej.__all__}
    below = {name: module for name, module in below.items() if inspect.ismodule(module)}
    return {"ej": ej, **below, "eprop_jax.plotting": plotting}


def names(module) -> list[str]:
    """Its `__all__`; where it has none, the functions and classes that it defines."""
    own = [n for n, x in vars(module).items() if getattr(x, "__module__", "") == module.__name__]
    own = [
        n
        for n in own
        if inspect.isfunction(getattr(module, n)) or inspect.isclass(getattr(module, n))
    ]
    return list(getattr(module, "__all__", [n for n in own if not n.startswith("_")]))


def all_names() -> list[str]:
    """ "ej.eprop", "ej.cells.alif", …: no modules."""
    found = [
        (f"{m}.{n}", getattr(module, n)) for m, module in modules().items() for n in names(module)
    ]
    return [name for name, value in found if not inspect.ismodule(value)]


def as_ej() -> None:
    """Let autodoc import every public module by its public name; what it is made of comes last."""
    for name, module in modules().items():
        module.__all__ = sorted(names(module), key=lambda n: inspect.isclass(getattr(module, n)))
        sys.modules[name] = module
