"""What a step takes: the model behind `ej.cost(...).seconds` and `chunk="auto"`, fitted, and held out.

    python -m benchmarks.model [--small] [--within SECONDS]

Seconds a step, in float32: what a step does, by kind (`ej.cost(...).work`), times the seconds that
one of each kind takes. These are fitted to other cases than those that are held out here, by
non-negative least squares. Of `auto`, what `chunk="auto"` takes stands beside the best chunk of 32, 64,
128 or 256 steps, whatever memory that needs. Times are the least of several runs; the chunks of one
case are interleaved.
"""

import argparse
import itertools
import json
import math
import time

import jax
import numpy as np
from scipy.optimize import nnls

import eprop_jax as ej
from benchmarks import harness, rules
from eprop_jax.run.cost import auto_chunk
from eprop_jax.run.rates import Kinds, seconds, yardsticks

LOSS = ej.losses.squared_error
MAKE = {
    "e-prop": ej.eprop,
    "BPTT": ej.bptt,
    "order 4": lambda net, loss: ej.m_order_eprop(net, loss, order=4),
    "RTRL": ej.rtrl,
}


def over(*factors):
    return list(itertools.product(*factors))


CELLS = ("lif", "alif", "leaky_rnn", "gru", "lstm")
SIZES = ((32, 1), (128, 1), (64, 8), (256, 4))
# (rule, K), cell, (n, B), T; K is None: the whole sequence
LARGE = [(100, 16), (256, 16), (512, 4), (512, 32)]
FIT = [
    *over([("e-prop", 1), ("e-prop", None)], CELLS, SIZES, [256]),
    *over([("e-prop", 128)], CELLS, SIZES, [512]),
    *over([("e-prop", 32)], ["lif", "alif", "leaky_rnn"], SIZES, [512]),
    *over([("e-prop", 32)], ["gru"], SIZES[:3], [512]),
    *over([("e-prop", 256)], ["alif"], LARGE, [512]),
    *over([("e-prop", 256)], ["lif", "lstm"], [(128, 16)], [1024]),
    (("e-prop", None), "alif", (256, 16), 1024),
    (("e-prop", None), "alif", (512, 32), 256),
    *over(
        [("BPTT", None)],
        ["alif", "gru", "leaky_rnn"],
        [(32, 1), (64, 8), (256, 1), (256, 16)],
        [256],
    ),
    (("BPTT", None), "lif", (512, 8), 256),
    (("BPTT", None), "lstm", (128, 16), 256),
    *over([("order 4", None)], ["alif", "gru"], [(32, 1), (64, 8), (256, 4)], [256]),
    *over([("order 4", 64)], ["alif", "leaky_rnn"], [(32, 1)], [256]),
    *over([("order 4", 128)], ["alif", "leaky_rnn"], [(64, 2)], [512]),
    *over([("RTRL", 32)], ["alif", "leaky_rnn"], [(32, 1)], [128]),
    *over([("RTRL", 64)], ["alif", "leaky_rnn"], [(32, 4), (64, 1)], [256]),
    *over([("RTRL", 128)], ["alif", "leaky_rnn"], [(128, 1)], [512]),
    *over([("RTRL", 256)], ["alif", "leaky_rnn"], [(64, 1)], [1024]),
    (("RTRL", 64), "gru", (32, 1), 256),
    (("RTRL", 1), "alif", (32, 1), 16),
    (("RTRL", 1), "leaky_rnn", (64, 1), 16),
]
HELD_OUT = [
    (("e-prop", 1), "lif", (100, 1), 400),
    (("e-prop", 1), "gru", (96, 4), 300),
    (("e-prop", 64), "alif", (200, 8), 640),
    (("e-prop", None), "lstm", (96, 8), 300),
    (("e-prop", "auto"), "gru", (160, 3), 600),
    (("e-prop", "auto"), "lif", (300, 6), 700),
    (("BPTT", None), "leaky_rnn", (180, 12), 384),
    (("BPTT", None), "lstm", (80, 6), 320),
    (("order 4", None), "alif", (96, 3), 320),
    (("RTRL", 96), "alif", (48, 1), 384),
]
AUTO = [
    ("e-prop", "alif", (100, 16), 512),
    ("e-prop", "alif", (256, 16), 1024),
    ("e-prop", "alif", (512, 32), 512),
    ("e-prop", "alif", (256, 1), 1024),
    ("e-prop", "alif", (256, 4), 8192),
    ("e-prop", "lstm", (128, 16), 512),
    ("e-prop", "rnn", (256, 16), 1024),
    ("e-prop", "lif", (256, 16), 1024),
    ("RTRL", "alif", (32, 1), 192),
    ("RTRL", "alif", (64, 1), 384),
    ("RTRL", "alif", (128, 1), 768),
]
SMALL = [
    *over([("e-prop", 1), ("e-prop", 8), ("e-prop", None)], ["lif"], [(4, 1), (8, 2)], [32]),
    *over([("BPTT", None), ("RTRL", 1), ("RTRL", 8)], ["lif"], [(4, 1), (8, 2)], [32]),
]
SMALL_HELD_OUT = [(("e-prop", "auto"), "gru", (6, 2), 40)]
SMALL_AUTO = [("e-prop", "alif", (4, 2), 4096)]


def sizes(rule, cell, n):
    """(rule, shapes of its parameters)."""
    net = ej.Network(getattr(ej.cells, cell)(rules.N_IN, n), ej.readouts.leaky(n, rules.N_OUT))
    return MAKE[rule](net, LOSS), jax.eval_shape(net.init, jax.random.key(0))


def chosen(rule, cell, n, B, T, K):
    return auto_chunk(*sizes(rule, cell, n), (B,), T) if K == "auto" else K


def programs(rule, cell, n, B, T, chunks):
    """({K: compiled}, their arguments)."""
    net, *args = rules.problem(cell, n, T, B)
    run = lambda K: ej.value_and_grad(MAKE[rule](net, LOSS), chunk=K)
    return {K: harness.compiled(run(K), args)[0] for K in chunks}, args


def least(rule, cell, n, B, T, chunks, at_least=0.2):
    """{K: seconds a step}: the least of interleaved runs."""
    built, args = programs(rule, cell, n, B, T, chunks)
    found, left = {K: [] for K in built}, at_least
    while left > 0:
        begin = time.perf_counter()
        for K, times in harness.interleaved(built, args, 3).items():
            found[K] += times
        left -= time.perf_counter() - begin
    return {K: min(times) / T for K, times in found.items()}


def lengths(rule, cell, n, B, T):
    """Chunks of 32 to 256 steps, parts of one length, and the one that auto takes."""
    parts = {math.ceil(T / math.ceil(T / 2**k)) for k in range(5, 9) if 2**k < T}
    return sorted(parts | {chosen(rule, cell, n, B, T, "auto")})


def planned(fit, held_out, auto):
    """(rule, cell, n, B, T, chunks) of each, in three lists."""
    one = [
        [
            (rule, cell, n, B, T, [chosen(rule, cell, n, B, T, K)])
            for (rule, K), cell, (n, B), T in of
        ]
        for of in (fit, held_out)
    ]
    many = [(rule, cell, n, B, T, lengths(rule, cell, n, B, T)) for rule, cell, (n, B), T in auto]
    return *one, many


def measured(cases, store, within):
    """{case: {K: seconds a step}}, as text; what `store` has is not run again. None: not all yet."""
    found = json.loads(store.read_text()) if store.exists() else {}
    begin = time.perf_counter()
    for case in cases:
        if (key := json.dumps(case)) in found:
            continue
        if time.perf_counter() - begin > within:
            return None
        found[key] = {json.dumps(K): s for K, s in least(*case).items()}
        store.write_text(json.dumps(found, indent=1) + "\n")
        print(key, *(f"{1e6 * s:.3g}" for s in found[key].values()), flush=True)
    return found


def amounts(case, K):
    rule, cell, n, B, _, _ = case
    made, params = sizes(rule, cell, n)
    return ej.cost(made, params, (B,), K).work


def fitted(work, times, rounds=20):
    """Rates, none negative, of the least squares of log(predicted / measured): of relative errors,
    weighed so that twice counts as half."""
    shares, weights = np.array(work, float) / np.array(times)[:, None], np.ones(len(times))
    for _ in range(rounds):
        rates, _ = nnls(weights[:, None] * shares, weights)
        found = np.maximum(shares @ rates, 1e-3)
        far = np.maximum(np.abs(found - 1), 1e-3)
        weights = np.clip(np.abs(np.log(found)) / far, 0.3, 3)
    return Kinds(*(float(f"{x:.3g}") for x in rates))


def row(case, what, K, measured, rates):
    rule, cell, n, B, T, _ = case
    K = None if K == T else K  # without traces
    predicted = seconds(amounts(case, K), rates)
    return {
        "what": what,
        "case": f"{cell} n={n} T={T} B={B}",
        "rule": f"{rule}, K = {K or 'T'}",
        "μs a step": 1e6 * measured,
        "predicted": 1e6 * predicted,
        "predicted / measured": predicted / measured,
    }


def rows_of(found, fit, held_out, auto):
    """(rates, the rows that they predict)."""
    times = lambda case: list(found[json.dumps(case)].values())
    rates = fitted(*zip(*((amounts(case, case[-1][0]), times(case)[0]) for case in fit)))
    rows = [row(case, "held out", case[-1][0], times(case)[0], rates) for case in held_out]
    for case in auto:
        of = dict(zip(case[-1], times(case)))
        K, best = chosen(*case[:-1], "auto"), min(of, key=of.get)
        more = {"best K": best, "auto / best": of[K] / of[best]}
        rows.append(row(case, "auto", K, of[K], rates) | more)
    return rates, rows


COLUMNS = ["what", "case", "rule", "μs a step", "predicted", "predicted / measured", "best K"]
COLUMNS += ["auto / best"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--small", action="store_true", help="small sizes, which say little")
    parser.add_argument(
        "--within", type=float, default=math.inf, help="stop after so long; the next call goes on"
    )
    args = parser.parse_args()
    name = "model_small" if args.small else "model"
    cases = (SMALL, SMALL_HELD_OUT, SMALL_AUTO) if args.small else (FIT, HELD_OUT, AUTO)
    harness.OUT.mkdir(exist_ok=True)
    store = harness.OUT / f"{name}_part.json"
    fit, held_out, auto = planned(*cases)
    found = measured([*fit, *held_out, *auto], store, args.within)
    if found is None:
        return print("not all yet: run it again")
    rates, rows = rows_of(found, fit, held_out, auto)
    like = tuple(float(f"{x:.3g}") for x in yardsticks())
    note = __doc__.split("\n\n")[2].replace("\n", " ")
    fit_to = f"Fitted to {len(fit)} cases: `{rates}`; yardsticks `{like}`."
    harness.write(name, rows, COLUMNS, f"{note}\n\n{fit_to}")
    store.unlink()


if __name__ == "__main__":
    main()
