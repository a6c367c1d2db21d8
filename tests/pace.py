"""Which cases of a family run at every `make test`, and which at `make test-slow`."""

import pytest

slow = pytest.mark.slow


def quick(cases, *kept):
    """Parameters of which all but `kept` are marked slow."""
    return [case if case in kept else pytest.param(case, marks=slow) for case in cases]
