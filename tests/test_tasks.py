"""The tasks and encodings: shapes, rates, what is asked and when, and that e-prop learns one."""

import inspect
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import eprop_jax as ej
from eprop_jax import encodings, tasks

KEY = jax.random.key(3)
SHORT = dict(cue=20, gap=10, delay=30, recall=20)
"""of the cue tasks, in ms"""

SMALL = {
    "evidence": (tasks.evidence_accumulation(n_cues=3, **SHORT), (140, 40)),
    "xor": (tasks.delayed_xor(**SHORT), (110, 40)),
    "store-recall": (tasks.store_recall(n_symbols=6, symbol=10, group=3), (60, 12)),
    "copy": (tasks.copy_memory(n_symbols=4, length=3, delay=6), (12, 6)),
    "digit rows": (tasks.sequential_digits(steps_each=2), (16, 8)),
    "digit pixels": (tasks.sequential_digits("pixel", part="test"), (64, 1)),
    "vowels": (tasks.vowel_speakers(), (26, 12)),
    "last vowel": (tasks.vowel_speakers(part="test", named="last"), (29, 12)),
    "pattern": (tasks.pattern_generation(KEY, n_in=5, n_out=2, duration=50), (50, 5)),
}
COMPILED = {name: jax.jit(task, static_argnums=1) for name, (task, _) in SMALL.items()}
FROZEN = "pattern"
CLASSED = [name for name in SMALL if name != FROZEN]


def draw(task, batch):
    """As one program: eagerly, each operation would be compiled by itself."""
    return jax.tree.map(np.asarray, jax.jit(task, static_argnums=1)(KEY, batch))


def leaves_equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


# -- what every task promises ----------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_shapes_dtypes_and_determinism(name):
    sample, (T, n_in) = COMPILED[name], SMALL[name][1]
    xs, ys = sample(KEY, 4)
    assert xs.shape == (T, 4, n_in) and jnp.issubdtype(xs.dtype, jnp.floating)
    assert all(y.shape[:2] == (T, 4) for y in jax.tree.leaves(ys))
    assert np.all(np.isfinite(xs))
    assert leaves_equal((xs, ys), sample(KEY, 4))
    other = sample(jax.random.key(4), 4)
    assert leaves_equal((xs, ys), other) == (name == FROZEN)


@pytest.mark.parametrize("name", SMALL)
def test_vmap_over_keys_gives_what_single_keys_give(name):
    keys = jax.random.split(KEY, 2)
    both = jax.vmap(lambda k: COMPILED[name](k, 4))(keys)
    assert leaves_equal(jax.tree.map(lambda x: x[1], both), COMPILED[name](keys[1], 4))


@pytest.mark.parametrize("name", ["xor", "digit rows"])
def test_compiled_or_not_is_the_same(name):
    assert leaves_equal(SMALL[name][0](KEY, 4), COMPILED[name](KEY, 4))


@pytest.mark.parametrize("name", CLASSED)
def test_weights_sum_to_one_and_classes_are_integers(name):
    _, (target, weight) = COMPILED[name](KEY, 4)
    assert jnp.issubdtype(target.dtype, jnp.integer) and int(target.min()) >= 0
    assert jnp.issubdtype(weight.dtype, jnp.floating) and float(weight.min()) >= 0
    assert np.allclose(np.asarray(weight).sum(0), 1, atol=1e-6)


@pytest.mark.parametrize("name", ["evidence", "store-recall", "vowels", "pattern"])
def test_a_rule_takes_the_targets_as_they_come(name):
    xs, ys = COMPILED[name](KEY, 4)
    n_in = xs.shape[-1]
    n_out = ys.shape[-1] if name == FROZEN else int(ys[0].max()) + 2
    loss = (
        ej.losses.squared_error
        if name == FROZEN
        else ej.losses.masked(ej.losses.softmax_cross_entropy)
    )
    net = ej.Network(ej.cells.rnn(n_in, 5), ej.readouts.linear(5, n_out))
    gradient = jax.jit(ej.value_and_grad(ej.eprop(net, loss)))
    value, grads = gradient(net.init(KEY), xs, ys)
    assert np.isfinite(value) and float(value) > 0
    assert float(jnp.sum(jnp.abs(grads["cell"]["w_in"]))) > 0


def test_chance_is_the_logarithm_of_the_number_of_classes():
    loss = ej.losses.masked(ej.losses.softmax_cross_entropy)
    for name, n in (("evidence", 2), ("store-recall", 2), ("copy", 4), ("digit rows", 10)):
        each = jax.vmap(jax.vmap(lambda y, w, n=n: loss(jnp.zeros(n), (y, w))))
        _, (target, weight) = COMPILED[name](KEY, 4)
        assert np.allclose(jax.jit(each)(target, weight).sum(0), np.log(n))


# -- pattern generation ----------------------------------------------------------------------------


def test_pattern_generation_as_published():
    xs, ys = draw(tasks.pattern_generation(KEY), 2)
    assert xs.shape == (1000, 2, 100) and ys.shape == (1000, 2, 1)
    assert float(xs.mean()) == pytest.approx(0.05, abs=0.003)  # 50 Hz
    assert leaves_equal(xs[:, 0], xs[:, 1])
    assert float(ys[0, 0, 0]) == 0 and float(jnp.max(jnp.abs(ys))) == pytest.approx(1)
    # Four sinusoids and a constant explain all of it.
    t = np.arange(1000)[:, None] / np.array([1000.0, 500.0, 333.0, 200.0])
    basis = np.concatenate([np.sin(2 * np.pi * t), np.cos(2 * np.pi * t), np.ones((1000, 1))], 1)
    fit, *_ = np.linalg.lstsq(basis, np.asarray(ys[:, 0]), rcond=None)
    assert np.allclose(basis @ fit, ys[:, 0], atol=1e-9)
    assert np.all(np.hypot(fit[:4], fit[4:8]) > 0.05)


def test_patterns_differ_by_key_also_when_it_is_traced():
    def made(key):
        return tasks.pattern_generation(key, n_in=4, duration=40)(KEY, 1)

    keys = jax.random.split(KEY, 2)
    xs, ys = jax.vmap(made)(keys)
    assert not leaves_equal(xs[0], xs[1]) and not leaves_equal(ys[0], ys[1])
    assert leaves_equal(jax.tree.map(lambda x: x[1], (xs, ys)), made(keys[1]))


def test_a_finer_step_shows_the_same_curve():
    coarse = draw(tasks.pattern_generation(KEY, n_in=2), 1)[1]
    fine = draw(tasks.pattern_generation(KEY, n_in=2, dt=0.5), 1)[1]
    assert fine.shape[0] == 2000
    assert np.allclose(fine[::2], coarse, atol=1e-3)  # the maximum falls between coarse steps


# -- cues ------------------------------------------------------------------------------------------


def test_evidence_accumulation_as_published():
    xs, (side, weight) = draw(tasks.evidence_accumulation(), 32)
    assert xs.shape == (2250, 32, 40)
    assert set(np.unique(xs)) == {0.0, 1.0}
    assert np.array_equal(np.asarray(weight[:, 0]) > 0, np.arange(2250) >= 2100)
    rate = 1000 * np.asarray(xs).reshape(2250, 32, 4, 10).mean(3)
    left, right, recall, noise = np.moveaxis(rate, 2, 0)
    assert noise.mean() == pytest.approx(10, rel=0.05)
    assert recall[2100:].mean() == pytest.approx(40, rel=0.05) and recall[:2100].max() == 0
    assert left[1050:].max() == 0 == right[1050:].max()  # the delay
    slots = (left + right)[:1050].reshape(7, 150, 32)
    assert slots[:, :50].max() == 0
    assert slots[:, 50:].mean() == pytest.approx(40, rel=0.05)
    # Each cue is on one side, and the class is the side of most.
    by_cue = np.stack([x[:1050].reshape(7, 150, 32).sum(1) for x in (left, right)])
    assert np.all((by_cue > 0).sum(0) == 1)
    assert np.array_equal((by_cue[1] > 0).sum(0) > 3, np.asarray(side[-1]) == 1)
    assert np.array_equal(side, np.broadcast_to(side[-1], side.shape))


def test_cues_favour_a_side_and_sides_are_balanced():
    task = tasks.evidence_accumulation(
        n_cues=7, cue=10, gap=0, delay=0, recall=1, group=1, rate=1000
    )
    xs, (side, _) = draw(task, 2000)
    right = np.asarray(xs[:70:10, :, 1])
    assert np.array_equal(right.sum(0) > 3, np.asarray(side[0]) == 1)
    assert float(np.mean(side)) == pytest.approx(0.5, abs=0.05)
    assert right.mean() == pytest.approx(0.5, abs=0.05)
    # E|right − left| of seven cues with p = 0.7 is 3.18; of fair ones it would be 2.19.
    mean = sum(math.comb(7, j) * 0.7**j * 0.3 ** (7 - j) * abs(2 * j - 7) for j in range(8))
    assert np.abs(2 * right.sum(0) - 7).mean() == pytest.approx(mean, abs=0.15)


def test_a_coarser_step_keeps_the_trial():
    xs, (_, weight) = draw(tasks.evidence_accumulation(dt=5.0), 16)
    assert xs.shape[0] == 450 and int((weight[:, 0] > 0).sum()) == 30
    assert float(xs[..., 30:].mean()) == pytest.approx(0.05, rel=0.1)  # 10 Hz · 5 ms


def test_xor_truth_table():
    task = tasks.delayed_xor(cue=2, gap=1, delay=3, recall=2, group=1, rate=1000, noise_rate=0)
    xs, (xor, weight) = draw(task, 400)
    assert xs.shape == (11, 400, 4)
    bits = np.asarray(xs[[1, 4], :, 1]).astype(int)
    assert np.array_equal(bits, 1 - np.asarray(xs[[1, 4], :, 0]).astype(int))
    assert np.array_equal(bits[0] ^ bits[1], xor[-1])
    assert {tuple(b) for b in bits.T} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert float(xor[-1].mean()) == pytest.approx(0.5, abs=0.08)
    for b in bits:  # neither bit alone says anything
        assert abs(np.corrcoef(b, np.asarray(xor[-1]))[0, 1]) < 0.15
    assert np.all(xs[6:9] == 0) and np.all(xs[9:, :, 2] == 1)
    assert np.array_equal(weight[:, 0] > 0, np.arange(11) >= 9)


def test_the_delay_lengthens_the_trial():
    for delay in (0, 40, 400):
        xs, _ = draw(tasks.delayed_xor(cue=10, gap=0, delay=delay, recall=10), 1)
        assert xs.shape[0] == 30 + delay


def test_store_recall_names_the_bit_last_stored():
    task = tasks.store_recall(n_symbols=12, symbol=1, mean_delay=3, group=1, rate=1000)
    xs, (bit, weight) = draw(task, 300)
    zero, one, store, recall = np.moveaxis(xs, 2, 0).astype(bool)
    assert np.array_equal(recall, weight > 0)
    assert np.all(zero ^ one ^ recall)
    delays = []
    for b in range(300):
        stored, since = None, None
        for t in range(12):
            if store[t, b]:
                assert since is None
                stored, since = one[t, b], t
            if recall[t, b]:
                assert stored is not None and bit[t, b] == stored
                delays.append(t - since)
                since = None
        assert since is None and recall[:, b].any()
    assert min(delays) == 1 and max(delays) > 6
    assert np.mean(bit[recall]) == pytest.approx(0.5, abs=0.06)


def test_mean_delay_dials_the_memory_demand():
    # In a long sequence the end matters little: stores and recalls alternate, mean_delay + 1 apart.
    for mean_delay in (0.0, 2.0, 6.0):
        task = tasks.store_recall(
            n_symbols=400, symbol=1, mean_delay=mean_delay, group=1, rate=1000
        )
        xs, _ = draw(task, 20)
        commands = float(xs[..., 2:].sum()) / (400 * 20)
        assert commands == pytest.approx(1 / (1 + mean_delay), rel=0.08)


def test_store_recall_as_published():
    xs, _ = draw(tasks.store_recall(), 4)
    assert xs.shape == (2400, 4, 100)
    active = np.asarray(xs).reshape(12, 200, 4, 4, 25).mean((1, 4))
    assert active[active > 0].mean() == pytest.approx(0.05, rel=0.05)  # 50 Hz


# -- copy ------------------------------------------------------------------------------------------


def test_copy_memory_asks_for_what_was_shown():
    xs, (symbol, weight) = draw(tasks.copy_memory(), 200)
    assert xs.shape == (120, 200, 10)
    seen = np.asarray(xs).argmax(-1)
    assert np.all(np.asarray(xs).sum(-1) == 1)
    assert np.array_equal(seen[:10], symbol[-10:])
    assert np.all(seen[109] == 9) and np.all(np.delete(seen[10:], 99, axis=0) == 8)
    assert np.array_equal(weight[:, 0] > 0, np.arange(120) >= 110)
    share = np.bincount(np.asarray(symbol[-10:]).ravel(), minlength=8) / 2000
    assert np.allclose(share, 1 / 8, atol=0.03)


# -- real sequences --------------------------------------------------------------------------------


def test_pixels_are_the_rows_read_one_by_one():
    data = tasks.digits()
    images, labels = jnp.asarray(data.test_images[:3]), jnp.asarray(data.test_labels[:3])
    xs, (named, weight) = tasks.pixel_by_pixel(images, labels, steps_a_pixel=2)
    assert xs.shape == (128, 3, 1)
    assert np.array_equal(xs[::2, :, 0].T.reshape(3, 8, 8), images)
    assert np.array_equal(named[-1], labels) and np.all(weight[-2:] == 0.5)
    assert np.all(weight[:-2] == 0)


def test_sequential_digits_are_digits_of_their_part():
    data = tasks.digits()
    xs, (label, _) = draw(tasks.sequential_digits(part="test"), 20)
    known = {image.tobytes(): int(k) for image, k in zip(data.test_images, data.test_labels)}
    for b in range(20):
        assert known[np.asarray(xs[:, b]).tobytes()] == int(label[0, b])


def test_japanese_vowels_are_those_of_the_source():
    data = tasks.japanese_vowels()
    assert data.train_frames.shape == (270, 26, 12) and data.test_frames.shape == (370, 29, 12)
    assert np.array_equal(np.bincount(data.train_speakers), np.full(9, 30))
    assert np.array_equal(np.bincount(data.test_speakers), [31, 35, 88, 44, 29, 24, 40, 50, 29])
    for frames, lengths in (data[:2], data[3:5]):
        assert lengths.min() == 7 and lengths.max() == frames.shape[1]
        past = np.arange(frames.shape[1]) >= lengths[:, None]
        assert np.all(frames[past] == 0) and np.all(np.any(frames[~past] != 0, -1))


def test_utterances_count_only_their_own_frames():
    data = tasks.japanese_vowels()
    for named, counted in (("throughout", data.test_lengths), ("last", np.ones(370))):
        xs, (speaker, weight) = tasks.utterances(*data[3:], named=named)
        weight = np.asarray(weight)
        assert np.array_equal((weight > 0).sum(0), counted)
        assert np.allclose(weight.sum(0), 1, atol=1e-6)
        assert np.array_equal(xs[:, 5], data.test_frames[5])
        assert np.array_equal(speaker[0], data.test_speakers)
        last = weight.shape[0] - 1 - (weight[::-1] > 0).argmax(0)
        assert np.array_equal(last, data.test_lengths - 1)


def test_data_are_cited():
    text = (pathlib.Path(ej.__file__).parent / "data" / "README.md").read_text()
    for said in ("CC BY 4.0", "Kudo", "Toyama", "Shimbo", "10.24432/C5NS47", "Alpaydin",
                 "10.24432/C50P49", "japanese_vowels.npz", "digits.npz"):  # fmt: skip
        assert said in text


# -- encodings -------------------------------------------------------------------------------------


def test_poisson_spikes_have_their_rate():
    rate = jnp.broadcast_to(jnp.array([0.0, 20.0, 200.0, 1000.0]), (4000, 4))
    spikes = encodings.poisson(KEY, rate)
    assert np.allclose(spikes.mean(0), [0, 0.02, 0.2, 1], atol=0.02)
    half = encodings.poisson(KEY, rate, dt=0.5)
    assert np.allclose(half.mean(0), [0, 0.01, 0.1, 0.5], atol=0.02)
    assert leaves_equal(spikes, jax.jit(encodings.poisson)(KEY, rate))
    assert set(np.unique(spikes)) == {0.0, 1.0} and spikes.dtype == rate.dtype


def test_poisson_clips_what_it_cannot_refuse():
    spikes = jax.jit(encodings.poisson)(KEY, jnp.array([-5.0, 5000.0]))
    assert spikes.tolist() == [0, 1]


def test_population_by_hand():
    x = jnp.array([[0.0, 1.0], [0.25, 0.5]])
    code = encodings.population(x, 3, width=0.5)
    centres = np.array([0, 0.5, 1])
    want = np.exp(-2 * (np.asarray(x)[..., None] - centres) ** 2).reshape(2, 6)
    assert np.allclose(code, want)
    assert np.all(encodings.population(x, 3, width=0.5).argmax(-1) == want.argmax(-1))
    by_default = encodings.population(jnp.array([2.0]), 5, low=0.0, high=4.0)
    assert np.allclose(by_default, np.exp(-0.5 * np.arange(-2, 3) ** 2))


def walk(T=200, shape=(3, 2), step=0.3):
    return jnp.cumsum(step * jax.random.normal(KEY, (T, *shape)), 0)


def test_level_crossings_tell_the_signal_to_within_their_threshold():
    xs = walk()
    events = jax.jit(encodings.level_crossing, static_argnums=1)(xs, 0.1)
    assert events.shape == (200, 3, 4)
    assert np.array_equal(events, np.round(events)) and float(events.min()) == 0
    up, down = jnp.split(events, 2, -1)
    assert not np.any((up > 0) & (down > 0))
    told = encodings.from_crossings(events, 0.1)
    assert np.max(np.abs(told - xs)) <= 0.1 * (1 + 1e-9)


def test_one_event_a_step_is_enough_for_a_slow_signal_and_lags_behind_a_fast_one():
    slow = jnp.sin(jnp.arange(300) / 30)[:, None]
    events = encodings.level_crossing(slow, 0.05, at_most=1)
    assert set(np.unique(events)) == {0.0, 1.0}
    assert np.max(np.abs(encodings.from_crossings(events, 0.05) - slow)) <= 0.05 * (1 + 1e-9)
    jump = jnp.where(jnp.arange(30) < 5, 0.0, 1.0)[:, None]
    told = encodings.from_crossings(encodings.level_crossing(jump, 0.125, at_most=1), 0.125)
    assert np.allclose(told[5:13, 0], np.arange(1, 9) / 8) and np.all(told[13:] == 1)


def test_level_crossing_starts_where_it_is_told():
    xs = walk(50) + 7.0
    events = encodings.level_crossing(xs, 0.2, start=7.0)
    assert float(events[0].max()) < 10
    told = encodings.from_crossings(events, 0.2, start=7.0)
    assert np.max(np.abs(told - xs)) <= 0.2 * (1 + 1e-9)


def test_encodings_take_vmap():
    xs = walk(40)
    by_hand = jnp.stack([encodings.level_crossing(xs[:, b], 0.1) for b in range(3)], 1)
    assert leaves_equal(by_hand, jax.vmap(lambda x: encodings.level_crossing(x, 0.1), 1, 1)(xs))
    keys = jax.random.split(KEY, 40)
    assert jax.vmap(encodings.poisson)(keys, jnp.full((40, 3), 100.0)).shape == (40, 3)


# -- refusals --------------------------------------------------------------------------------------

ev, xor, sr = tasks.evidence_accumulation, tasks.delayed_xor, tasks.store_recall
pattern, copy = tasks.pattern_generation, tasks.copy_memory
X = jnp.zeros((4, 3))
IMAGES, LABELS = jnp.zeros((2, 8, 8)), jnp.zeros(2, int)
FRAMES = jnp.zeros((2, 5, 12))


@pytest.mark.parametrize(
    "call, error, match",
    [
        (lambda: ev(n_cues=4), ValueError, r"n_cues: got 4, wanted an odd"),
        (lambda: ev(n_cues=2.0), TypeError, r"n_cues: got 2\.0"),
        (lambda: ev(cue=0), ValueError, r"cue: got 0 ms, wanted a multiple of dt=1\.0 ms and >="),
        (lambda: ev(delay=10.5), ValueError, r"delay: got 10\.5 ms, wanted a multiple of dt"),
        (lambda: ev(delay=-1), ValueError, r"delay: got -1 ms"),
        (lambda: ev(gap="50"), TypeError, r"gap: got '50'"),
        (lambda: ev(gap=[50.0]), TypeError, r"gap: got \[50\.0\], wanted one number"),
        (lambda: ev(recall=0), ValueError, r"recall: got 0 ms"),
        (lambda: ev(dt=0), ValueError, r"dt: got 0 ms"),
        (lambda: ev(rate=1001), ValueError, r"rate: got 1001 Hz, wanted from 0 to 1000\.0"),
        (lambda: ev(noise_rate=-1), ValueError, r"noise_rate: got -1 Hz"),
        (lambda: ev(p_favoured=0.3), ValueError, r"p_favoured: got 0\.3, wanted .* 0\.5 to 1"),
        (lambda: ev(group=0), ValueError, r"group: got 0"),
        (lambda: ev()(KEY, 0), ValueError, r"batch: got 0"),
        (lambda: xor(delay=float("nan")), ValueError, r"delay: got nan"),
        (lambda: xor()(KEY, 2.5), TypeError, r"batch: got 2\.5"),
        (lambda: sr(n_symbols=1), ValueError, r"n_symbols: got 1"),
        (lambda: sr(mean_delay=-1), ValueError, r"mean_delay: got -1"),
        (lambda: sr(symbol=0), ValueError, r"symbol: got 0 ms"),
        (lambda: sr()(KEY, -1), ValueError, r"batch: got -1"),
        (lambda: pattern(periods=()), ValueError, r"periods: got \(\)"),
        (lambda: pattern(periods=(100.0, 0.0)), ValueError, r"periods: got"),
        (lambda: pattern(duration=0.5), ValueError, r"duration: got 0\.5 ms"),
        (lambda: pattern(n_out=0), ValueError, r"n_out: got 0"),
        (lambda: pattern()(KEY, 0), ValueError, r"batch: got 0"),
        (lambda: copy(n_symbols=1), ValueError, r"n_symbols: got 1"),
        (lambda: copy(delay=0), ValueError, r"delay: got 0"),
        (lambda: copy()(KEY, 0), ValueError, r"batch: got 0"),
        (lambda: tasks.sequential_digits("column"), ValueError, r"by: got 'column'"),
        (lambda: tasks.sequential_digits(part="all"), ValueError, r"part: got 'all'"),
        (lambda: tasks.sequential_digits(steps_each=0), ValueError, r"steps_each: got 0"),
        (lambda: tasks.pixel_by_pixel(IMAGES[0], LABELS), ValueError, r"images: got shape"),
        (lambda: tasks.pixel_by_pixel(IMAGES, LABELS[:1]), ValueError, r"labels: got shape"),
        (lambda: tasks.vowel_speakers(part="dev"), ValueError, r"part: got 'dev'"),
        (lambda: tasks.vowel_speakers(named="first"), ValueError, r"named: got 'first'"),
        (lambda: tasks.utterances(FRAMES[0], LABELS, LABELS), ValueError, r"frames: got shape"),
        (lambda: tasks.utterances(FRAMES, LABELS[:1], LABELS), ValueError, r"lengths: got shape"),
        (lambda: tasks.utterances(FRAMES, LABELS, LABELS), ValueError, r"lengths: got \[0 0\]"),
        (lambda: tasks.utterances(FRAMES, LABELS + 6, LABELS), ValueError, r"lengths: .* T=5"),
        (lambda: tasks.batches(KEY, 3, 4, 1), ValueError, r"size: got 4, wanted at most n=3"),
        (lambda: encodings.poisson(KEY, X - 1), ValueError, r"rate: got"),
        (lambda: encodings.poisson(KEY, X + 2000), ValueError, r"rate: got up to 2000"),
        (lambda: encodings.poisson(KEY, X, dt=0), ValueError, r"dt: got 0"),
        (lambda: encodings.poisson(KEY, np.zeros(3, complex)), TypeError, r"rate: got dtype complex"),
        (lambda: encodings.population(X, 1), ValueError, r"n_units: got 1"),
        (lambda: encodings.population(X, 3, 1, 1), ValueError, r"low: got 1, wanted less than"),
        (lambda: encodings.population(X, 3, width=0), ValueError, r"width: got 0"),
        (lambda: encodings.population(1.0, 3), ValueError, r"x: got a number"),
        (lambda: encodings.level_crossing(X, 0.0), ValueError, r"threshold: got 0\.0"),
        (lambda: encodings.level_crossing(X[0], 1.0), ValueError, r"xs: got shape \[3\]"),
        (lambda: encodings.level_crossing(X, 1.0, at_most=0), ValueError, r"at_most: got 0"),
        (lambda: encodings.from_crossings(X, 1.0), ValueError, r"events: got shape \[4, 3\]"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(call, error, match):
    with pytest.raises(error, match=match):
        call()


def documented():
    for module, names in ((tasks, tasks.__all__), (encodings, dir(encodings))):
        for name in names:
            value = getattr(module, name)
            own = getattr(value, "__module__", "").startswith(("eprop_jax.tasks", "eprop_jax.enc"))
            if inspect.isfunction(value) and own and not name.startswith("_"):
                yield pytest.param(value, id=name)


@pytest.mark.parametrize("function", list(documented()))
def test_public_functions_say_what_they_return_and_refuse(function):
    doc = inspect.getdoc(function)
    assert "Raises:" in doc and ">>>" in doc


# -- learning --------------------------------------------------------------------------------------


def test_eprop_learns_to_weigh_evidence():
    task = tasks.evidence_accumulation(
        n_cues=3, cue=10, gap=5, delay=25, recall=10, group=4, rate=300, noise_rate=20
    )
    cell = ej.cells.alif(16, 24, tau_m=10.0, tau_a=100.0, v_th=0.6)
    net = ej.Network(cell, ej.readouts.leaky(24, 2, tau=10.0))
    loss = ej.losses.masked(ej.losses.softmax_cross_entropy)
    gradient = ej.value_and_grad(ej.eprop(net, loss))
    adam = optax.adam(1e-2)

    @jax.jit
    def train(params, keys):
        def update(state, key):
            params, opt_state = state
            value, grads = gradient(params, *task(key, 32))
            with jax.numpy_dtype_promotion("standard"):  # optax's own arithmetic
                changes, opt_state = adam.update(grads, opt_state, params)
            return (optax.apply_updates(params, changes), opt_state), value

        return jax.lax.scan(update, (params, adam.init(params)), keys)[1]

    losses = train(net.init(KEY), jax.random.split(KEY, 100))
    assert float(losses[:5].mean()) > 0.6
    assert float(losses[-20:].mean()) < 0.3
