"""Options of the command line: values that are checked, and errors that name the nearest right one."""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from eprop_jax.cli import experiments, naming
from eprop_jax.engine import signals
from eprop_jax.paper import taxonomy

RULES = naming.RULES
LANGUAGE = f"{naming.PATHS}LANGUAGE"
"""how a rule is called by its paths"""


# -- values ----------------------------------------------------------------------------------------


def wrong(what: str, got: str, choices: Sequence[str]) -> str:
    """The message for a value that is not among the choices, with the nearest, if it is near."""
    nearest = difflib.get_close_matches(got.lower(), choices, n=1)
    asked = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"unknown {what} {got!r}{asked} (one of {', '.join(choices)})"


def names(what: str, choices: Sequence[str]) -> Callable[[str], list[str]]:
    """One name or several, separated by commas."""

    def of(text: str) -> list[str]:
        values = [v.strip() for v in text.split(",") if v.strip()]
        for value in values or [""]:
            if value not in choices:
                raise argparse.ArgumentTypeError(wrong(what, value, choices))
        return values

    return of


def name(what: str, choices: Sequence[str]) -> Callable[[str], str]:
    """One name."""

    def of(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(wrong(what, text, choices))
        return text

    return of


def rules(text: str) -> list[str]:
    """Names and languages of rules, separated by commas."""
    return [rule(part) for part in [v for v in naming.split(text) if v] or [""]]


def rule(text: str) -> str:
    """One of them; by its old name, too."""
    text = taxonomy.OLD.get(text, text)
    if naming.language(text) is None:
        return name("rule", (*RULES, LANGUAGE))(text)
    try:
        return naming.rule(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def number(least: int, most: int | None = None) -> Callable[[str], int]:
    """A whole number."""

    def of(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(
                f"got {text!r}, wanted a whole number >= {least}; the nearest is "
                f"{_nearest_number(text, least)}"
            )
        if most is not None and value > most:
            raise argparse.ArgumentTypeError(f"got {text!r}, wanted a whole number <= {most}")
        return value

    return of


def numbers(least: int) -> Callable[[str], list[int]]:
    """Whole numbers, separated by commas."""
    return lambda text: [number(least)(part) for part in text.split(",")]


def layers(text: str) -> int | tuple[int, ...]:
    """The units of one layer, or of each of a stack."""
    units = numbers(1)(text)
    return units[0] if len(units) == 1 else tuple(units)


def real(above: float, inclusive: bool = True) -> Callable[[str], float]:
    """A number."""

    def of(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and (value > above or (inclusive and value == above))):
            sign = ">=" if inclusive else ">"
            raise argparse.ArgumentTypeError(f"got {text!r}, wanted a number {sign} {above:g}")
        return value

    return of


def reals(above: float, inclusive: bool = True) -> Callable[[str], list[float]]:
    """Numbers, separated by commas."""
    return lambda text: [real(above, inclusive)(part) for part in text.split(",")]


def flat(lists: list[list] | None, default: Sequence) -> list:
    """What a repeatable option collected, once each, in order."""
    return list(default) if lists is None else list(dict.fromkeys(v for x in lists for v in x))


def _nearest_number(text: str, least: int) -> int:
    try:
        return max(least, round(float(text)))
    except (ValueError, OverflowError):
        return least


seed = number(0, experiments.SEEDS - 1)


# -- the options of each command -------------------------------------------------------------------


RULES_TEXT = (
    f"{', '.join(RULES)} (eprop: with symmetric feedback, also called symmetric; frozen: the read-out "
    f"alone is trained), or {LANGUAGE}, such as 'paths:i*f*': the rule that keeps those paths"
)


def task_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", type=name("task", experiments.TASKS),
                        default="evidence-small", metavar="TASK",
                        help=f"one of {', '.join(experiments.TASKS)} "
                        "(default: evidence-small)")  # fmt: skip


def layer_option(parser: Any, **more: Any) -> None:
    parser.add_argument("--layers", type=layers, metavar="N,N,…", **more,
                        help="units of each layer, the lowest first; each hears the one below, within "
                        "the step, and the read-out the last")  # fmt: skip


def freeze_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--freeze", type=numbers(0), metavar="L,L,…",
                        help="layers that stay as they are drawn, by number, the lowest 0")  # fmt: skip


def network_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    positive, rate = number(1), real(0, inclusive=False)
    add("--cell", type=name("cell", experiments.CELLS), metavar="CELL",
        help=f"one of {', '.join(experiments.CELLS)}")  # fmt: skip
    one_of_them = parser.add_mutually_exclusive_group()
    one_of_them.add_argument("--units", type=positive, metavar="N", help="recurrent units")
    layer_option(one_of_them, dest="units")
    freeze_option(parser)
    add("--batch", type=positive, metavar="N", help="sequences an update")
    add("--steps", type=positive, metavar="N", help="updates at most")
    add("--optimizer", type=name("optimizer", experiments.OPTIMIZERS), metavar="NAME",
        help=f"one of {', '.join(experiments.OPTIMIZERS)}")  # fmt: skip
    add("--lr", type=rate, metavar="X", dest="learning_rate", help="learning rate")
    add("--clip", type=real(0), metavar="X", help="largest norm of the gradient; 0: none")
    add("--feedback-decay", type=real(0), metavar="X",
        help="weight decay an update of w_out and of adaptive feedback")  # fmt: skip
    add("--rate-hz", type=real(0), metavar="HZ", help="rate wanted of spiking units")
    add("--rate-strength", type=real(0), metavar="X", help="how strongly; 0: not at all")
    add("--reset-gradient", type=name("answer", ("yes", "no")), metavar="yes|no",
        help="through the reset of spiking units (default: under bptt and rtrl)")  # fmt: skip
    add("--seed", type=seed, metavar="N", help="(default: 0)")
    parser.epilog = (
        "What is not given is the task's own default: see python -m eprop_jax tasks. "
        "Rules: see python -m eprop_jax taxonomy."
    )


def rule_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--rule", type=rule, metavar="RULE",
        help=f"one of {RULES_TEXT} (default: eprop)")  # fmt: skip
    add("--order", type=number(1), metavar="M", help="of rule m-order (default: 2)")
    add("--feedback", type=name("feedback", signals.KINDS), metavar="KIND",
        help=f"of rules m-order, eprop and {LANGUAGE}: one of {', '.join(signals.KINDS)}; "
        "--rule random is --rule eprop --feedback random (default: symmetric)")  # fmt: skip


def out_option(parser: argparse.ArgumentParser, of: str) -> None:
    parser.add_argument("--out", type=Path, metavar="DIR",
                        help="where the results go, as they come "
                        f"(default: the first free of ./out/{of}, ./out/{of}-2, …)")  # fmt: skip


def json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true",
                        help="results to stdout as JSON, all else to stderr")  # fmt: skip


def train_options(parser: argparse.ArgumentParser) -> None:
    for options_of in (task_option, rule_options, network_options):
        options_of(parser)
    parser.add_argument("--every", type=number(1), metavar="N",
                        help="updates between pauses, when it is tested and saved")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("out/train"), metavar="DIR",
                        help="the run's folder, new (default: ./out/train)")  # fmt: skip
    json_option(parser)


def resume_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "dir", type=Path, metavar="DIR", help="the folder of a run that was cut off"
    )
    parser.add_argument("--steps", type=number(1), metavar="N", help="updates in all")
    json_option(parser)


def compare_options(parser: argparse.ArgumentParser) -> None:
    task_option(parser)
    parser.add_argument("--rule", action="append", type=rules, metavar="RULE",
                        help=f"one or more of {RULES_TEXT}; repeat it or separate by commas "
                        "(default: bptt,m-order,eprop,random; of a stack, paths:i*f* for "
                        "eprop)")  # fmt: skip
    parser.add_argument("--order", action="append", type=numbers(1), metavar="M",
                        help="orders of m-order (default: 2)")  # fmt: skip
    network_options(parser)
    out_option(parser, "compare")
    json_option(parser)


def sweep_options(parser: argparse.ArgumentParser) -> None:
    for options_of in (task_option, rule_options, network_options):
        options_of(parser)
    parser.add_argument("--seeds", type=number(1), default=8, metavar="N",
                        help="how many, from --seed on (default: 8)")  # fmt: skip
    parser.add_argument("--lrs", type=reals(0, inclusive=False), metavar="X,Y,…",
                        help="learning rates (default: the task's own alone)")  # fmt: skip
    out_option(parser, "sweep")
    json_option(parser)


def predict_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("dir", type=Path, metavar="DIR", help="the folder of a run, as train makes it")
    one_of_them = parser.add_mutually_exclusive_group()
    one_of_them.add_argument(
        "--data", type=Path, metavar="FILE",
        help="your own examples: X [N, T, F] as .npy, or .npz with X and, if you like, lengths [N] "
        "and y, the classes (default: test examples of the run's task)",
    )  # fmt: skip
    one_of_them.add_argument("--examples", type=number(1), metavar="N",
                             help="how many test examples (default: a batch)")  # fmt: skip
    add("--seed", type=seed, default=0, metavar="N", help="of the test examples (default: 0)")
    add("--out", type=Path, metavar="FILE",
        help="a new .npz file for classes, logits, outputs and what was wanted")  # fmt: skip
    json_option(parser)


def report_options(parser: argparse.ArgumentParser) -> None:
    for options_of in (task_option, rule_options, network_options, json_option):
        options_of(parser)
    parser.epilog = f"The options are those of train. {parser.epilog}"
