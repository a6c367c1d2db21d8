"""Who knows whom: each room of the library imports only from those above it (CONTRIBUTING.md)."""

import ast
import functools
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

import eprop_jax as ej

ROOT = pathlib.Path(ej.__file__).parent

ROOMS = (
    ("checks",),
    ("network",),
    ("losses", "encodings", "tasks"),
    ("engine",),
    ("rules",),
    ("transforms",),
    ("run",),
    ("paper", "export"),
    ("plotting", "interop"),
    ("cli",),
    ("__main__",),
)
"""From the top. Rooms of one row do not know each other."""
LEVEL = {room: level for level, row in enumerate(ROOMS) for room in row}

ALLOWED = {
    ("cli/main.py", "eprop_jax.__version__"),  # which it prints
    ("cli/runs.py", "eprop_jax.__version__"),  # which it writes to a run's folder
}
"""(file, what it imports of the package itself)."""


def imports(source):
    """What a file imports of the package, in full; an import within a function counts too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found = ["." * node.level + f"{node.module or ''}.{x.name}" for x in node.names]
        else:
            continue
        yield from (name for name in found if name.split(".")[0] in ("", "eprop_jax"))


def wrong(file, source):
    """What a file of the library imports and may not."""
    room = file.split("/")[0].removesuffix(".py")

    def may(name):
        other = f"{name}.".split(".")[1]
        above = LEVEL.get(other, len(ROOMS)) < LEVEL[room]
        return above or other == room or (file, name) in ALLOWED

    return [name for name in imports(source) if not may(name)]


FILES = sorted(
    file.relative_to(ROOT).as_posix()
    for file in ROOT.rglob("*.py")
    if file != ROOT / "__init__.py"  # which imports what it exports
)


@pytest.mark.parametrize("file", FILES)
def test_a_room_imports_only_from_those_above_it(file):
    assert wrong(file, (ROOT / file).read_text()) == []


def test_every_room_is_there_and_every_exception_is_needed():
    assert {file.split("/")[0].removesuffix(".py") for file in FILES} == set(LEVEL)
    for file, name in ALLOWED:
        assert name in imports((ROOT / file).read_text())


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("network/types.py", "from eprop_jax.engine import jacobians"),
        ("engine/chunks.py", "import eprop_jax.rules.feedback"),
        ("rules/eprop.py", "def f():\n    from eprop_jax.run.sequence import value_and_grad"),
        ("transforms/sharding.py", "from eprop_jax import checks, run"),
        ("losses.py", "from eprop_jax import tasks"),  # of one row
        ("paper/graph.py", "from eprop_jax import bptt"),  # not of a room
        ("cli/main.py", "import eprop_jax as ej"),
        ("run/cost.py", "from . import sequence"),
    ],
)
def test_what_is_below_is_seen(file, line):
    assert len(wrong(file, line)) == 1


def test_what_is_called_long_is_there():
    """Of a case in `long.txt` the file and the function exist."""
    tests = pathlib.Path(__file__).parent
    for line in (tests / "long.txt").read_text().splitlines():
        file, *_, name = line.split("[")[0].split("::")
        source = (tests.parent / file).read_text()
        assert re.search(rf"def {name}\(", source) or name == "runTest", line


KNOW_NONE = ("engine/maybe.py", "engine/operators.py", "engine/heard.py", "engine/traces.py")
"""To all other files of the engine, an array that is zero whatever the values are is as any other."""

OPTIONAL = {
    *("mask", "resets", "resets_t", "window", "ends", "c_t"),  # of a chunk's steps
    *("spec", "gradient", "language", "whole", "dL_dxs"),  # what a rule has
    *("of", "influence", "over"),  # its traces, and their faster form
    "loss",  # of activities, of states
    "r",  # an edge of an automaton
}
"""What an argument or a field may be None of, for another reason: it was not given."""


def asked_for_none(source):
    """What a file compares with None."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            sides = [ast.unparse(side) for side in (node.left, *node.comparators)]
            if "None" in sides:
                yield from (side.split(".")[-1] for side in sides if side != "None")


def test_only_what_was_not_given_is_asked_for_none():
    asked = {
        name
        for file in FILES
        if file.startswith("engine/") and file not in KNOW_NONE
        for name in asked_for_none((ROOT / file).read_text())
    }
    assert asked == OPTIONAL


def test_every_question_for_none_is_seen():
    source = (
        "x = [J.D[r][c] is not None, None is y, a.b == None, all(z is None for z in x), len(x) > 0]"
    )
    assert sorted(asked_for_none(source)) == ["D[r][c]", "b", "y", "z"]


KINDS = ("dense", "masked", "sparse", "conv", "grouped")


def test_no_file_names_a_kind_of_synapses():
    """But those of their own room."""
    named = re.compile(rf"synapses(\.|\.\w+ import .*\b| import .*\b)({'|'.join(KINDS)})\b")
    for path in ROOT.rglob("*.py"):
        if path.parent.name != "synapses":
            code = re.sub(r'"""(.*?)"""', "", path.read_text(), flags=re.DOTALL)
            assert not named.search(code), path


@pytest.mark.slow
@pytest.mark.parametrize("file", ["sparse", "conv", "grouped"])
def test_a_kind_is_one_file(file, tmp_path):
    """Without it, and its line in the facade of its room, all else runs, with the same numbers."""
    shutil.copytree(ROOT, tmp_path / "eprop_jax", ignore=shutil.ignore_patterns("__pycache__"))
    room = tmp_path / "eprop_jax/network/synapses"
    (room / f"{file}.py").unlink()
    facade = room / "__init__.py"
    names = re.search(rf"\.{file} import (.*)", facade.read_text())[1].split(", ")
    gone = re.compile(rf"synapses\.{file} |^    \"({'|'.join(names)})\",$")
    facade.write_text("\n".join(x for x in facade.read_text().splitlines() if not gone.search(x)))
    assert numbers(tmp_path) == numbers(ROOT.parent)


WITHOUT = """
import jax, jax.numpy as jnp
import eprop_jax as ej
from eprop_jax.cli.main import main
from eprop_jax import cli, plotting, paper, transforms

one = ej.Network(ej.cells.lif(2, 3), ej.readouts.leaky(3, 1))
two = ej.Network([ej.cells.lif(2, 3), ej.cells.gru(3, 4)], ej.readouts.linear(4, 1))
xs, ys = jnp.ones((5, 2, 2)), jnp.ones((5, 2, 1))
for net, language in ((one, "i*"), (one, "(i|e)*"), (one, "i*(ei*)?"), (two, "i*f*")):
    params = net.init(jax.random.key(0))
    rule = ej.by_paths(net, ej.losses.squared_error, paths=language)
    loss, grads = ej.value_and_grad(rule, chunk=2)(params, xs, ys)
    print(float(loss), [round(float(jnp.sum(jnp.abs(g))), 4) for g in jax.tree.leaves(grads)])
ej.compare({"some": rule}, params, xs, ys)
assert main(["taxonomy"]) == 0
"""


@pytest.mark.slow
@pytest.mark.parametrize("file", ["bptt", "eprop", "m_order", "rtrl", "by_influence"])
def test_a_rule_is_one_file(file, tmp_path):
    """Without it, and its lines in the table and the facade, all else runs, with the same numbers."""
    shutil.copytree(ROOT, tmp_path / "eprop_jax", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "eprop_jax/rules" / f"{file}.py").unlink()
    for name in ("__init__.py", "rules/table.py"):
        at = tmp_path / "eprop_jax" / name
        lines = at.read_text().splitlines()
        gone = re.compile(rf"rules\.{file}\b|^ .*\b{file}\.|^    \"{file}\",$")
        kept = [line for line in lines if not gone.search(line)]
        kept = [re.sub(rf"(import .*?)\b{file}\b(, )?", r"\1", line) for line in kept]
        at.write_text("\n".join(line.rstrip(", ") if "import" in line else line for line in kept))

    assert numbers(tmp_path) == numbers(ROOT.parent)


@functools.cache
def numbers(where):
    env = {**os.environ, "PYTHONPATH": str(where), "JAX_ENABLE_X64": "1"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], env=env, cwd=where, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
