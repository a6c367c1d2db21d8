"""Every example that the library prints is run, and every public function has one."""

import importlib
import inspect
import os
import pathlib
import pkgutil
import re
import subprocess
import sys

import pytest

import eprop_jax as ej

ROOT = pathlib.Path(__file__).parents[1]
MODULES = sorted(
    m.name
    for m in pkgutil.walk_packages(ej.__path__, "eprop_jax.")
    if not m.name.endswith("__main__")
)
NEEDS = {"docs/INSIDE_OTHER_LIBRARIES.md": ("flax", "equinox")}
# Doctests print float32: they run as a user would run them, in a process of their own.
RUN_DOCTESTS = """
import doctest, importlib, sys
failed = 0
for name in sys.argv[1:]:
    result = doctest.testmod(importlib.import_module(name))
    print(name, result.attempted)
    failed += result.failed
sys.exit(bool(failed))
"""


def run(*command):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**environment, "MPLBACKEND": "Agg"},
        timeout=6000,
    )


def test_docstring_examples_run():
    done = run("-c", RUN_DOCTESTS, "eprop_jax", *MODULES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sum(int(line.split()[1]) for line in done.stdout.splitlines()) > 60


@pytest.mark.parametrize(
    "page, size",
    [
        ("README.md", 3),
        ("docs/RECIPES.md", 3),
        ("docs/INSIDE_OTHER_LIBRARIES.md", 3),
        ("docs/OWN_DATA.md", 6),
        pytest.param("docs/WRITE_A_RULE.md", 2, marks=pytest.mark.slow),
        pytest.param("docs/WRITE_A_SYNAPSE.md", 2, marks=pytest.mark.slow),
    ],
)
def test_the_code_of_a_page_runs_as_printed(page, size, tmp_path):
    for name in NEEDS.get(page, ()):
        pytest.importorskip(name, reason=f"{page} is about {name} (the extra `{name}`)")
    text = (ROOT / page).read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= size
    if "import h5py" in text:
        pytest.importorskip("h5py", reason=f"{page} reads an HDF5 file: pip install '.[data]'")
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks))
    done = run(str(script))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_map_of_equations_names_what_is_there():
    """Every `module.name`, `file.py` and `file.py::test` in README's table of equations."""
    table = (ROOT / "README.md").read_text().split("## Equation by equation")[1].split("\n## ")[0]
    files = {
        path.name: path.read_text()
        for at in ("eprop_jax", "tests")
        for path in (ROOT / at).rglob("*.py")
    }
    seen, names = "", re.findall(r"`([^`]+)`", table)
    for name in names:
        file, _, test = name.partition("::")
        seen = file or seen
        if test or name.endswith(".py"):
            assert re.search(rf"def {test}" if test else "", files[seen]), name
        elif not name.startswith("jax."):
            module, function = name.split(".")
            assert re.search(rf"^(def|class) {function}\b", files[f"{module}.py"], re.MULTILINE), (
                name
            )
    assert len(names) > 50


def public_functions():
    """What a user meets: the top level's names, and those of its public modules."""
    spaces = [("ej", ej)] + [
        (f"ej.{name}", getattr(ej, name))
        for name in ej.__all__
        if inspect.ismodule(getattr(ej, name))
    ]
    spaces += [
        (name, importlib.import_module(name)) for name in MODULES if name.endswith("equations")
    ]
    for label, module in spaces:
        for name in getattr(module, "__all__", dir(module)):
            value = getattr(module, name)
            own = getattr(value, "__module__", "").startswith("eprop_jax")
            # Inside a package, __all__ decides; in a module, what it defines itself.
            here = hasattr(module, "__all__") or (
                value.__class__ is not type(ej)
                and (getattr(value, "__module__", "") == module.__name__)
            )
            if inspect.isfunction(value) and own and here and not name.startswith("_"):
                yield f"{label}.{name}", value


FUNCTIONS = dict(public_functions())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_are_documented_with_an_example(name):
    doc = inspect.getdoc(FUNCTIONS[name])
    assert doc, f"{name} has no docstring"
    assert ">>>" in doc, f"{name} has no example"


def test_the_public_names_are_there():
    assert all(hasattr(ej, name) for name in ej.__all__)
    assert len(FUNCTIONS) > 20
