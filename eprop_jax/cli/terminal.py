"""What the commands print, and how they fail: in one line, in whatever letters the terminal has."""

from __future__ import annotations

import codecs
import contextlib
import functools
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from eprop_jax import checks

ERRORS = (
    ValueError, TypeError, OSError, ArithmeticError, ImportError, MemoryError,
    jax.errors.JaxRuntimeError,
)  # fmt: skip
"""what is said in a line: what a command refuses, and what the machine does"""
PLAIN = {"─": "-", "−": "-", "–": "-", "≥": ">=", "≤": "<=", "≈": "~", "×": "x", "±": "+-", "→": "->",
         "Σ": "sum", "∂": "d", "…": "..."}  # fmt: skip


def begin() -> None:
    """Nothing that is printed fails for want of a letter, and a closed stream is known at once.

    Raises:
      OSError: if standard output is closed.
    """
    codecs.register_error("eprop_jax.nearest", nearest)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")
    if sys.stdout is None:
        raise OSError("standard output is closed, wanted it open (or > /dev/null)")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="eprop_jax.nearest")  # pyright: ignore


def nearest(error: UnicodeError) -> tuple[str, int]:
    """What an encoding does not have, in letters that every one has; "?" for the rest."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(PLAIN.get(letter, "?") for letter in missing), error.end


def sayer(as_json: bool) -> Callable[..., None]:
    """Prints for a reader: to stderr where stdout is for JSON."""
    return functools.partial(print, file=sys.stderr if as_json else sys.stdout, flush=True)


def fail(command: str, error: Exception) -> int:
    """Say what went wrong, in a line, and give the exit code."""
    jaxs = isinstance(error, jax.errors.JaxRuntimeError)
    text, code = checks.first_line(error) if jaxs else str(error), 2
    if isinstance(error, OSError) and error.errno and error.filename is None:
        text, code = f"could not write what it prints: {error.strerror}", 1
    elif isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        text = f"out of memory ({text[:200]}); wanted a smaller --batch, --units or --layers"
    with contextlib.suppress(OSError):
        print(f"{command}: {text}", file=sys.stderr, flush=True)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:  # else the interpreter tries again at its end, and prints a traceback
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


class Progress:
    """On stderr: a bar on a terminal where tqdm is installed, else a line now and then. Both say what
    was last seen (a loss, an error), and how long it will take."""

    SHARE, SECONDS = 20, 10.0
    """a line comes when this part of all updates, or this time, has passed since the last"""

    def __init__(self, total: int, done: int = 0):
        self.total, self.done, self.bar = total, done, None
        self.said, self.last = done, time.monotonic()
        self.first: tuple[int, float] | None = None
        """what was done, and when, after the first part of what began last, in which it was compiled"""
        if sys.stderr.isatty():
            with contextlib.suppress(ImportError):
                from tqdm import tqdm

                self.bar = tqdm(total=total, initial=done, unit="update", file=sys.stderr,
                                dynamic_ncols=True, mininterval=0.5)  # fmt: skip

    def move(self, name: str, done: int, seen: Mapping[str, float] | None = None) -> None:
        """`done` updates more; 0 where something begins, which first is compiled."""
        self.done += done
        what = ", ".join(f"{k.replace('_', ' ')} {v:.3g}" for k, v in (seen or {}).items())
        if self.bar is not None:
            self.bar.set_description(f"{name:<22}", refresh=False)
            self.bar.set_postfix_str(what or "compiling", refresh=done == 0)
            self.bar.update(done)
            return
        now = time.monotonic()
        self.first = (self.first or (self.done, now)) if done else None
        due = self.done - self.said >= self.total / self.SHARE or now - self.last >= self.SECONDS
        if done == 0 or due or self.done >= self.total:
            self.said, self.last = self.done, now
            parts = [f"{self.done} of {self.total} updates", what or "compiling", self.left(now)]
            print(f"{name}: {', '.join(p for p in parts if p)}", file=sys.stderr, flush=True)

    def left(self, now: float) -> str:
        """The time to go, if the rest is as what has been done since the first part."""
        done, began = self.first or (self.done, now)
        if not done < self.done < self.total:
            return ""
        return f"about {spell((now - began) * (self.total - self.done) / (self.done - done))} to go"

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.close()


def spell(seconds: float) -> str:
    """A time, about.

    >>> from eprop_jax.cli import terminal
    >>> terminal.spell(8.2), terminal.spell(150), terminal.spell(9000)
    ('8 s', '2.5 min', '150 min')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.{1 if seconds < 600 else 0}f} min"
