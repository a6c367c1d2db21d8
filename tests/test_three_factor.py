"""Eligibility that waits for its third factor, against autodiff of each example's loss at each step."""

import functools
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
from cases import problem
from pace import quick, slow

import eprop_jax as ej

T, B, DECAY, C_V = 5, 2, 0.8, 0.5
RULES = {
    "e-prop": (lambda net, loss: ej.eprop(net, loss), {"order": 1}),
    "random e-prop": (lambda net, loss: ej.eprop(net, loss, feedback="random"), {"order": 1}),
    "order 2": (lambda net, loss: ej.m_order_eprop(net, loss, order=2), {"order": 2}),
    "RTRL": (lambda net, loss: ej.rtrl(net, loss), {}),
}


def worth(y, action):
    """−log π(a) − c_V V."""
    return -jax.nn.log_softmax(y[:-1])[action] - C_V * y[-1]


def case(kind="leaky_rnn", readout="leaky", T=T, batch=(B,)):
    p = problem(kind, readout, n=4, n_in=2, n_out=3, T=T, batch=batch)
    rng = np.random.default_rng(1)
    actions = jnp.asarray(rng.integers(0, 2, (T, *batch)))
    return p, actions, jnp.asarray(rng.normal(size=(T, *batch)))


def given(p, name):
    """Parameters, with feedback weights where the rule reads them."""
    if "random" not in name:
        return p.params, None
    weights = jnp.asarray(np.random.default_rng(2).normal(size=p.params["readout"]["w_out"].shape))
    return {**p.params, "feedback": weights}, weights


def by_autodiff(p, weights, xs, actions, **options):
    """g_b^t of one example, by reverse mode through its own unrolled network: leaves [T, ...]."""

    def losses(params):
        y, _ = ref.unroll(
            p.cell.reference(4), p.readout.reference, params, xs, B=weights, **options
        )
        log_pi = jnp.log(jnp.exp(y[:, :2]) / jnp.exp(y[:, :2]).sum(1, keepdims=True))
        return jnp.stack([-log_pi[t, a] for t, a in enumerate(actions)]) - C_V * y[:, 2]

    return jax.jacrev(losses)({k: p.params[k] for k in ("cell", "readout")})


def double_sum(g, delta, starts=(0,)):
    """Σ_t δ^t Σ_{t'≤t} decay^{t−t'} g^t', t' not before the sequence that t belongs to starts."""
    total = 0.0
    for t in range(len(delta)):
        first = max(s for s in starts if s <= t)
        for u in range(first, t + 1):
            total = total + float(delta[t]) * DECAY ** (t - u) * np.asarray(g[u])
    return total


def wanted(p, weights, actions, delta, starts=None, **options):
    """Its mean over the batch."""
    of = jax.jit(functools.partial(by_autodiff, p, weights, **options))
    starts = starts or ((0,),) * B

    def of_example(b):
        parts = zip(starts[b], (*starts[b][1:], len(actions)))
        apart = [of(p.xs[s:e, b], actions[s:e, b]) for s, e in parts]
        g = jax.tree.map(lambda *g: jnp.concatenate(g), *apart)
        return jax.tree.map(lambda g: double_sum(g, delta[:, b], starts[b]) / B, g)

    return jax.tree.map(lambda *g: jnp.asarray(sum(g)), *map(of_example, range(B)))


def accumulated(learner, params, xs, actions, delta, resets=None, mask=None):
    """Σ_t gradient(carry^t, δ^t), in a scan."""

    def one(total, at):
        carry, grads = total
        x, a, d, steps = jax.tree.map(lambda v: v[None], at)
        carry, out = learner.step(params, carry, x, a, **steps)
        return (carry, jax.tree.map(jnp.add, grads, learner.gradient(carry, d[0]))), out.outputs[0]

    steps = {k: v for k, v in {"resets": resets, "mask": mask}.items() if v is not None}
    zero = jax.tree.map(jnp.zeros_like, params)
    start = learner.init(params, xs.shape[1:-1]), zero
    return jax.lax.scan(one, start, (xs, actions, delta, steps))[0][1]


@pytest.mark.parametrize("kind", quick(["leaky_rnn", "alif"], "leaky_rnn"))
@pytest.mark.parametrize("name", quick(RULES, "e-prop", "RTRL"))
def test_the_update_is_the_sum_over_steps_and_earlier_steps(name, kind):
    p, actions, delta = case(kind)
    make, options = RULES[name]
    params, weights = given(p, name)
    learner = ej.three_factor(make(p.net, worth), DECAY)
    grads = jax.jit(functools.partial(accumulated, learner))(params, p.xs, actions, delta)
    assert not jnp.any(grads.pop("feedback", jnp.zeros(())))
    want = wanted(p, weights, actions, delta, **options)
    ref.assert_same(grads, want)
    if (name, kind) == ("e-prop", "leaky_rnn"):  # the recurrence matters here
        exact = wanted(p, None, actions, delta)
        assert ref.distance(want["cell"], exact["cell"]) > 1e-2


@pytest.mark.parametrize("name", quick(["e-prop", "RTRL"], "RTRL"))
def test_it_is_the_gradient_of_the_loss_weighted_by_the_advantage(name):
    """Σ_t δ^t z^t = Σ_t A^t g^t, A^t = δ^t + decay A^{t+1}: the same rule over the whole sequence. For
    RTRL that is backpropagation."""
    p, actions, delta = case()
    make, _ = RULES[name]
    grads = accumulated(ej.three_factor(make(p.net, worth), DECAY), p.params, p.xs, actions, delta)
    advantage = np.array(delta)
    for t in reversed(range(T - 1)):
        advantage[t] += DECAY * advantage[t + 1]
    make = ej.bptt if name == "RTRL" else make
    weighted = make(p.net, lambda y, target: target[1] * worth(y, target[0]))
    want = ej.value_and_grad(weighted)(p.params, p.xs, (actions, jnp.asarray(advantage)))[1]
    ref.assert_same(grads, want)


def test_an_episode_that_ends_leaves_nothing_behind():
    p, actions, delta = case()
    starts = ((0, 2), (0, 3, 4))
    resets = np.zeros((T, B), bool)
    for b, of_example in enumerate(starts):
        resets[list(of_example), b] = True
    learner = ej.three_factor(ej.eprop(p.net, worth), DECAY)
    grads = accumulated(learner, p.params, p.xs, actions, delta, jnp.asarray(resets))
    ref.assert_same(grads, wanted(p, None, actions, delta, starts, order=1))
    assert ref.distance(grads, wanted(p, None, actions, delta, order=1)) > 1e-2


def test_where_a_step_does_not_count_time_goes_on_all_the_same():
    p, actions, delta = case()
    mask = jnp.asarray(np.random.default_rng(3).random((T, B)) < 0.5)
    rule = ej.eprop(p.net, worth)
    grads = accumulated(ej.three_factor(rule, DECAY), p.params, p.xs, actions, delta, mask=mask)
    counted = ej.eprop(p.net, lambda y, target: target[1] * worth(y, target[0]))
    want = accumulated(
        ej.three_factor(counted, DECAY), p.params, p.xs, (actions, mask.astype(float)), delta
    )
    ref.assert_same(grads, want)


@pytest.mark.parametrize("batch", quick([(), (2, 3)], ()), ids=str)
def test_calls_of_many_steps_and_batches_of_any_shape(batch):
    p, actions, delta = case(batch=batch)
    learner = ej.three_factor(ej.eprop(p.net, worth), DECAY)
    whole, out = learner.step(p.params, learner.init(p.params, batch), p.xs, actions)
    carry, seen = learner.init(p.params, batch), []
    for a, b in ((0, 1), (1, T)):
        carry, part = learner.step(p.params, carry, p.xs[a:b], actions[a:b])
        seen.append(part)
    ref.assert_same(carry, whole)
    summed = [sum(x.loss for x in seen), jax.tree.map(lambda *g: sum(g), *(x.grads for x in seen))]
    ref.assert_same(summed, [out.loss, out.grads])
    flat = lambda x: x.reshape(T, -1, *x.shape[1 + len(batch) :])
    one_axis = accumulated(learner, p.params, flat(p.xs), flat(actions), flat(delta))
    ref.assert_same(accumulated(learner, p.params, p.xs, actions, delta), one_axis)


STACK = ej.Network([ej.cells.gru(2, 3), ej.cells.alif(3, 4)], ej.readouts.leaky(4, 3))
OTHERS = {
    "a stack": lambda net: ej.by_paths(STACK, worth, paths="i*f*"),
    "adaptive": lambda net: ej.eprop(net, worth, feedback="adaptive"),
    "narrow": lambda net: ej.narrow_traces(ej.eprop(net, worth)),
    "UORO": lambda net: ej.uoro(net, worth, key=jax.random.key(5)),
    "one's own": lambda net: ej.LearningRule(*ej.eprop(net, worth)[:2]),
}


@pytest.mark.parametrize("name", quick(OTHERS, "one's own"))
def test_what_is_told_is_what_the_rule_tells(name):
    """And z of the first step is each example's gradient, whose mean is the rule's: for rules of every
    kind, also one that draws."""
    p, actions, _ = case()
    rule, params = OTHERS[name](p.net), p.params
    if name == "a stack":
        params = STACK.init(jax.random.key(0))
    if name == "adaptive":
        params = {**params, "feedback": ej.feedback.init(jax.random.key(1), p.net)}
    learner, carry = ej.three_factor(rule, 0.0), rule.init(params, (B,))
    held = learner.init(params, (B,))
    for t in range(2):
        x, a = p.xs[t : t + 1], actions[t : t + 1]
        carry, want = rule.step(params, carry, x, a)
        held, out = learner.step(params, held, x, a)
        ref.assert_same(out, want)
        ref.assert_same(learner.gradient(held, jnp.ones(B)), want.grads)
    ref.assert_same(held.rule.state, carry.state)


@slow
def test_its_loss_differentiates_by_the_rule():
    p, actions, _ = case()
    learner = ej.three_factor(ej.eprop(p.net, worth), DECAY)
    carry = learner.init(p.params, (B,))
    loss = lambda params: learner.step(params, carry, p.xs, actions)[1].loss
    by_rule = ej.value_and_grad(ej.eprop(p.net, worth))(p.params, p.xs, actions)[1]
    ref.assert_same(jax.grad(loss)(p.params), by_rule)


def test_vmap_over_decays_and_learners():
    p, actions, delta = case()
    rule = ej.eprop(p.net, worth)
    run = lambda decay, params: accumulated(
        ej.three_factor(rule, decay), params, p.xs, actions, delta
    )
    keys = jax.random.split(jax.random.key(0), 2)
    params, decays = jax.vmap(p.net.init)(keys), jnp.array([0.0, 0.9])
    together = jax.jit(jax.vmap(run))(decays, params)
    second = functools.partial(jax.tree.map, lambda x: x[1])
    ref.assert_same(second(together), jax.jit(run)(0.9, second(params)))


@slow
def test_eligibility_is_wide_where_parameters_are_narrow():
    p, actions, _ = case()
    narrow = jax.tree.map(lambda x: x.astype("bfloat16"), p.params)
    learner = ej.three_factor(ej.eprop(p.net, worth), DECAY)
    carry, out = learner.step(narrow, learner.init(narrow, (B,)), p.xs, actions)
    again = jax.tree.map(lambda x: x.astype("float32"), narrow)
    want, _ = learner.step(again, learner.init(again, (B,)), p.xs, actions)
    ref.assert_same(carry.z, want.z, 1e-5)
    assert {x.dtype for x in jax.tree.leaves(out.grads)} == {jnp.dtype("bfloat16")}


def test_refusals():
    p, actions, delta = case()
    rule = ej.eprop(p.net, worth)
    with pytest.raises(ValueError, match=r"rule: got .*BPTT.*no traces.*ej.rtrl"):
        ej.three_factor(ej.bptt(p.net, worth), DECAY).init(p.params, (B,))
    with pytest.raises(TypeError, match="rule: got one whose carry is tuple"):
        own = rule._replace(init=lambda params, batch: ())
        ej.three_factor(own, DECAY).init(p.params, (B,))
    learner = ej.three_factor(rule, DECAY)
    carry = learner.init(p.params, (B,))
    with pytest.raises(ValueError, match="carry: was made for batch"):
        learner.step(p.params, learner.init(p.params, (3,)), p.xs, actions)
    with pytest.raises(ValueError, match=r"carry\.z"):
        learner.step(p.params, carry._replace(z=p.params), p.xs, actions)
    with pytest.raises(ValueError, match=r"third: got shape \[5, 2\], wanted \[2\]"):
        learner.gradient(carry, delta)


@slow
def test_an_actor_critic_learns_a_delayed_cue_from_another_seed(tmp_path):
    """The cells of notebooks/reward before CartPole, which assert a reward above 0.95."""
    root = pathlib.Path(__file__).parents[1]
    text = (root / "notebooks" / "reward.md").read_text().split("What the agent of the first")[0]
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    for old, new in (
        ("SEEDS, ENVS, C_V = 5", "SEEDS, ENVS, C_V = 1"),
        ("key(0), SEEDS", "key(1), 1"),
    ):
        assert code.count(old) == 1
        code = code.replace(old, new)
    script = tmp_path / "cue.py"
    script.write_text(code)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment |= {"MPLBACKEND": "Agg", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=environment, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "e-prop, three factors: reward in the last quarter" in done.stdout
