"""`python -m eprop_jax`: the demo; with a command (train, resume, compare, sweep, tasks, …): that."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from eprop_jax import __version__, plotting, tasks
from eprop_jax.cli import (
    catalogue,
    demo,
    experiments,
    naming,
    options,
    predictions,
    reports,
    runs,
    studies,
    terminal,
)
from eprop_jax.cli.terminal import Progress
from eprop_jax.paper import taxonomy

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
      argv: the arguments; default: those of the process.

    Returns:
      The exit code: 0; 1 if what it prints cannot be written; 2 for what a command refuses; 130 if
      interrupted (Ctrl-C).

    Raises:
      SystemExit: with code 2 for wrong arguments, 0 for --help and --version.

    >>> from eprop_jax.cli.main import main
    >>> main(["taxonomy", "--json"])  # doctest: +ELLIPSIS
    {...
    0
    """
    named = "python -m eprop_jax"
    try:
        terminal.begin()
        try:
            args = parse(sys.argv[1:] if argv is None else list(argv))
            named += f" {args.command}"
            return COMMANDS[args.command].run(args)
        finally:
            sys.stdout.flush()  # what cannot be written is known here, not when all is over
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        return INTERRUPTED
    except terminal.ERRORS as error:
        return terminal.fail(named, error)


# -- arguments -------------------------------------------------------------------------------------


class Command:
    """A subcommand: its help, its options, and what runs it."""

    def __init__(self, help: str, options: Callable, run: Callable[[argparse.Namespace], int]):
        self.help, self.options, self.run = help, options, run


def parse(argv: list[str]) -> argparse.Namespace:
    """The command (`demo` where none is named) and its options."""
    parser = argparse.ArgumentParser(
        prog="python -m eprop_jax",
        description="Learning rules for recurrent networks: BPTT, RTRL, e-prop, m-order e-prop. "
        "Without a command: the demo.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"eprop_jax {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    subparsers = {}
    for name, command in COMMANDS.items():
        sub = commands.add_parser(
            name, help=command.help, description=command.help, allow_abbrev=False
        )
        command.options(sub)
        subparsers[name] = sub
    if not argv or argv[0] not in (*COMMANDS, "--version", "-h", "--help"):
        if argv and not argv[0].startswith("-"):
            parser.error(options.wrong("command", argv[0], list(COMMANDS)))
        argv = ["demo", *argv]
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        sub = subparsers[args.command]
        known = sorted(o for o in sub._option_string_actions if o.startswith("--"))
        sub.error(options.wrong("argument", unknown[0].split("=")[0], known))
    return args


def demo_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rule", action="append", type=options.rules, metavar="RULE",
        help=f"one or more of {options.RULES_TEXT}; repeat it or separate by commas "
        f"(default: {','.join(demo.DEFAULT_RULES)}; of a stack {','.join(demo.STACK_RULES)})",
    )  # fmt: skip
    parser.add_argument(
        "--cell", action="append", type=options.names("cell", demo.CELLS), metavar="CELL",
        help=f"one or more of {', '.join(demo.CELLS)} (default: both)",
    )  # fmt: skip
    parser.add_argument(
        "--order", action="append", type=options.numbers(1), metavar="M",
        help="orders of m-order e-prop (default: 4,2); order >= the sequence's length is exact",
    )  # fmt: skip
    options.layer_option(parser, default=())
    options.freeze_option(parser)
    parser.add_argument("--seed", type=options.seed, default=0, help="first seed (default: 0)")
    parser.add_argument("--seeds", type=options.number(1), default=3, metavar="N",
                        help="how many seeds, trained side by side (default: 3)")  # fmt: skip
    parser.add_argument("--steps", type=options.number(1), metavar="N",
                        help="updates of the weights (default: a cell's own)")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR",
                        help="where the picture goes (default: ./out)")  # fmt: skip
    options.json_option(parser)


# -- commands --------------------------------------------------------------------------------------


def run_taxonomy(args: argparse.Namespace) -> int:
    if args.json:
        print(json.dumps(taxonomy.as_dict(), indent=1))
    else:
        print(taxonomy.as_text())
    return 0


def run_tasks(args: argparse.Namespace) -> int:
    if args.json:
        print(json.dumps(catalogue.overview(), indent=1))
    else:
        print(catalogue.as_text())
    return 0


def run_demo(args: argparse.Namespace) -> int:
    began = time.perf_counter()
    say = terminal.sayer(args.json)
    layers = args.layers if isinstance(args.layers, tuple) else (args.layers,)
    freeze = experiments.freezes(args.freeze, len(layers) or 1)
    usual = demo.STACK_RULES if len(layers) > 1 else demo.DEFAULT_RULES
    rules, chosen = options.flat(args.rule, usual), options.flat(args.cell, demo.CELLS)
    if args.order and args.rule and "m-order" not in rules:
        rules.append("m-order")  # who names an order wants to see it
    orders = options.flat(args.order, demo.DEFAULT_ORDERS)
    if args.seed + args.seeds > experiments.SEEDS:
        raise ValueError(f"seed, seeds: got {args.seed}, {args.seeds}, wanted a sum <= 2**32")
    runs.is_folder("--out", args.out)
    args.out.mkdir(parents=True, exist_ok=True)
    data = tasks.digits()
    setups = {cell: demo.setup(cell, layers) for cell in chosen}
    asked = {cell: demo.methods(s.net, rules, orders, freeze) for cell, s in setups.items()}
    for cell, of_cell in asked.items():
        for method in of_cell:
            demo.refuse(method, setups[cell].net)
    total = sum(len(asked[cell]) * (args.steps or s.updates) for cell, s in setups.items())
    say(
        f"eprop_jax {__version__}: {len(data.train_labels)} handwritten digits to learn from, "
        f"{len(data.test_labels)} to test on; 8 rows of 8 pixels each, named at the last row"
    )

    results, by_order = {}, {}
    with Progress(total) as bar:
        for cell in chosen:
            results[cell], by_order[cell] = demo.run(
                cell, data, rules=rules, orders=orders, seed=args.seed, seeds=args.seeds,
                updates=args.steps, layers=layers, freeze=freeze,
                progress=lambda name, *seen, cell=cell: bar.move(f"{cell.upper()} {name}", *seen),
            )  # fmt: skip
    say("\n" + as_text(results, setups, args.seeds))
    picture = draw(args.out / "demo.png", setups, data, results, by_order, say)
    wall = time.perf_counter() - began
    say(f"{wall:.0f} s in all")
    if args.json:
        found = as_dict(results, by_order, setups, args)
        print(json.dumps({**found, "picture": picture, "seconds": wall}, allow_nan=False, indent=1))
    return 0


COMMANDS = {
    "demo": Command("train and compare every rule on handwritten digits", demo_options, run_demo),
    "taxonomy": Command("print the learning rules, their equations and costs", options.json_option,
                        run_taxonomy),
    "report": Command("say of a setup, before it is trained, which paths its rule keeps, where its "
                      "gradient is exact, and what memory and work it takes",
                      options.report_options, reports.run_report),
    "train": Command("train a network on a task, with checkpoints", options.train_options,
                     runs.run_train),
    "resume": Command("go on with a run that was cut off", options.resume_options, runs.run_resume),
    "predict": Command("what the network of a run says of test examples, or of your own",
                       options.predict_options, predictions.run_predict),
    "compare": Command("train a network under several rules from the same weights",
                       options.compare_options, studies.run_compare),
    "sweep": Command("train many seeds and learning rates as one program", options.sweep_options,
                     studies.run_sweep),
    "tasks": Command("print the tasks: lengths, sizes, goals, minutes, and what they begin with",
                     options.json_option, run_tasks),
}  # fmt: skip


# -- what is shown ---------------------------------------------------------------------------------


def summary(results: list[demo.Result]) -> list[dict[str, Any]]:
    """One flat dict a rule; means and standard deviations over seeds."""
    reference = next((r.update_ms for r in results if r.key == "bptt"), None)

    def mean(x):
        return None if x is None else float(np.mean(x))

    return [
        {
            "cell": r.cell,
            "rule": r.key,
            "name": r.name,
            "order": r.order,
            "accuracy": mean(r.accuracy),
            "accuracy_sd": float(np.std(r.accuracy, ddof=1)) if len(r.accuracy) > 1 else None,
            "accuracies": [float(a) for a in r.accuracy],
            "loss": mean(r.loss),
            "cosine_start": mean(r.cosine_start),
            "cosine_end": mean(r.cosine_end),
            "causal": r.causal,
            "local": r.local,
            "update_ms": r.update_ms,
            "update_relative": None if reference is None else r.update_ms / reference,
            "curve": {
                "updates": [int(n) for n in r.steps],
                "accuracy": [float(a) for a in r.curve.mean(0)],
            },
        }
        for r in results
    ]


def as_text(
    results: dict[str, list[demo.Result]], setups: dict[str, demo.Setup], seeds: int
) -> str:
    """The table a cell, for a terminal."""
    head = ("rule", "test accuracy (%)", "cosine, start", "end", "causal", "local", "ms an update",
            "× BPTT")  # fmt: skip
    parts = []
    for cell, found in results.items():
        rows = []
        for row in summary(found):
            sd = "" if row["accuracy_sd"] is None else f" ± {100 * row['accuracy_sd']:.1f}"
            cosines = (row["cosine_start"], row["cosine_end"])
            rows.append((
                row["name"], f"{100 * row['accuracy']:.1f}{sd}",
                *("–" if x is None else f"{x:.3f}" for x in cosines),
                row["causal"], row["local"], f"{row['update_ms']:.2f}",
                "–" if row["update_relative"] is None else f"{row['update_relative']:.2f}",
            ))  # fmt: skip
        s = setups[cell]
        title = (f"{cell.upper()}, {naming.sizes(demo.units(s.net))} units, "
                 f"{8 * s.steps_a_row} steps a digit, {found[0].steps[-1]} updates")  # fmt: skip
        parts.append(f"{title}\n{taxonomy.table([head, *rows], right=(1, 2, 3, 6, 7))}\n")
    seed_text = f"mean ± sd over {seeds} seeds" if seeds > 1 else "one seed"
    parts.append(
        f"Accuracy: {seed_text}. Cosine: of the cell's gradient to BPTT's, on {demo.PROBE} "
        "training digits,\nbefore and after that rule's training. Time: one network's update "
        f"(batch {demo.Setup._field_defaults['batch']}), without compiling."
    )
    return "\n".join(parts)


def as_dict(results, by_order, setups, args) -> dict[str, Any]:
    return {
        "version": __version__,
        "task": "digits, row by row",
        "seed": args.seed,
        "seeds": args.seeds,
        "settings": {
            cell: {
                "units": demo.units(s.net) if s.net.stacked else s.net.cell.n_units,
                "freeze": args.freeze,
                "steps_a_row": s.steps_a_row,
                "updates": args.steps or s.updates,
                "batch": s.batch,
                "learning_rate": s.learning_rate,
                "weight_decay": s.weight_decay,
            }
            for cell, s in setups.items()
        },
        "results": [row for found in results.values() for row in summary(found)],
        "fidelity": {
            cell: {
                "orders": list(by.orders),
                **{
                    f"{quantity}_{at}": getattr(getattr(by, at), quantity).mean(0).tolist()
                    for at in ("start", "end")
                    for quantity in ("cosine", "relative_error")
                },
            }
            for cell, by in by_order.items()
        },
    }


def draw(path: Path, setups, data, results, by_order, say) -> str | None:
    """The picture, where matplotlib is there; else a line that says so."""
    recording = None
    if "alif" in results:
        first = [int(np.argmax(data.test_labels == k)) for k in (3, 5, 8)]
        one_seed = jax.tree.map(lambda x: x[0], results["alif"][0].params)
        recording = demo.record(
            setups["alif"], one_seed, data.test_images[first], data.test_labels[first]
        )
    try:
        plotting.demo_figure(path, results, by_order, recording)
    except ImportError:
        say('no picture: matplotlib is not installed (pip install "eprop_jax[examples]")')
        return None
    say(f"picture: {path}")
    return str(path)
