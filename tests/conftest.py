"""The suite runs in float64 and refuses what promotes silently. Nothing else sets JAX's options."""

import os

# Compiling is most of the suite's time, and unoptimised code gives the same numbers.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

import pathlib

import hypothesis
import jax
import pytest

jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# What is drawn follows from the seed alone: no examples of an earlier run are tried again.
hypothesis.settings.register_profile("ci", max_examples=8, deadline=None, database=None)
hypothesis.settings.register_profile("fuzz", max_examples=400, deadline=None, database=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


LONG = set(pathlib.Path(__file__).with_name("long.txt").read_text().splitlines())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """The cases that took longest (`pace.py`)."""
    for item in items:
        if item.nodeid in LONG:
            item.add_marker(pytest.mark.slow)


def pytest_terminal_summary(terminalreporter, config):
    seed = config.getoption("--hypothesis-seed")
    terminalreporter.write_line(f"hypothesis: the examples of --hypothesis-seed={seed}")


@pytest.fixture(autouse=True, scope="module")
def clear_caches():
    """Compiled functions of one file are of no use to the next, and fill the memory."""
    yield
    jax.clear_caches()
