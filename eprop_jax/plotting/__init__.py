"""Pictures of learning: functions of arrays and a matplotlib Axes, which they draw on and return.

matplotlib is an extra (`pip install "eprop_jax[examples]"`) and is imported inside functions only.
"""

from eprop_jax.plotting.automata import automaton
from eprop_jax.plotting.computation import computational_graph
from eprop_jax.plotting.curves import fidelity, learning_curves
from eprop_jax.plotting.figures import demo_figure
from eprop_jax.plotting.over_time import learning_signals, membrane, raster, targets, traces
from eprop_jax.plotting.responses import step_response

__all__ = [
    "automaton",
    "computational_graph",
    "demo_figure",
    "fidelity",
    "learning_curves",
    "learning_signals",
    "membrane",
    "raster",
    "step_response",
    "targets",
    "traces",
]
