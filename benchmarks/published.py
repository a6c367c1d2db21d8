"""The rules in the setups published for them: what they reach, and after how many updates.

Setups of G. Bellec et al., *A solution to the learning dilemma for recurrent networks of spiking
neurons*, Nature Communications 11:3625, 2020, as `eprop_jax/cli/experiments.py` holds them. Pattern
generation: 2000 updates, the normalised mean squared error of the last. Evidence accumulation: as the
authors stop, when of 64 fresh trials, drawn every 10 updates, and then of 8 · 64 more, less than 7 %
are named wrongly; "stopped" is the number of updates done then.

    python -m benchmarks.published pattern
    python -m benchmarks.published evidence              # about an hour and a half on one core
    python -m benchmarks.published evidence --rule bptt --seed 0 --seeds 1
"""

import argparse
import json
import statistics
import time

import jax
import jax.numpy as jnp

from benchmarks import harness
from eprop_jax import training
from eprop_jax.cli import experiments

PATTERN = {
    "BPTT": {"rule": "bptt"},
    "e-prop, symmetric": {"rule": "eprop"},
    "e-prop, random": {"rule": "eprop", "feedback": "random"},
    "e-prop, adaptive": {"rule": "eprop", "feedback": "adaptive"},
    # what the two conventions matter that differ from rule to rule or from the authors' code
    "e-prop, random, B with gain 1": {"rule": "eprop", "feedback": "random", "feedback_gain": 1.0},
    "BPTT, no gradient through the reset": {"rule": "bptt", "reset_gradient": False},
}
EVIDENCE = {
    "bptt": ("BPTT", {"rule": "bptt"}, 1000),
    "symmetric": ("e-prop, symmetric", {"rule": "eprop"}, 1000),
    "random": ("e-prop, random", {"rule": "eprop", "feedback": "random"}, 1500),
    "lif": ("BPTT, LIF units alone", {"rule": "bptt", "cell": "lif"}, 1000),
}


def pattern(seeds):
    """All seeds of a rule are one program. Each seed has its own inputs, target and weights."""
    rows = []
    for name, chosen in PATTERN.items():
        s = experiments.settings("pattern", **chosen)

        def one(seed, s=s):
            e = experiments.experiment(s, seed)
            return e.trainer.run(experiments.start(e, seed), s.steps)[1]

        began = time.perf_counter()
        log = jax.jit(jax.vmap(one))(jnp.arange(seeds))
        nmse = [float(x) for x in log["nmse"][:, -1]]
        rows.append(
            {
                "rule": name,
                "seeds": seeds,
                "nMSE": " ".join(f"{x:.3f}" for x in nmse),
                "median": statistics.median(nmse),
                "worst": max(nmse),
                "rate (Hz)": 1000 * float(log["rate"][:, -1].mean()),
                "seconds": time.perf_counter() - began,
            }
        )
        print(rows[-1], flush=True)
    columns = ["rule", "seeds", "nMSE", "median", "worst", "rate (Hz)", "seconds"]
    harness.write("published_pattern", rows, columns, "Pattern generation, 2000 updates.")


def evidence(key, seed):
    """One run, with the authors' stopping rule."""
    name, chosen, limit = EVIDENCE[key]
    e = experiments.experiment(experiments.settings("evidence", steps=limit, seed=seed, **chosen))
    look = training.evaluator(e.rule, e.test_sampler, metrics=e.metrics)

    def evaluate(params, key):
        error = float(look(params, key)["test_error"])
        more = float("nan")
        if error < 0.07:
            keys = jax.random.split(jax.random.fold_in(key, 1), 8)
            more = statistics.mean(float(look(params, k)["test_error"]) for k in keys)
        return {"error of 64": error, "error of 8 x 64": more}

    began = time.perf_counter()
    run = training.fit(
        e.trainer, experiments.start(e), limit, every=10, evaluate=evaluate,
        stop=lambda row: row["error of 8 x 64"] < 0.07, progress=False,
        report=lambda row: row["step"] % 50 or print(name, seed, row, flush=True),
    )  # fmt: skip
    last = [row["error of 64"] for row in run.rows[-8:]]
    return {
        "rule": name,
        "seed": seed,
        "limit": limit,
        "stopped": run.rows[-1]["step"] if run.stopped else "no",
        "error at the end": run.rows[-1]["error of 8 x 64"] if run.stopped else statistics.mean(last),
        "rate (Hz)": 1000 * run.rows[-1]["rate"],
        "minutes": (time.perf_counter() - began) / 60,
        "curve": [[row["step"], row["error of 64"]] for row in run.rows],
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("task", choices=["pattern", "evidence"])
    parser.add_argument("--rule", choices=list(EVIDENCE), action="append", help="of evidence")
    parser.add_argument("--seed", type=int, default=0, help="the first, of evidence")
    parser.add_argument("--seeds", type=int, help="default: 10 of pattern, 3 of evidence")
    args = parser.parse_args()
    if args.task == "pattern":
        return pattern(args.seeds or 10)
    # Runs take minutes each: what is there already is kept, so that they can be done one by one.
    kept = harness.OUT / "published_evidence.json"
    for key in args.rule or EVIDENCE:
        for seed in range(args.seed, args.seed + (args.seeds or 3)):
            row = evidence(key, seed)
            print({k: v for k, v in row.items() if k != "curve"}, flush=True)
            rows = json.loads(kept.read_text())["rows"] if kept.exists() else []
            same = lambda r, row=row: (r["rule"], r["seed"]) == (row["rule"], row["seed"])
            rows = [r for r in rows if not same(r)] + [row]
            order = [name for name, _, _ in EVIDENCE.values()]
            rows.sort(key=lambda r: (order.index(r["rule"]), r["seed"]))
            columns = [
                "rule",
                "seed",
                "limit",
                "stopped",
                "error at the end",
                "rate (Hz)",
                "minutes",
            ]
            harness.write("published_evidence", rows, columns, "Evidence accumulation, T = 2250.")


if __name__ == "__main__":
    main()
