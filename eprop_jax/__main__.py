"""`python -m eprop_jax`: the demo; with a command (train, resume, compare, sweep, tasks, …): that."""

import os
import sys

from eprop_jax.cli.main import INTERRUPTED, main


def run() -> None:
    """The command line as a process of its own."""
    code = main()
    if code == INTERRUPTED:
        # XLA may be in the middle of a program: where the interpreter was torn down beneath it, one
        # process in five ended in a segmentation fault. (All is flushed by then.)
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    run()
