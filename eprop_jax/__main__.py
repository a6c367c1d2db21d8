"""`python -m eprop_jax`: the demo; with a command (train, resume, compare, sweep, tasks, …): that."""

import sys

from eprop_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
