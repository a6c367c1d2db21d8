"""`make bench`: all benchmarks but the peers' and the published runs, each in a process of its own."""

import subprocess
import sys

for name in (
    "rules",
    "scaling",
    "model",
    "fidelity",
    "sweep",
    "stream",
    "locality",
    "sparse",
    "conv_digits",
    "beyond_paths",
):
    print(f"== {name}", flush=True)
    arguments = sys.argv[1:] if name in ("rules", "scaling", "fidelity") else []  # --quick
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *arguments], check=True)
