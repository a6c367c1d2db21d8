"""Who knows whom: each room of the library imports only from those above it (CONTRIBUTING.md)."""

import ast
import pathlib
import re

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
    ("plotting",),
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
