"""The streaming benchmark, short: a target that changes, the carry's size, and float32's traces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import stream

STEPS, BLOCK = 20_000, 1000


@pytest.fixture(scope="module")
def rows():
    source = stream.Stream(jax.random.key(1), change=STEPS // 2, cues=0.3)
    with jax.numpy_dtype_promotion("standard"):  # optax.adam needs it
        return stream.follow(stream.RULES["e-prop"], source, STEPS, units=16, every=20, block=BLOCK)


def column(rows, name):
    return np.array([row[name] for row in rows if name in row])


def test_the_learner_follows_the_change(rows):
    before, after = np.split(column(rows, "error"), 2)
    assert before[0] > 0.5 and before[-1] < 0.05
    assert after[0] > 10 * before[-1]
    assert after[-1] < 0.05
    frozen = column(rows, "frozen")
    assert len(frozen) == 10 and frozen.min() > 1.0  # the same network goes on saying what A left


def test_the_carry_does_not_grow(rows):
    assert len(set(column(rows, "carry kB"))) == 1


def test_traces_stay_near_those_of_float64(rows):
    for name in ("trace error", "state error"):
        error = column(rows, name)
        assert error.max() < 1e-5
        assert error.min() > 1e-9  # it is float32 that is compared


def test_the_largest_error_is_that_of_the_worst_array():
    wanted = [jnp.ones(1000), jnp.full(3, 1e-6)]
    got = [jnp.ones(1000, jnp.float32), jnp.full(3, 1.01e-6, jnp.float32)]
    assert float(stream.worst(got, wanted)) == pytest.approx(0.01, rel=1e-4)


def test_the_target_is_the_value_at_the_last_cue_however_the_stream_is_cut():
    source = stream.Stream(jax.random.key(2), change=30, cues=0.2)
    part = jax.jit(source.part, static_argnums=2)
    xs, ys, held = part(jnp.zeros(2, jnp.float32), jnp.int32(0), 60)
    last = [0.0, 0.0]
    for t, (value, *fires) in enumerate(np.asarray(xs)):
        last = [value if fire else old for fire, old in zip(fires, last)]
        assert float(ys[t, 0]) == last[int(t >= 30)]
    assert held.tolist() == last
    parts, held = [], jnp.zeros(2, jnp.float32)
    for start in (0, 20, 40):
        part_xs, part_ys, held = part(held, jnp.int32(start), 20)
        parts.append((part_xs, part_ys))
    cut_xs, cut_ys = (jnp.concatenate(p) for p in zip(*parts))
    assert jnp.array_equal(cut_xs, xs) and jnp.array_equal(cut_ys, ys)
