"""The package as it is shipped: what is in it, what it costs to import, and that it touches nothing.

The wheel is installed into an environment of its own, outside of the repository. To be quick and to
need no network, that environment takes the dependencies (not this library) from the running one;
`make package` is the same with an empty environment, and runs the sdist's tests in it.
"""

import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# Refused by an audit hook, which also sees what does not go through the socket module's own names.
NO_NETWORK = """
import sys
def _refuse(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        raise RuntimeError("the network was used: " + event)
sys.addaudithook(_refuse)
"""
AND_IT_WOULD_HAVE_BEEN_SEEN = """
import socket
try:
    socket.create_connection(("127.0.0.1", 9), timeout=1)
except RuntimeError as error:
    print("refused:", error)
"""
IMPORT = """
import json, logging, os, sys, time, warnings
import numpy as np
import jax, jax.numpy
from jax._src import xla_bridge

def settings():
    return {
        "jax": {name: repr(value) for name, value in jax.config.values.items()},
        "environ": dict(os.environ),
        "numpy": [np.geterr(), np.get_printoptions()],
        "random": np.random.get_state()[1].tolist(),
        "warnings": [repr(f) for f in warnings.filters],
        "logging": [logging.root.level, [repr(h) for h in logging.root.handlers]],
    }

before, started = settings(), time.process_time()
import eprop_jax
seconds, after = time.process_time() - started, settings()
print(json.dumps({
    "seconds": seconds,
    "changed": [name for name in before if repr(before[name]) != repr(after[name])],
    "backend": xla_bridge.backends_are_initialized(),
    "heavy": sorted(
        {"matplotlib", "orbax", "tqdm", "scipy.stats", "flax", "equinox", "h5py"}
        & sys.modules.keys()
    ),
}))
"""


def run(python, *command, cwd, **environment):
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and k[:4] != "JAX_"}
    done = subprocess.run(
        [str(python), *map(str, command)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**inherited, **environment},
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the wheel and the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=ROOT)
    return folder


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The python of an environment into which the wheel is installed."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    install = ("-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps")
    run(sys.executable, *install, wheel, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    dependencies = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    # As a .pth line of another folder's, an editable install of this library is not followed.
    (packages / "dependencies.pth").write_text("\n".join(dependencies))
    return python


def test_the_sdist_holds_what_its_tests_need(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {"/".join(name.split("/")[1:]) for name in archive.getnames()}
    tracked = run("git", "ls-files", cwd=ROOT).split() if (ROOT / ".git").exists() else []
    for folder in ("eprop_jax", "tests", "notebooks", "benchmarks", "docs"):
        assert any(name.startswith(f"{folder}/") for name in names), folder
        missing = {x for x in tracked if x.startswith(f"{folder}/") and (ROOT / x).exists()} - names
        assert not missing, missing
    assert {"README.md", "LICENSE", "CHANGELOG.md", "Makefile", "pyproject.toml"} <= names
    assert {"tests/reference.py", "tests/data/nest_reference.npz"} <= names


def test_the_wheel_holds_the_library_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (archive.read(n).decode() for n in names if n.endswith("METADATA"))
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {"eprop_jax"}
    assert "eprop_jax/py.typed" in names
    assert any(name.startswith("eprop_jax/data/") for name in names)
    required = re.findall(r"^Requires-Dist: ([a-z]+)[^;\n]*$", metadata, re.MULTILINE)
    assert set(required) == {"jax", "jaxlib", "numpy", "optax", "chex"}


def test_the_wheel_runs_the_quickstart_without_a_network(installed, tmp_path):
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    where = "\nprint(ej.__file__)\n"
    script = "\n".join([NO_NETWORK, *blocks[:2], where, AND_IT_WOULD_HAVE_BEEN_SEEN])
    (tmp_path / "quickstart.py").write_text(script)
    out = run(installed, "quickstart.py", cwd=tmp_path)
    assert str(installed.parents[1]) in out  # the wheel's, not the repository's
    assert "refused: the network was used" in out


def test_importing_is_quick_and_changes_nothing(installed, tmp_path):
    """In seconds of CPU beyond `import jax`, so that a busy machine does not count."""
    (tmp_path / "measure.py").write_text(NO_NETWORK + IMPORT)
    found = [json.loads(run(installed, "measure.py", cwd=tmp_path)) for _ in range(3)]
    seconds = statistics.median(x["seconds"] for x in found)
    print(f"\nimport eprop_jax: {seconds:.2f} s of CPU beyond import jax")
    assert seconds < 0.3
    assert found[0]["changed"] == []
    assert not found[0]["backend"], "importing made an array"
    assert found[0]["heavy"] == []
