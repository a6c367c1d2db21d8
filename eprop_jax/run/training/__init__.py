"""Training: many updates as one compiled program, and a loop on the host around it.

    (w, s)^{u+1} = optimiser(w^u, s^u, g(w^u; batch_u))        batch_u drawn with fold_in(key, u)

What update u sees depends on the key and on u alone. So a run that was cut off and goes on from a
checkpoint ends, bit for bit, where an uninterrupted one ends. (An iterable of batches is read on the
host, one an update: there the order is its own.)
"""

from eprop_jax.run.training.looks import accuracy, evaluator, normalised_mse, step_accuracy
from eprop_jax.run.training.loop import Run, finite, fit
from eprop_jax.run.training.updates import Metric, Trainer, TrainState, train, trainer

__all__ = [
    "Metric",
    "Run",
    "TrainState",
    "Trainer",
    "accuracy",
    "evaluator",
    "finite",
    "fit",
    "normalised_mse",
    "step_accuracy",
    "train",
    "trainer",
]
