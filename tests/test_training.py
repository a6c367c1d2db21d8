"""Training: one program, many seeds at once, and runs that are cut off."""

import functools
import os
import pathlib
import random
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from pace import quick

import eprop_jax as ej
from eprop_jax import training
from eprop_jax.cli import experiments

TASK = functools.partial(ej.tasks.copy_memory(n_symbols=2, length=2, delay=3), batch=6)
NET = ej.Network(ej.cells.gru(4, 7, gain_rec=1.5), ej.readouts.leaky(7, 2, tau=2.0))
LOSS = ej.losses.masked(ej.losses.softmax_cross_entropy)
SGD = optax.sgd(0.3, momentum=0.9)
RULES = {
    "BPTT": ej.bptt(NET, LOSS),
    "e-prop": ej.eprop(NET, LOSS),
    "order 2": ej.m_order_eprop(NET, LOSS, order=2),
    "RTRL": ej.rtrl(NET, LOSS),
}


def same(a, b):
    return all(
        bool(jnp.all(x == y))
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    )


def distance(a, b):
    return max(
        float(jnp.max(jnp.abs(x - y)))
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.mark.parametrize("name", quick(RULES, "BPTT", "order 2"))
def test_train_is_the_loop_one_would_write(name):
    rule, key = RULES[name], jax.random.key(5)
    params = NET.init(jax.random.key(0))
    state, log = ej.train(rule, SGD, params, TASK, 7, key=key)

    gradient, opt_state, losses = ej.value_and_grad(rule), SGD.init(params), []
    for u in range(7):
        loss, grads = gradient(params, *TASK(jax.random.fold_in(key, u)))
        changes, opt_state = SGD.update(grads, opt_state, params)
        params = optax.apply_updates(params, changes)
        losses.append(float(loss))
    assert distance(state.params, params) < 1e-12
    assert log["loss"].tolist() == pytest.approx(losses, rel=1e-12)
    assert len(set(losses)) == 7


def test_batches_are_gone_through_in_turn():
    keys = jax.random.split(jax.random.key(1), 3)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *[TASK(k) for k in keys])
    rule, params = RULES["e-prop"], NET.init(jax.random.key(0))
    state, _ = ej.train(rule, SGD, params, stacked, 7)
    step = training.trainer(rule, SGD, stacked)
    one = step.init(params, jax.random.key(9))  # batches do not read the key
    for _ in range(7):
        one, _ = step.run(one, 1)
    assert distance(state.params, one.params) < 1e-12


@pytest.mark.slow
def test_seeds_and_learning_rates_in_one_call_are_the_single_runs():
    rule = RULES["e-prop"]

    def one(seed, rate):
        k_net, k_data = jax.random.split(jax.random.key(seed))
        return ej.train(rule, optax.sgd(rate), NET.init(k_net), TASK, 20, key=k_data)

    seeds, rates = jnp.arange(3), jnp.array([0.1, 1.0])
    states, logs = jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))(seeds, rates)
    for i in range(3):
        for j in range(2):
            state, log = one(i, rates[j])
            of = jax.tree.map(lambda x: x[i, j], states.params)
            assert distance(of, state.params) < 1e-10
            assert float(jnp.max(jnp.abs(logs["loss"][i, j] - log["loss"]))) < 1e-10


def test_random_feedback_stays_and_adaptive_feedback_turns_to_the_read_out():
    """Under weight decay B forgets where it started: its angle to w_out closes."""
    params = {**NET.init(jax.random.key(0)), "feedback": ej.feedback.init(jax.random.key(3), NET)}
    decayed = optax.chain(
        SGD,
        optax.masked(
            optax.add_decayed_weights(-0.02),
            lambda p: jax.tree.map_with_path(
                lambda path, _: path[0].key == "feedback" or path[-1].key == "w_out", p
            ),
        ),
    )

    def alignment(p):
        a, b = p["feedback"].ravel(), p["readout"]["w_out"].ravel()
        return float(a @ b / jnp.linalg.norm(a) / jnp.linalg.norm(b))

    fixed, _ = ej.train(ej.eprop(NET, LOSS, feedback="random"), decayed, params, TASK, 30)
    assert same(fixed.params["feedback"], params["feedback"])
    moving, _ = ej.train(ej.eprop(NET, LOSS, feedback="adaptive"), decayed, params, TASK, 300)
    assert alignment(params) < 0.5
    assert alignment(moving.params) > 0.95


def trees(params):
    """Optimisers that hold a tree of labels or of masks, shaped like the parameters."""
    labels = jax.tree.map_with_path(
        lambda path, _: "slow" if path[-1].key in ("w_out", "feedback") else "fast", params
    )
    every = jax.tree.map(lambda _: True, params)
    decay = optax.add_decayed_weights(0.05, mask=every)
    return {
        "labels": optax.multi_transform(
            {"slow": optax.chain(decay, optax.sgd(0.1)), "fast": SGD}, labels
        ),
        "masks": optax.chain(decay, SGD, optax.masked(optax.add_decayed_weights(-0.05), every)),
    }


@pytest.mark.parametrize("name", quick(["labels", "masks"], "masks"))
def test_label_and_mask_trees_serve_a_loop_of_ones_own_and_train_alike(name):
    """In both the optimiser sees random B, and cannot move it; adaptive B moves."""
    B, key = ej.feedback.init(jax.random.key(3), NET), jax.random.key(5)
    params = {**NET.init(jax.random.key(0)), "feedback": B}
    optimizer = trees(params)[name]

    def own(rule, optimizer, hold=False):
        def update(state, u):
            p, opt_state = state
            _, grads = ej.value_and_grad(rule)(p, *TASK(jax.random.fold_in(key, u)))
            changes, opt_state = optimizer.update(grads, opt_state, p)
            p = optax.apply_updates(p, changes)
            return ({**p, "feedback": B} if hold else p, opt_state), ()

        start = params, optimizer.init(params)
        return jax.jit(lambda: jax.lax.scan(update, start, jnp.arange(4))[0][0])()

    random, adaptive = (ej.eprop(NET, LOSS, feedback=kind) for kind in ("random", "adaptive"))
    wanted = own(random, optimizer, hold=True)
    assert distance(own(random, ej.feedback.fixed(optimizer, random)), wanted) < 1e-12
    state, _ = ej.train(random, optimizer, params, TASK, 4, key=key)
    assert distance(state.params, wanted) < 1e-12
    assert jnp.array_equal(state.params["feedback"], B)
    assert distance(own(random, optimizer), wanted) > 1e-3  # left to itself, it decays B

    state, _ = ej.train(adaptive, optimizer, params, TASK, 4, key=key)
    assert distance(state.params, own(adaptive, optimizer)) < 1e-12
    assert distance(own(adaptive, ej.feedback.fixed(optimizer, adaptive)), state.params) < 1e-12
    assert float(jnp.max(jnp.abs(state.params["feedback"] - B))) > 1e-2


EXTRA = {
    "plateau": optax.chain(
        optax.sgd(1.0), optax.contrib.reduce_on_plateau(factor=0.5, patience=1, rtol=0.5)
    ),
    "Polyak's step": optax.polyak_sgd(max_learning_rate=0.5),
    "every second update": optax.MultiSteps(optax.polyak_sgd(max_learning_rate=0.5), 2),
    "line search": optax.chain(
        optax.sgd(1.0), optax.scale_by_backtracking_linesearch(max_backtracking_steps=5)
    ),
}


@pytest.mark.parametrize("name", EXTRA)
def test_optimisers_with_extra_arguments(name):
    rule, optimizer, key = RULES["BPTT"], EXTRA[name], jax.random.key(5)
    params = NET.init(jax.random.key(0))
    f = jax.jit(ej.value_and_grad(rule))

    def update(params, opt_state, xs, ys):
        loss, grads = f(params, xs, ys)
        extra = dict(value=loss, grad=grads, value_fn=lambda p: f(p, xs, ys)[0])
        changes, opt_state = optimizer.update(grads, opt_state, params, **extra)
        return optax.apply_updates(params, changes), opt_state

    with jax.numpy_dtype_promotion("standard"):  # optax needs it
        state, _ = ej.train(rule, optimizer, params, TASK, 4, key=key)
        p, opt_state = params, optimizer.init(params)
        for u in range(4):
            p, opt_state = jax.jit(update)(p, opt_state, *TASK(jax.random.fold_in(key, u)))
    assert distance(state.params, p) < 1e-9
    assert distance(state.params, params) > 1e-2
    if name == "plateau":
        assert float(state.opt_state[-1].scale) < 1


def test_a_finite_gradient_of_float16_does_not_stop_a_run():
    """Its norm is beyond 256, whose square is beyond float16."""
    params = jax.tree.map(lambda x: x.astype("float16"), NET.init(jax.random.key(0)))
    far = lambda key: (TASK(key)[0], jnp.full((TASK(key)[0].shape[0], 6, 2), 400.0))
    rule = ej.eprop(NET, ej.losses.squared_error)
    with jax.numpy_dtype_promotion("standard"):  # optax's step length
        t = training.trainer(rule, optax.sgd(1e-6), far)
        state = t.init(params, jax.random.key(5))
        run = training.fit(t, state, 2, every=1, progress=False)
    xs, ys = far(jax.random.fold_in(state.key, 0))
    wide = jax.tree.map(lambda x: x.astype("float64"), params)
    grads = ej.value_and_grad(rule)(wide, xs, ys)[1]
    norm = sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(grads)) ** 0.5
    assert 256 < norm < 60_000
    assert run.log["grad_norm"][0] == pytest.approx(norm, rel=1e-2)


def test_fidelity_squares_float16_in_float32():
    g = jnp.full(4, 1000.0, "float16")
    found = ej.fidelity(g, 2 * g)
    assert [float(x) for x in found] == pytest.approx([1, 0.5, 1, 0.5])


def test_a_task_that_still_wants_its_batch_is_refused():
    with pytest.raises(
        TypeError, match=r"data: got a function of \(key, batch\), wanted a sampler"
    ):
        ej.train(RULES["BPTT"], SGD, NET.init(jax.random.key(0)), TASK.func, 3)


def test_the_log_says_what_was_done():
    rule, params = RULES["e-prop"], NET.init(jax.random.key(0))
    t = training.trainer(rule, SGD, TASK, metrics={"accuracy": training.step_accuracy})
    state = t.init(params, jax.random.key(5))
    _, log = t.run(state, 1)
    xs, ys = TASK(jax.random.fold_in(jax.random.key(5), 0))
    (loss, aux), grads = ej.value_and_grad(rule, has_aux=True)(params, xs, ys)
    assert float(log["loss"][0]) == pytest.approx(float(loss))
    assert float(log["rate"][0]) == pytest.approx(float(aux.activity.mean()))
    norm = sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(grads)) ** 0.5
    assert float(log["grad_norm"][0]) == pytest.approx(norm)
    named = np.asarray(jnp.argmax(aux.outputs, -1) == ys[0])
    assert float(log["accuracy"][0]) == pytest.approx(named[-2:].mean())


def test_the_evaluator_measures_the_cosine_to_bptt():
    params = NET.init(jax.random.key(0))
    found = {
        name: training.evaluator(rule, TASK, cosine=True, batches=2)(params, jax.random.key(1))
        for name, rule in RULES.items()
    }
    assert float(found["BPTT"]["cosine"]) == pytest.approx(1)
    assert float(found["RTRL"]["cosine"]) == pytest.approx(1)
    assert 0 < float(found["e-prop"]["cosine"]) < float(found["order 2"]["cosine"]) < 1 - 1e-6
    assert float(found["BPTT"]["test_loss"]) == pytest.approx(float(found["RTRL"]["test_loss"]))


def test_fit_pauses_looks_and_stops():
    t = training.trainer(RULES["BPTT"], SGD, TASK)
    state = t.init(NET.init(jax.random.key(0)), jax.random.key(5))
    look = training.evaluator(RULES["BPTT"], TASK, metrics={"accuracy": training.step_accuracy})
    seen = []
    run = training.fit(t, state, 400, every=20, evaluate=look, report=seen.append, progress=False,
                       stop=lambda row: row["test_accuracy"] > 0.99)  # fmt: skip
    assert run.stopped and run.rows == seen and run.rows[-1]["test_accuracy"] > 0.99
    assert all(row["test_accuracy"] <= 0.99 for row in run.rows[:-1])
    assert int(run.state.step) == run.rows[-1]["step"] == len(run.log["loss"]) < 400


def test_training_stops_at_the_first_number_that_is_not_finite(tmp_path):
    def poisoned(key):
        xs, ys = TASK(key)
        return jnp.where(jax.random.bernoulli(key, 0.1), jnp.nan, xs), ys

    t = training.trainer(RULES["BPTT"], SGD, poisoned)
    state = t.init(NET.init(jax.random.key(0)), jax.random.key(3))
    bad = [u for u in range(40) if jax.random.bernoulli(jax.random.fold_in(state.key, u), 0.1)]
    assert 2 <= bad[0] < 40
    with pytest.raises(FloatingPointError, match=f"loss: got nan at update {bad[0]}, wanted"):
        training.fit(t, state, 40, every=2, checkpoints=tmp_path, progress=False)
    good = ej.checkpoints.restore(tmp_path, state)
    assert int(good.step) == bad[0] // 2 * 2
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(good.params))


# -- runs that are cut off -------------------------------------------------------------------------


def worker(folder, steps):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(pathlib.Path(__file__).parent / "training_worker.py"),
         str(folder), str(steps)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**environment, "XLA_FLAGS": "--xla_backend_optimization_level=0"},
    )  # fmt: skip


@pytest.mark.slow
def test_killed_at_random_moments_a_run_ends_bit_for_bit_where_it_would_have(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    done = worker(whole, 60)
    out, err = done.communicate(timeout=600)
    assert done.returncode == 0, err

    chance = random.Random(os.getpid())
    for pauses in (3, 2):  # killed some time after its third pause, then after its second
        run = worker(cut, 60)
        for _ in range(1 + pauses):
            run.stdout.readline()
        try:
            run.wait(chance.uniform(0, 0.1))  # anywhere between pauses, or within a save
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGKILL)
        run.communicate()
    last = worker(cut, 60)
    out, err = last.communicate(timeout=600)
    assert last.returncode == 0, err
    assert 0 < int(out.split()[1]) <= 60

    digest = lambda folder: read(folder / f"{60:09d}")
    assert digest(cut) == digest(whole) != {}


def read(folder):
    """{leaf: bytes} of a checkpoint."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as reader:
        tree = reader.restore(folder / "tree")
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(x).tobytes() for path, x in leaves}


def test_a_checkpoint_that_was_not_finished_is_never_read(tmp_path, monkeypatch):
    tree = {"w": jnp.arange(3.0)}
    ej.checkpoints.save(tmp_path, tree, 1)

    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.rename", dies)
    with pytest.raises(KeyboardInterrupt):
        ej.checkpoints.save(tmp_path, {"w": jnp.zeros(3)}, 2)
    assert ej.checkpoints.steps(tmp_path) == [1]
    assert same(ej.checkpoints.restore(tmp_path, tree), tree)


# -- experiments by name ---------------------------------------------------------------------------


@pytest.mark.slow
def test_the_reduced_evidence_task_is_learned_in_the_settings_that_are_shipped():
    """float32, as a user runs it; benchmarks/published.py has the published one."""
    code = (
        "from eprop_jax import training\n"
        "from eprop_jax.cli import experiments\n"
        "s = experiments.settings('evidence-small', rule='eprop', feedback='random', steps=300)\n"
        "e = experiments.experiment(s)\n"
        "look = training.evaluator(e.rule, e.sampler, metrics=e.metrics, batches=4)\n"
        "run = training.fit(e.trainer, experiments.start(e), s.steps, every=20, evaluate=look,\n"
        "                   stop=lambda row: row['test_error'] < 0.1, progress=False)\n"
        "print(run.stopped, [round(row['test_error'], 3) for row in run.rows])\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.stdout.startswith("True"), done.stdout + done.stderr


def test_published_settings():
    s = experiments.settings("evidence")
    cell = experiments.network(s).cell
    assert (s.units, s.batch, s.learning_rate, s.optimizer) == (100, 64, 5e-3, "adam")
    beta = 1.7 * (1 - np.exp(-1 / 2000)) / (1 - np.exp(-1 / 20))
    assert cell.constants["beta"].tolist() == pytest.approx([0.0] * 50 + [beta] * 50)
    assert cell.constants["v_th"].tolist() == [0.6] * 100
    s = experiments.settings("pattern")
    assert (s.units, s.batch, s.learning_rate, s.optimizer) == (100, 1, 1e-4, "sgd")
    params = experiments.start(experiments.experiment(s)).params
    assert sorted(params["cell"]) == ["w_in", "w_rec"]
    assert float(jnp.max(jnp.abs(jnp.diag(params["cell"]["w_rec"])))) == 0


def test_real_data_are_tested_on_what_is_not_trained_on():
    for task in ("digits", "vowels"):
        e = experiments.experiment(experiments.settings(task, units=4, batch=64))
        batch = lambda sampler: np.asarray(sampler(jax.random.key(0))[0], np.float32)
        of = lambda xs: {xs[:, b].tobytes() for b in range(64)}
        assert len(of(batch(e.sampler)) & of(batch(e.test_sampler))) == 0
        assert len(of(batch(e.sampler)) & of(batch(e.sampler))) > 32


@pytest.mark.parametrize("task", experiments.TASKS)
@pytest.mark.parametrize("rule", ["bptt", "eprop"])
def test_every_task_fits_its_network(task, rule):
    """Shapes alone: one update is traced, not run."""
    s = experiments.settings(task, rule=rule, units=4, batch=2)
    with jax.numpy_dtype_promotion("standard"):  # optax.adam's step count
        e = experiments.experiment(s)
        _, log = jax.eval_shape(lambda: e.trainer.run(experiments.start(e), 1))
    assert log["loss"].shape == (1,) and set(PROBLEM_METRICS[task]) <= set(log)


PROBLEM_METRICS = {task: experiments.PROBLEMS[task].metrics for task in experiments.TASKS}


def test_accuracy_takes_the_class_where_it_is_weighed():
    """A label beside weight 0 is padding, whatever number it is."""
    outputs = jnp.array([[[0.0, 9.0, 0.0]], [[5.0, 0.0, 1.0]]])
    ys = jnp.array([[2], [0]]), jnp.array([[0.0], [1.0]])
    assert float(training.accuracy(outputs, ys)) == 1.0
    assert float(training.accuracy(outputs, (ys[0][::-1], ys[1]))) == 0.0
