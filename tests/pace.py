"""Which cases of a family run at every `make test`, and which at `make test-slow`.

Beside those marked in place, the cases in `long.txt` are slow. They are of those that took longest
(`--durations=400`), without the quickest of a family that has no quicker one. A name that is no longer
there is found by `test_house.py`.
"""

import pytest

slow = pytest.mark.slow


def quick(cases, *kept):
    """Parameters of which all but `kept` are marked slow."""
    return [case if case in kept else pytest.param(case, marks=slow) for case in cases]
