"""The public names, as users write them: `ej.cells.alif`, not the file where it stands."""

import importlib
import inspect
import pkgutil
import sys

import eprop_jax as ej

ALONE = ("eprop_jax.plotting", "eprop_jax.interop")
"""what is not part of `ej`: of these, the modules with an `__all__` are public"""


def modules() -> dict:
    """{"ej": the library, "ej.cells": …}, and what is imported by its own name."""
    below = {f"ej.{name}": getattr(ej, name) for name in ej.__all__}
    below = {name: module for name, module in below.items() if inspect.ismodule(module)}
    return {"ej": ej, **below, **by_themselves()}


def by_themselves() -> dict:
    """{"eprop_jax.plotting": …}"""
    named = [
        m.name for m in pkgutil.walk_packages(ej.__path__, "eprop_jax.") if m.name.startswith(ALONE)
    ]
    found = {name: importlib.import_module(name) for name in named}
    return {name: module for name, module in found.items() if hasattr(module, "__all__")}


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
