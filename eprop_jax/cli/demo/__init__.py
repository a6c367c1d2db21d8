"""The main job: handwritten digits, read row by row, learned by every rule.

Two networks (a GRU; adaptive spiking units, ALIF) see a digit as 8 rows of 8 pixels, one after the
other, and name it while the last row is shown: only there does the loss count. Each rule trains the
same initial networks on the same batches in the same order with the same optimiser, so that what
differs is the gradient. `python -m eprop_jax` runs it.
"""

from eprop_jax.cli.demo.learning import (
    PROBE,
    OrderFidelity,
    Result,
    begin,
    initial,
    refuse,
    run,
    tester,
    trainer,
)
from eprop_jax.cli.demo.recording import Recording, record
from eprop_jax.cli.demo.setups import (
    CELLS,
    DEFAULT_ORDERS,
    DEFAULT_RULES,
    RULES,
    STACK_RULES,
    Method,
    Setup,
    methods,
    presenter,
    setup,
    units,
)

__all__ = [
    "CELLS",
    "DEFAULT_ORDERS",
    "DEFAULT_RULES",
    "PROBE",
    "RULES",
    "STACK_RULES",
    "Method",
    "OrderFidelity",
    "Recording",
    "Result",
    "Setup",
    "begin",
    "initial",
    "methods",
    "presenter",
    "record",
    "refuse",
    "run",
    "setup",
    "tester",
    "trainer",
    "units",
]
