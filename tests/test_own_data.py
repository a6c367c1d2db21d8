"""Data of one's own: arrays, iterables of batches, events, and what a trained network says of them."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pace import quick

import eprop_jax as ej
from eprop_jax import training

KEY = jax.random.key(3)
LOSS = ej.losses.masked(ej.losses.softmax_cross_entropy)
NET = ej.Network(ej.cells.gru(2, 5, gain_rec=1.5), ej.readouts.leaky(5, 3, tau=4.0))
RULE = ej.eprop(NET, LOSS)
SGD = optax.sgd(0.3, momentum=0.9)


def examples(N, T, F=2, seed=0):
    """Arrays, lengths, and in each example its own number."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(N, T, F))
    X[:, 0, 0] = np.arange(N)
    return X, rng.integers(0, 3, N), rng.integers(1, T + 1, N)


def equal(a, b):
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def distance(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(jnp.max(jnp.abs(x - y))) for x, y in pairs)


# -- arrays as sequences ---------------------------------------------------------------------------

# Of one shape: each further one is compiled anew.
N, T = 7, 6
ends = st.lists(st.integers(1, T), min_size=N, max_size=N).map(np.array)


@given(ends, st.sampled_from(["throughout", "last"]))
def test_masks_and_weights_tell_the_lengths(lengths, named):
    X, y, _ = examples(N, T)
    xs, (target, weight), mask = ej.tasks.sequences(X, y, lengths, named=named)
    assert mask.dtype == bool and np.array_equal(mask.sum(0), lengths)
    assert np.array_equal(mask, np.arange(T)[:, None] < lengths)
    weight = np.asarray(weight)
    assert np.allclose(weight.sum(0), 1)
    assert np.array_equal(
        weight > 0, mask if named == "throughout" else np.arange(T)[:, None] == lengths - 1
    )
    for n in range(N):
        assert np.array_equal(xs[: lengths[n], n], X[n, : lengths[n]])
        assert np.all(xs[lengths[n] :, n] == 0)
        assert np.all(target[: lengths[n], n] == y[n])


TARGETS = {
    "class": lambda rng, N, T: rng.integers(0, 3, N),
    "class a step": lambda rng, N, T: rng.integers(0, 3, (N, T)),
    "real": lambda rng, N, T: rng.normal(size=(N, 3)),
    "real a step": lambda rng, N, T: rng.normal(size=(N, T, 3)),
}


@pytest.mark.parametrize("kind", quick(TARGETS, "class", "real a step"))
def test_targets_of_each_kind_meet_the_losses_batch_or_time_first(kind):
    X, _, lengths = examples(N, T)
    y = TARGETS[kind](np.random.default_rng(1), N, T)
    xs, (target, weight), mask = ej.tasks.sequences(X, y, lengths)
    for t, n in itertools.product(range(T), range(N)):
        wanted = y[n, t] if "step" in kind else y[n]
        assert np.array_equal(target[t, n], wanted if t < lengths[n] else np.zeros_like(wanted))
    y_first = y.swapaxes(0, 1) if "step" in kind else y
    other = ej.tasks.sequences(X.swapaxes(0, 1), y_first, lengths, batch_major=False)
    assert equal((xs, (target, weight), mask), other)
    data = ej.tasks.from_arrays(X, y, lengths, batch=3)
    first = ej.tasks.from_arrays(X.swapaxes(0, 1), y_first, lengths, batch=3, batch_major=False)
    assert equal(data.draw(KEY, 1), first.draw(KEY, 1))

    step = ej.losses.squared_error if "real" in kind else ej.losses.softmax_cross_entropy
    f = ej.value_and_grad(ej.eprop(NET, ej.losses.masked(step)))
    assert np.isfinite(f(NET.init(KEY), xs, (target, weight), mask=mask)[0])


def test_padding_may_be_anything():
    X, y, lengths = examples(4, 6)
    steps = np.repeat(y[:, None], 6, 1)
    clean = ej.tasks.sequences(X, steps, lengths)
    for n, length in enumerate(lengths):
        X[n, length:], steps[n, length:] = np.nan, -100
    assert equal(clean, ej.tasks.sequences(X, steps, lengths))
    data = ej.tasks.from_arrays(X, steps, lengths, batch=2)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(data.draw(KEY, 0)))


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "bool"])
def test_dtypes_stay(dtype):
    X = np.ones((3, 4, 2), dtype)
    wide = dtype if dtype.startswith("float") else "float64"
    xs, (target, weight), _ = ej.tasks.sequences(X, np.array([0, 1, 2], "uint8"), [4, 2, 1])
    assert xs.dtype == dtype and weight.dtype == wide and jnp.issubdtype(target.dtype, jnp.integer)
    xs, (target, _) = ej.tasks.from_arrays(X, np.ones((3, 2), "float32"), batch=2).draw(KEY, 0)
    assert xs.dtype == dtype and target.dtype == "float32"


# -- epochs ----------------------------------------------------------------------------------------


@functools.cache
def in_turn(N, batch):
    return ej.tasks.from_arrays(*examples(N, 2), batch=batch)


@pytest.mark.parametrize("N, batch", [(12, 3), (10, 4), (5, 5), (1, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_in_an_epoch_each_example_has_its_turn(N, batch, seed):
    _, y, lengths = examples(N, 2)
    data, key = in_turn(N, batch), jax.random.key(seed)
    assert data.batches == N // batch
    epochs = []
    for epoch in range(2):
        seen = []
        for b in range(data.batches):
            xs, (target, _), mask = data.draw(key, epoch * data.batches + b)
            who = np.asarray(xs[0, :, 0]).astype(int)
            assert np.array_equal(mask.sum(0), lengths[who]) and np.array_equal(target[0], y[who])
            seen += who.tolist()
        assert len(seen) == len(set(seen)) == N // batch * batch
        epochs.append(seen)
    if N % batch == 0:
        assert sorted(epochs[0]) == list(range(N))


def test_the_order_follows_from_the_key_and_the_epoch():
    X, y, _ = examples(40, 2)
    data = ej.tasks.from_arrays(X, y, batch=20)
    who = lambda key, u: np.asarray(data.draw(key, u)[0][0, :, 0]).astype(int).tolist()
    assert who(KEY, 3) == who(KEY, 3)
    assert len({tuple(who(key, u)) for key in jax.random.split(KEY, 3) for u in range(6)}) == 18


def test_seeds_draw_at_once_what_each_draws_alone():
    data, keys = in_turn(10, 4), jax.random.split(KEY, 3)
    together = jax.jit(jax.vmap(data.draw, (0, None)))(keys, 3)
    for i, key in enumerate(keys):
        assert equal(jax.tree.map(lambda x: x[i], together), data.draw(key, 3))


def test_an_array_that_changes_later_changes_nothing():
    X, y, _ = examples(4, 2)
    data = ej.tasks.from_arrays(X, y, batch=4)
    before = data.draw(KEY, 0)
    X[:], y[:] = 0, 0
    assert equal(before, data.draw(KEY, 0))


def test_training_on_arrays_is_the_loop_one_would_write_and_goes_on_where_it_was_cut():
    X, y, lengths = examples(9, 5)
    data = ej.tasks.from_arrays(X, y, lengths, batch=4)
    params = NET.init(jax.random.key(0))
    rule = ej.eprop(NET, LOSS, activity_loss=ej.losses.firing_rate(0.3, strength=2.0))
    state, log = ej.train(rule, SGD, params, data, 5, key=KEY)

    gradient, p, opt_state = ej.value_and_grad(rule, has_aux=True), params, SGD.init(params)
    for u in range(5):
        xs, ys, mask = data.draw(KEY, u)
        (loss, aux), grads = gradient(p, xs, ys, mask=mask)
        assert float(log["loss"][u]) == pytest.approx(float(loss))
        rate = np.asarray(aux.activity)[np.asarray(mask)].mean()
        assert float(log["rate"][u]) == pytest.approx(rate)
        changes, opt_state = SGD.update(grads, opt_state, p)
        p = optax.apply_updates(p, changes)
    assert distance(state.params, p) < 1e-12

    t = training.trainer(rule, SGD, data)
    half, _ = t.run(t.init(params, KEY), 2)
    assert equal(training.trainer(rule, SGD, data).run(half, 3)[0].params, state.params)


def test_stacked_batches_and_samplers_may_have_a_mask():
    X, y, lengths = examples(8, 5)
    data = ej.tasks.from_arrays(X, y, lengths, batch=4)
    drawn = [data.draw(KEY, u) for u in range(2)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *drawn)
    params = NET.init(jax.random.key(0))
    one, _ = ej.train(RULE, SGD, params, stacked, 3)
    two, _ = ej.train(RULE, SGD, params, drawn, 3)
    assert distance(one.params, two.params) < 1e-12
    by_key = lambda key: data.draw(key, 0)
    state, _ = ej.train(RULE, SGD, params, by_key, 1, key=KEY)
    xs, ys, mask = by_key(jax.random.fold_in(KEY, 0))
    _, grads = ej.value_and_grad(RULE)(params, xs, ys, mask=mask)
    assert distance(state.params, jax.tree.map(lambda p, g: p - 0.3 * g, params, grads)) < 1e-12


# -- iterables of batches --------------------------------------------------------------------------


class Tensor:
    """What another library's array shows."""

    def __init__(self, x):
        self.x = x

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.x, dtype)


class Loader:
    """Begins again at every `iter`, and makes lists of pairs, as torch's does."""

    def __init__(self, batches, made=lambda x: x):
        self.batches, self.made, self.begun = batches, made, 0

    def __iter__(self):
        self.begun += 1
        for xs, ys, mask in self.batches:
            yield [self.made(xs), [self.made(y) for y in ys], self.made(mask)]


def batches(count=3, N=4):
    X, y, lengths = examples(N * count, 5)
    found = []
    for b in range(count):
        rows = slice(b * N, (b + 1) * N)
        found.append(ej.tasks.sequences(X[rows], y[rows], lengths[rows]))
    return jax.tree.map(np.array, found)


ITERABLES = {
    "list": lambda found: found,
    "loader": Loader,
    "tensors": lambda found: Loader(found, Tensor),
    "endless": lambda found: itertools.cycle(found),
    "generator": lambda found: (batch for batch in found * 3),
}


@functools.cache
def by_the_stack():
    t = training.trainer(
        RULE, SGD, jax.tree.map(lambda *x: np.stack(x), *batches()),
        metrics={"accuracy": training.accuracy},
    )  # fmt: skip
    return training.fit(t, t.init(NET.init(jax.random.key(0)), KEY), 7, every=2, progress=False)


@pytest.mark.parametrize("kind", quick(ITERABLES, "tensors", "generator"))
def test_any_iterable_of_batches_is_gone_through_in_turn(kind):
    found, params = batches(), NET.init(jax.random.key(0))
    data = ITERABLES[kind](found)
    t = training.trainer(RULE, SGD, data, metrics={"accuracy": training.accuracy})
    run = training.fit(t, t.init(params, KEY), 7, every=2, progress=False)
    wanted = by_the_stack()
    assert distance(run.state.params, wanted.state.params) < 1e-12
    assert set(run.log) == set(wanted.log)
    assert all(np.allclose(run.log[name], wanted.log[name], atol=1e-12) for name in run.log)
    if hasattr(data, "begun"):
        assert data.begun == 3


def test_the_evaluator_reads_an_iterable_from_its_first_batch():
    found, params = batches(), NET.init(jax.random.key(0))
    options = dict(metrics={"accuracy": training.accuracy}, batches=3, cosine=True)
    stacked = jax.tree.map(lambda *x: np.stack(x), *found)
    wanted = training.evaluator(RULE, stacked, **options)(params, KEY)
    look = training.evaluator(RULE, Loader(found), **options)
    for _ in range(2):
        assert distance(look(params, KEY), wanted) < 1e-12


def other(batch, **changed):
    named = dict(zip(("xs", "ys", "mask"), batch))
    return tuple((named | changed).values())


def wrong_batches():
    one, *_ = batches()
    xs, (label, weight), _ = one
    again = [one] * 3
    return {
        "short": (
            [*again, jax.tree.map(lambda x: x[:, :2], one)],
            r"data: batch 3 has xs of shape \[5, 2, 2\], wanted \[5, 4, 2\], as batch 0",
        ),
        "longer": (
            [*again, other(one, ys=(label, weight[:4]))],
            r"data: batch 3 has ys\[1\] of shape \[4, 4\], wanted \[5, 4\], as batch 0",
        ),
        "dtype": (
            [one, other(one, xs=xs.astype("float32"))],
            "data: batch 1 has xs of dtype float32, wanted float64, as batch 0",
        ),
        "no mask": ([one, one[:2]], r"data: batch 1 is .*, wanted .*bool\[5, 4\]\), as batch 0"),
        "a mask of numbers": ([other(one, mask=weight)], "mask: got dtype float64, wanted bool"),
        "alone": ([xs], r"data: batch 0 is ndarray, wanted \(xs, ys\), or \(xs, ys, mask\)"),
        "four": ([(*one, xs)], r"data: batch 0 is tuple of 4, wanted \(xs, ys\)"),
        "a dict": ([{"x": xs}], r"data: batch 0 is dict, wanted \(xs, ys\)"),
        "words": ([(xs, np.array(["a"]))], "data: batch 0 has ys of dtype <U1, wanted numbers"),
        "none": ([], "data: ended after 0 batches, wanted one more$"),
        "ended": (iter(again), "data: ended after 3 batches, wanted one more; .* generator"),
        "network": (
            [other(one, xs=xs[..., :1])],
            r"xs: got shape \[5, 4, 1\], wanted \[T, \*batch, 2\]",
        ),
    }


@pytest.mark.parametrize("what", wrong_batches())
def test_a_batch_that_does_not_fit_is_refused_in_its_own_shapes(what):
    data, words = wrong_batches()[what]
    with pytest.raises((TypeError, ValueError), match=words):
        ej.train(RULE, SGD, NET.init(KEY), data, 5)


def test_an_iterable_is_not_read_within_a_compiled_function():
    found = batches()
    with pytest.raises(TypeError, match=r"data: got an iterable within jax\.jit"):
        jax.jit(lambda p: ej.train(RULE, SGD, p, found, 2))(NET.init(KEY))


def test_of_an_iterable_too_the_first_bad_number_is_named(tmp_path):
    found = batches()
    found[1][0][3, 2, 1] = np.nan
    t = training.trainer(RULE, SGD, (b for b in found * 2))
    with pytest.raises(
        FloatingPointError, match=r"nan at update 1, .*xs: got nan at step 3, example 2"
    ):
        training.fit(
            t, t.init(NET.init(KEY), KEY), 6, every=6, checkpoints=tmp_path, progress=False
        )


def test_one_update_is_compiled():
    traced = []

    def loss(y, target):
        traced.append(y)
        return LOSS(y, target)

    t = training.trainer(ej.eprop(NET, loss), SGD, batches())
    state, _ = t.run(t.init(NET.init(KEY), KEY), 1)
    once = len(traced)
    t.run(t.run(state, 3)[0], 2)
    assert once and len(traced) == once


# -- predict ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", ["throughout", "last"])
def test_predictions_are_what_the_accuracy_compares(named):
    X, y, lengths = examples(23, 6)
    params = NET.init(jax.random.key(1))
    found = ej.predict(NET, params, X, lengths, batch=5, named=named)
    xs, ys, mask = ej.tasks.sequences(X, y, lengths, named=named)
    outputs = NET.apply(params, xs).outputs
    assert np.mean(found.classes == y) == pytest.approx(float(training.accuracy(outputs, ys)))
    assert np.allclose(found.logits, jnp.sum(outputs * ys[1][..., None], 0))
    assert np.allclose(found.outputs, jnp.where(mask[..., None], outputs, 0).swapaxes(0, 1))
    assert 1 < len(set(found.classes.tolist()))


@given(ends, st.sampled_from([1, 3, N, 12]), st.sampled_from([0, 2]))
def test_neither_the_batch_nor_the_padding_changes_a_prediction(lengths, batch, more):
    X, _, _ = examples(N, T)
    params = NET.init(jax.random.key(1))
    found = ej.predict(NET, params, X, lengths)
    padded = np.concatenate([X, np.full((N, more, 2), np.nan)], 1)
    for n, length in enumerate(lengths):
        padded[n, length:] = np.nan
    again = ej.predict(NET, params, padded, lengths, batch=batch)
    assert np.array_equal(found.classes, again.classes)
    assert np.allclose(found.logits, again.logits, atol=1e-12)
    assert np.allclose(found.outputs, again.outputs[:, :T], atol=1e-12)
    assert np.all(again.outputs[:, T:] == 0)
    first = ej.predict(NET, params, X.swapaxes(0, 1), lengths, batch=batch, batch_major=False)
    assert np.array_equal(first.classes, again.classes) and first.outputs.shape == (T, N, 3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_predictions_have_the_dtype_of_the_parameters_and_compile_once(dtype):
    traced = []

    def dynamics(theta, c, a):
        traced.append(a)
        return 0.5 * c + jnp.tanh(a)

    cell = ej.cells.custom(2, 4, state=0.0, dynamics=dynamics, output=lambda theta, c: c)
    net = ej.Network(cell, ej.readouts.linear(4, 3))
    params = jax.tree.map(lambda p: p.astype(dtype), net.init(KEY))
    traced.clear()
    net.apply(params, jnp.ones((6, 4, 2), dtype), mask=jnp.ones((6, 4), bool))
    once = len(traced)
    X, _, lengths = examples(11, 6)
    found = ej.predict(net, params, X.astype(dtype), lengths, batch=4)
    assert once and len(traced) == once
    assert found.logits.dtype == found.outputs.dtype == dtype


# -- events ----------------------------------------------------------------------------------------

events = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 4)), min_size=1)


@given(events, st.sampled_from([0.1, 0.3, 1.0, 2.5]), st.randoms())
def test_events_are_counted_where_they_fall(found, dt, shuffle):
    wanted = np.zeros((12, 5))
    for step, unit in found:
        wanted[step, unit] += 1
    shuffle.shuffle(found)
    within = ej.encodings.from_events(
        np.array([(k + 0.4) * dt for k, _ in found], "float32"), [u for _, u in found], n=5, dt=dt
    )
    last = max(k for k, _ in found)
    assert np.array_equal(within, wanted[: last + 1])


@pytest.mark.parametrize("dt", [0.02, 0.1, 0.3, 2.5])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_event_at_a_steps_start_is_of_that_step(dt, dtype):
    """In decimals: 0.3 / 0.1 is less than 3."""
    steps = np.arange(400)
    t = np.array([round(k * dt, 9) for k in steps], dtype)
    assert np.array_equal(ej.encodings.from_events(t, steps, n=400, dt=dt), np.eye(400))


@given(st.sampled_from(["float16", "float32", "float64"]), st.integers(1, 400))
def test_a_time_before_an_edge_stays_before_it(dtype, k):
    """The last that the dtype tells from it."""
    edge = np.array([k / 256], dtype)  # exact
    before = np.nextafter(edge, 0, dtype=dtype)
    steps = lambda t: len(ej.encodings.from_events(t, [0], n=1, dt=1 / 256)) - 1
    assert steps(edge) == k
    assert steps(before) == (k - 1 if dtype != "float64" else k)  # some units in the last place


def test_no_events_are_no_counts():
    counts = ej.encodings.from_events([], [], n=3, dt=1.0, T=4)
    assert counts.shape == (4, 3) and counts.dtype == "float64" and not counts.any()


# -- learning --------------------------------------------------------------------------------------


def test_a_classifier_of_own_arrays_is_learned():
    """Which of two channels rose first? In noise, of 12 to 20 steps; measured on other examples."""
    rng = np.random.default_rng(0)
    N, T = 400, 20
    y, lengths = rng.integers(0, 2, N), rng.integers(12, T + 1, N)
    X = 0.1 * rng.normal(size=(N, T, 2))
    for n in range(N):
        X[n, rng.integers(0, 4) :, y[n]] += 1
        X[n, rng.integers(6, 10) :, 1 - y[n]] += 1
        X[n, lengths[n] :] = np.nan
    net = ej.Network(ej.cells.gru(2, 12), ej.readouts.linear(12, 2))
    rule = ej.eprop(net, LOSS)
    part = lambda rows: (X[rows], y[rows], lengths[rows])
    data = ej.tasks.from_arrays(*part(slice(300)), batch=30, named="last")
    t = training.trainer(rule, optax.adam(1e-2), data)
    state = t.init(net.init(jax.random.key(0)), KEY)
    with jax.numpy_dtype_promotion("standard"):  # optax needs it
        state = training.fit(t, state, 15 * data.batches, every=50, progress=False).state
    X_new, y_new, lengths_new = part(slice(300, None))
    found = ej.predict(net, state.params, X_new, lengths_new, named="last")
    assert np.mean(found.classes == y_new) > 0.9
