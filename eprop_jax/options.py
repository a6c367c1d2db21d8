"""Options of the command line: values that are checked, and errors that name the nearest right one."""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Callable, Sequence


def wrong(what: str, got: str, choices: Sequence[str]) -> str:
    """The message for a value that is not among the choices, with the nearest that is."""
    (nearest,) = difflib.get_close_matches(got, choices, n=1, cutoff=0.0)
    return f"unknown {what} {got!r}; did you mean {nearest!r}? (one of {', '.join(choices)})"


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


def number(least: int) -> Callable[[str], int]:
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
        return value

    return of


def numbers(least: int) -> Callable[[str], list[int]]:
    """Whole numbers, separated by commas."""
    return lambda text: [number(least)(part) for part in text.split(",")]


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
