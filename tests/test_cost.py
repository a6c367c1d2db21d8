"""What a step will take, and the chunk that is chosen by it."""

import functools
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import eprop_jax as ej
from eprop_jax.run import rates
from eprop_jax.run.cost import auto_chunk
from eprop_jax.run.rates import Kinds

LOSS = ej.losses.squared_error
ORDER_3 = functools.partial(ej.m_order_eprop, order=3)


def of(make, n=3, cell=ej.cells.lif, n_in=2, dtype="float32"):
    """(rule, shapes of its parameters)."""
    net = ej.Network(cell(n_in, n), ej.readouts.leaky(n, 2))
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    return make(net, LOSS), jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), shapes)


# Three LIF units with two inputs and two leaky read-outs, batch 2: one component and one drive a unit,
# 6 units of both examples, and their h; 9 recurrent weights and 6 of inputs.
FORWARD = 6 * 2
BACK = 6 * 2
LOCAL = 2 * (2 + 3 + 1) + 2 * (6 + 9 + 3)  # ε, one for all units, and γ
DENSE = 2 * 3 * (6 + 9 + 3)  # α
GRADIENT = 2 * (6 + 6 + 9) + 3 * 2 * 3 * 2  # over time: w_in forward, the gradients, the read-out
COUNTED = {
    "e-prop, whole": (
        ej.eprop, None, Kinds(0, 6, FORWARD + BACK + 6, 9, 2 * 9 + GRADIENT, 0, 0)),
    "BPTT": (ej.bptt, None, Kinds(0, 6, FORWARD + BACK + 6, 2 * 9, 2 * 2 * 9 + GRADIENT, 0, 0)),
    "order 3": (
        ORDER_3, None, Kinds(0, 6, FORWARD + 3 * BACK + 6, 3 * 9, 3 * 2 * 9 + GRADIENT, 0, 0)),
    "e-prop, K = 5": (  # a seed of v more, and three passes a chunk
        ej.eprop, 5,
        Kinds(1 / 5, 8, FORWARD + 2 * BACK + 6, 9, 2 * 9 + GRADIENT, LOCAL, 3 * LOCAL / 5)),
    "e-prop, K = 1": (  # no product over time but those of the read-out
        ej.eprop, 1,
        Kinds(1, 6, FORWARD + BACK + 6, 15, 2 * 15 + 36, 0, 4 * LOCAL + 2 * 15)),
    "RTRL, K = 5": (  # five ends: v of each unit, and two read-outs
        ej.rtrl, 5,
        Kinds(1 / 5, 8, FORWARD + 6 * BACK + 6, 2 * 9, 2 * 2 * 9 + 5 * 2 * 9 + GRADIENT,
              5 * 2 * 15 + DENSE * 3 / 5, 0)),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTED)
def test_the_work_of_three_units_by_hand(name):
    make, K, wanted = COUNTED[name]
    assert ej.cost(*of(make), (2,), K).work == pytest.approx(wanted, rel=1e-12)


def test_seconds_are_what_is_done_times_what_one_takes():
    at = Kinds(*(float(f"3e-{k}") for k in range(1, 8)))
    rule, params = of(ej.eprop, 200)
    found = ej.cost(rule, params, (8,), 16, rates=at)
    assert found.seconds == pytest.approx(np.dot(found.work, at), rel=1e-12)
    wide = ej.cost(*of(ej.eprop, 200, dtype="float64"), (8,), 16, rates=at)
    twice = np.array([1, 1, 2, 2, 2, 2, 2]) * at
    assert wide.seconds == pytest.approx(np.dot(wide.work, twice), rel=1e-12)
    # a stack of one layer, of which no path jumps, does what the layer does
    net = ej.Network([ej.cells.lif(3, 5), ej.cells.lif(5, 5)], ej.readouts.leaky(5, 2))
    stack = ej.by_paths(net, LOSS, paths="i*f*")
    one, two = (
        ej.cost(r, jax.eval_shape(r.spec.network.init, jax.random.key(0)), (2,), 8)
        for r in (of(ej.eprop, 5, n_in=3)[0], stack)
    )
    assert one.seconds < two.seconds < 4 * one.seconds


@pytest.mark.parametrize("make, K", [(ej.eprop, 1), (ej.eprop, 64), (ej.bptt, None), (ej.rtrl, 64)])
def test_more_units_examples_and_bytes_take_longer(make, K):
    seconds = lambda n, B, **k: ej.cost(*of(make, n, **k), (B,), K).seconds
    assert seconds(16, 2) < seconds(32, 2) < seconds(64, 2) < seconds(64, 4)
    assert seconds(64, 2) < seconds(64, 2, cell=ej.cells.lstm)
    assert seconds(64, 2) < seconds(64, 2, dtype="float64") < 2 * seconds(64, 2)


def test_orders_take_longer_one_by_one():
    orders = [functools.partial(ej.m_order_eprop, order=m) for m in (1, 2, 4, 8)]
    taken = [ej.cost(*of(make, 64), (4,), None).seconds for make in orders]
    assert taken == sorted(taken) and len(set(taken)) == 4


SIZES = [(8, 1, 5), (8, 16, 8192), (100, 1, 1000), (100, 16, 1000), (300, 4, 1000)]


@pytest.mark.parametrize("make", [ej.eprop, ej.rtrl, ORDER_3])
def test_auto_takes_least_of_what_has_room(make):
    for n, B, T in SIZES:
        args = of(make, n, cell=ej.cells.alif)
        K, at = auto_chunk(*args, (B,), T), lambda K: ej.cost(*args, (B,), K)
        traces = at(1).trace_bytes
        room = max(2 * traces, 2**22) if make is ej.eprop else max(traces, 2**23)
        assert at(K).chunk_bytes <= room or K == 16
        if at(T).chunk_bytes <= room:
            assert K == T
        else:
            parts = (k for k in range(16, T) if T % k == 0 and at(k).chunk_bytes <= room)
            best = min([at(k).seconds for k in parts], default=at(16).seconds)
            assert K < T and at(K).seconds <= 1.05 * best


def test_auto_of_a_sequence_without_parts():
    """A prime number of steps: all chunks but the last have one length, the longest that has room."""
    args = of(ej.eprop, 100, cell=ej.cells.alif)
    K = auto_chunk(*args, (16,), 100_003)
    assert 0.99 * 2**22 < ej.cost(*args, (16,), K).chunk_bytes <= 2**22


def test_auto_of_bptt_is_the_whole_sequence():
    """Shorter chunks would be truncated."""
    assert auto_chunk(*of(ej.bptt, 16), (4,), 10**6) == 10**6


def test_rates_of_a_machine_are_those_known_times_its_yardsticks(monkeypatch):
    known = rates.YARDSTICKS
    monkeypatch.setattr(rates, "yardsticks", lambda: known)
    assert ej.measured_rates() == rates.RATES
    monkeypatch.setattr(
        rates, "yardsticks", lambda: tuple(x * y for x, y in zip(known, (2, 3, 5, 7)))
    )
    found = np.array(ej.measured_rates()) / np.maximum(rates.RATES, 1e-30)
    wanted = np.array([2, 2, 7, 3, 5, 5, 7])
    np.testing.assert_allclose(found, wanted * (np.array(rates.RATES) > 0), rtol=1e-12)
    args = of(ej.eprop, 100, cell=ej.cells.alif)
    assert auto_chunk(*args, (16,), 1000) == auto_chunk(*args, (16,), 1000)


def test_a_machine_is_measured_in_seconds():
    found = ej.measured_rates()
    assert all(0 <= x < 1 for x in found) and max(found) > 0


@pytest.mark.slow
def test_the_model_is_fitted_and_held_out_at_small_sizes(tmp_path):
    code = [sys.executable, "-m", "benchmarks.model", "--small"]
    subprocess.run(code, check=True, env={**os.environ, "BENCH_OUT": str(tmp_path)}, timeout=300)
    rows = json.loads((tmp_path / "model_small.json").read_text())["rows"]
    assert {row["what"] for row in rows} == {"held out", "auto"}
    assert all(row["μs a step"] > 0 and row["predicted"] > 0 for row in rows)
    assert len([*tmp_path.iterdir()]) == 2  # what was measured on the way is there no more


def test_no_case_is_both_fitted_and_held_out():
    from benchmarks import model

    assert len(model.HELD_OUT) == 10
    assert not set(map(str, model.HELD_OUT)) & set(map(str, model.FIT))
    fitted = {size for _, _, size, _ in model.FIT}
    assert not fitted & {size for _, _, size, _ in model.HELD_OUT}  # another size altogether
