"""Every example that the library prints is run, and every public function has one."""

import importlib.util
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
NEEDS = {
    "docs/INSIDE_OTHER_LIBRARIES.md": ("flax", "equinox"),
    "docs/INTEROP.md": ("flax", "equinox"),
    "docs/NIR.md": ("nir",),
    "docs/CHECKPOINTS.md": ("orbax.checkpoint",),
    "docs/EXPORT.md": ("flatbuffers",),
    "docs/LAYERS.md": ("matplotlib",),
}
# Whose examples are of an optional package.
EXTRA = {f"eprop_jax.interop.nir{x}": "nir" for x in ("", ".reading", ".writing")} | {
    f"eprop_jax.interop.{x}": x.split("_")[0] for x in ("equinox_nn", "flax_linen", "flax_nnx")
}
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
    there = [m for m in MODULES if m not in EXTRA or importlib.util.find_spec(EXTRA[m])]
    done = run("-c", RUN_DOCTESTS, "eprop_jax", *there)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sum(int(line.split()[1]) for line in done.stdout.splitlines()) > 60


def blocks_of(page):
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


# What README runs in short, and what compiles many rules.
SLOW = re.compile(
    r"docs/(ADJOINT_AND_TRACES|CHECKPOINTS|EXPORT|FIND_A_NAN|GPU|LAYERS|MANY_DEVICES|PATHS|STREAMS|TRAINING"
    r"|USE_A_RULE|WRITE_A_\w+)\.md"
)
PAGES = sorted(
    str(path.relative_to(ROOT)) for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]
)
WITH_CODE = [page for page in PAGES if blocks_of(page)]


def test_the_pages_have_code():
    assert len(WITH_CODE) >= 20
    assert sum(len(blocks_of(page)) for page in WITH_CODE) >= 48


@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=pytest.mark.slow if SLOW.match(p) else ()) for p in WITH_CODE]
)
def test_the_code_of_a_page_runs_as_printed(page, tmp_path):
    for name in NEEDS.get(page, ()):
        pytest.importorskip(name, reason=f"{page} is about {name} (the extra `{name}`)")
    if "import h5py" in (ROOT / page).read_text():
        pytest.importorskip("h5py", reason=f"{page} reads an HDF5 file: pip install '.[data]'")
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks_of(page)))
    done = run(str(script))
    assert done.returncode == 0, done.stdout + done.stderr


OWN = """
rng = np.random.default_rng(0)
y = rng.choice(["falls", "rises"], 96)
lengths = rng.integers(5, 10, 96)
slope = np.where(y == "rises", 1, -1)
X = rng.normal(3, 0.5, (96, 9, 2)) + slope[:, None, None] * np.arange(9)[:, None]
X[np.arange(9) >= lengths[:, None]] = np.nan
"""


def test_two_lines_of_start_here_are_changed_for_data_of_ones_own(tmp_path):
    """Classes by name, sequences of different lengths, and padding that is no number."""
    pytest.importorskip("matplotlib", reason="start_here draws: the extra `examples`")
    text = (ROOT / "notebooks" / "start_here.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    digits = "X, y = ej.tasks.digits()[:2]\nlengths = None\n"
    assert digits in blocks
    blocks[blocks.index(digits)] = OWN
    script = tmp_path / "own.py"
    script.write_text("\n".join(blocks))
    done = run(str(script))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 classes" in done.stdout and "'falls'" in done.stdout
    assert "1.000 of 24 test examples named rightly" in done.stdout


def test_the_map_of_equations_names_what_is_there():
    """Every `module.name`, `file.py` and `file.py::test` in the table of docs/EQUATIONS.md."""
    table = (ROOT / "docs/EQUATIONS.md").read_text()
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
        (name, importlib.import_module(name))
        for name in MODULES
        if name.endswith("equations") or (name in EXTRA and name.count(".") == 2)
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
