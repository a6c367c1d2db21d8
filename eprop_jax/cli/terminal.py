"""What the commands print, and how they fail: in one line, in whatever letters the terminal has."""

from __future__ import annotations

import codecs
import contextlib
import functools
import os
import sys
from collections.abc import Callable
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
    """A bar on stderr where tqdm is installed, else a line now and then."""

    def __init__(self, total: int):
        self.total, self.done, self.said, self.bar = total, 0, 0, None
        try:
            from tqdm import tqdm

            self.bar = tqdm(total=total, unit="update", file=sys.stderr, dynamic_ncols=True,
                            mininterval=0.5)  # fmt: skip
        except ImportError:
            pass

    def move(self, name: str, done: int) -> None:
        self.done += done
        if self.bar is not None:
            self.bar.set_description(f"{name:<22}", refresh=done == 0)
            self.bar.update(done)
        elif done == 0 or self.done - self.said >= self.total / 20:
            self.said = self.done
            print(f"{name}: {self.done} of {self.total} updates", file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.close()
