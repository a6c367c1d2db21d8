"""A rule is a language of paths: regular expressions over the kinds of edge, and their automata.

A path leads from a parameter, through the unrolled network, to the loss. It is spelt by its edges:

    i   c_j^{t-1} → c_j^t   the unit's own dynamics
    e   h_k^{t-1} → c_j^t   a recurrent synapse
    s   h_j^{t-1} → c_j^t   the recurrent synapse of a unit to itself (w_jj), which is an `e` as well
    f   h_k^t → c_j^t       a synapse to a layer above, within the step

`compile` turns an expression into the minimal automaton, `prune` fits it to a network's kinds of
edge, `costates` to its layers; `dropped` says which paths of a network are cut, and `NAMED` is the
table of published rules.
"""

from eprop_jax.engine.paths.automaton import (
    LETTERS,
    Automaton,
    Moves,
    accepts,
    compile,
    prune,
)
from eprop_jax.engine.paths.layers import (
    CoState,
    Dropped,
    Wiring,
    costates,
    dropped,
    reachable,
    stack,
)
from eprop_jax.engine.paths.named import NAMED, Named, as_text, order, text

__all__ = [
    "LETTERS",
    "NAMED",
    "Automaton",
    "CoState",
    "Dropped",
    "Moves",
    "Named",
    "Wiring",
    "accepts",
    "as_text",
    "compile",
    "costates",
    "dropped",
    "order",
    "prune",
    "reachable",
    "stack",
    "text",
]
