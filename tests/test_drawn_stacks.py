"""Stacks whose layers, sizes, wiring, language and calls are drawn, against one tangent a layer, unit
and automaton state (which `test_layered_reference.py` holds to the enumeration of all words)."""

import hypothesis
import jax
import layered_reference as lay
import numpy as np
import pytest
import reference as ref
from hypothesis import strategies as st
from test_layered_reference import MAKE, more_losses
from test_layers import LANGUAGES, LOSS, by_steps, net_of
from test_paths import drawn_expressions

import eprop_jax as ej

pytestmark = pytest.mark.slow
T = 5
KINDS = (
    "coupled",
    "masked",
    "gru",
    "lstm",
    "alif, all trained",
    "leaky_rnn, tau trained",
    "stateless",
)


@st.composite
def stacks(draw):
    """1 to 4 layers; each that nothing above hears is read."""
    depth, n_in = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    sizes = draw(st.lists(st.integers(1, 3), min_size=depth, max_size=depth))
    subset = lambda of: st.lists(st.sampled_from(of), unique=True, min_size=1).map(tuple)
    inputs = (("x",), *(draw(subset(["x", *range(l)])) for l in range(1, depth)))
    silent = set(range(depth)).difference(*inputs)
    reads = draw(st.permutations(sorted(silent | set(draw(subset(range(depth)))))))
    width = lambda names: sum(n_in if k == "x" else sizes[k] for k in names)
    cells = [
        MAKE[draw(st.sampled_from(KINDS))](width(names), size) for names, size in zip(inputs, sizes)
    ]
    readout = draw(st.sampled_from([ej.readouts.leaky, ej.readouts.linear]))
    return lay.Stack(tuple(cells), readout(width(reads), 2), inputs, tuple(reads))


# One that is drawn leaves layers out; together with i*f* it does not.
languages = st.sampled_from(sorted(set(LANGUAGES.values()))) | drawn_expressions().map(
    lambda x: f"i*f*|{x}"
)
calls = st.sampled_from([None, 1, 3, T, (2, 1, 2), (1, 4), (3, 1, 1)])


@hypothesis.given(stacks(), languages, calls, st.booleans(), st.integers(0, 99))
def test_any_stack_under_any_language_in_any_calls(stack, language, how, more, seed):
    params, xs, ys = lay.drawn(stack, T, 2, seed)
    params = lay.existing(stack, params)
    params = {**params, "cell": tuple(params["cell"])}
    options, given = {}, more_losses(stack) if more else {}
    if more:
        options = {"feedback": "random", "activity_loss": given["activity"]}
        options["state_loss"] = given["state"]
    if how not in (None, T):  # the window of an activity loss is the call
        options.pop("activity_loss", None)
        given.pop("activity", None)
    oracle = lay.problem(stack, params, xs, ys, ref.squared_error, **given)
    value, wanted = lay.tangent_gradient(oracle, ej.paths.compile(language))
    rule = ej.by_paths(net_of(stack), LOSS, paths=language, **options)
    with_B = {**params, "feedback": given["feedback"]} if more else params
    lost = [x.layer for x in ej.paths.report(rule, params).layers if x.unconnected]
    if lost:
        with pytest.raises(ValueError, match=rf"params\['cell'\]\[{lost[0]}\].*got no path"):
            rule.init(with_B, (2,))
        zero = [not np.any(x) for x in jax.tree.leaves(wanted["cell"][lost[0]])]
        assert any(zero)
        return
    if isinstance(how, tuple):
        got = by_steps(rule, with_B, xs, ys, how)
    else:
        got = ej.value_and_grad(rule, chunk=how)(with_B, xs, ys)
    np.testing.assert_allclose(got[0], value, rtol=1e-10)
    ref.assert_same({k: got[1][k] for k in ("cell", "readout")}, wanted, 1e-10)
    jax.clear_caches()
