"""Any sequence of init, step, checkpoint and restore calls, against one call for the whole sequence.

A machine holds a rule's carry and the sum of its gradients. It steps over chunks of any length, goes
back to what it kept in memory, or to a checkpoint on the disk. Whatever it did, the gradients of
the steps that its history now consists of must sum to the gradient of that sequence at once.
"""

import functools
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import reference as ref
from cases import problem
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

import eprop_jax as ej

MAX_T, N_DATA, BATCH = 8, 32, (2,)


def counted(y, target):
    """A squared error that counts or not, so that one call of one length serves any history."""
    wanted, counts = target
    return jnp.where(counts, ej.losses.squared_error(y, wanted), 0.0)


KINDS = {
    "e-prop": ("leaky_rnn", "leaky", lambda net: ej.eprop(net, counted)),
    "adaptive e-prop": (
        "lif, refractory",
        "custom",
        lambda net: ej.eprop(net, counted, feedback="adaptive"),
    ),
    "order 2": ("rnn", "leaky", lambda net: ej.m_order_eprop(net, counted, order=2)),
    "rtrl": ("leaky_rnn, tau trained", "linear", lambda net: ej.rtrl(net, counted)),
}


@functools.cache
def world(kind):
    cell, readout, make = KINDS[kind]
    p = problem(cell, readout, n=3, n_in=2, n_out=2, T=N_DATA, batch=BATCH)
    learner, params = make(p.net), dict(p.params)
    if learner.spec.feedback != "symmetric":
        params["feedback"] = ej.feedback.init(jax.random.key(3), p.net)
    start = jax.jit(lambda params: learner.init(params, BATCH))  # one program, not one an operation
    at_once = ej.value_and_grad(learner, has_aux=True)
    return learner, start, params, np.asarray(p.xs), np.asarray(p.ys), at_once


class Training(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.kept, self.saved, self.folder = None, {}, None

    @initialize(kind=st.sampled_from(list(KINDS)))
    def start(self, kind):
        self.rule, self.start_carry, self.params, self.xs, self.ys, self.at_once = world(kind)
        self.begin()

    def begin(self):
        carry = self.start_carry(self.params)
        zero = jax.tree.map(np.zeros_like, self.params)
        self.state = {"carry": carry, "loss": np.zeros(()), "grads": zero}
        self.steps = []  # which rows of the data were seen

    def seen(self, rows):
        """xs and ys of these steps."""
        return self.xs[rows], (self.ys[rows], np.ones((len(rows), *BATCH), bool))

    @rule(size=st.sampled_from([1, 1, 2, 3]), first=st.integers(0, N_DATA - 3))
    def step(self, size, first):
        if len(self.steps) + size > MAX_T:
            return
        rows = list(range(first, first + size))
        carry, out = self.rule.step(self.params, self.state["carry"], *self.seen(rows))
        self.state = {
            "carry": carry,
            "loss": np.add(self.state["loss"], out.loss),
            "grads": jax.tree.map(np.add, self.state["grads"], out.grads),
        }
        self.steps = self.steps + rows

    @rule()
    def init_again(self):
        self.begin()

    @rule()
    def keep(self):
        self.kept = self.state, self.steps

    @precondition(lambda self: self.kept is not None)
    @rule()
    def go_back_to_what_was_kept(self):
        self.state, self.steps = self.kept

    @precondition(lambda self: len(self.saved) < 2)
    @rule()
    def checkpoint(self):
        self.folder = self.folder or tempfile.TemporaryDirectory()
        number = len(self.saved)
        ej.checkpoints.save(self.folder.name, self.state, number)
        self.saved[number] = self.steps, self.state

    @precondition(lambda self: self.saved)
    @rule(data=st.data())
    def restore(self, data):
        """Into a carry made anew, as another process would."""
        number = data.draw(st.sampled_from(sorted(self.saved)))
        self.begin()
        self.state = ej.checkpoints.restore(self.folder.name, self.state, number)
        self.steps, was = self.saved[number]
        assert jax.tree.all(jax.tree.map(np.array_equal, self.state, was))

    def teardown(self):
        try:
            self.compare()
        finally:
            if self.folder is not None:
                self.folder.cleanup()

    def compare(self):
        if not getattr(self, "steps", None):
            return
        T = len(self.steps)
        xs, (ys, counts) = self.seen(self.steps + [0] * (MAX_T - T))
        counts[T:] = False
        (loss, aux), grads = self.at_once(self.params, xs, (ys, counts))
        assert abs(float(self.state["loss"] - loss)) <= 1e-12 * abs(float(loss))
        ref.assert_same(self.state["carry"].state.y, aux.outputs[T - 1], 1e-12)
        ref.assert_same(self.state["grads"], grads, 1e-10)


TestTraining = Training.TestCase
TestTraining.settings = settings(
    max_examples=200 if settings().max_examples >= 100 else 2, stateful_step_count=12, deadline=None
)
