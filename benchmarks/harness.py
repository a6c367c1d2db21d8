"""How everything here is measured: correctness first, compile time apart, interleaved runs, medians.

A case is a dict of named functions of the same arguments; the first is the baseline. Absolute times
differ by machine and hour, so what is reported is the ratio to the baseline, run by run.
"""

import json
import os
import pathlib
import platform
import re
import statistics
import time

import jax

OUT = pathlib.Path(os.environ.get("BENCH_OUT", pathlib.Path(__file__).parent / "results"))


def compiled(f, args):
    """(executable, seconds to compile, bytes of temporary memory)."""
    fresh = jax.jit(lambda *a: f(*a))  # f itself may have been compiled for the check
    start = time.perf_counter()
    executable = fresh.lower(*args).compile()
    seconds = time.perf_counter() - start
    return executable, seconds, executable.memory_analysis().temp_size_in_bytes


def interleaved(executables, args, repeats):
    """{name: [seconds]}: A B C, A B C, …; each has run once before."""
    times = {name: [] for name in executables}
    for f in executables.values():
        jax.block_until_ready(f(*args))
    for _ in range(repeats):
        for name, f in executables.items():
            start = time.perf_counter()
            jax.block_until_ready(f(*args))
            times[name].append(time.perf_counter() - start)
    return times


def measure(title, functions, args, repeats=7):
    """Rows of a case: time, ratio to the first function with its quartiles, memory, compile time."""
    built = {name: compiled(f, args) for name, f in functions.items()}
    times = interleaved({name: b[0] for name, b in built.items()}, args, repeats)
    base = times[next(iter(times))]
    rows = []
    for name, (_, compile_s, temp) in built.items():
        ratios = sorted(t / b for t, b in zip(times[name], base))
        rows.append(
            {
                "case": title,
                "what": name,
                "ms": 1e3 * statistics.median(times[name]),
                "ratio": statistics.median(ratios),
                "low": ratios[len(ratios) // 4],
                "high": ratios[-1 - len(ratios) // 4],
                "temp_MB": temp / 1e6,
                "compile_s": compile_s,
            }
        )
    return rows


def peak_bytes():
    """The most resident memory that this process has had (Linux). `ru_maxrss` would not do: a process
    begins with that of the one that started it."""
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


def relative_error(got, wanted):
    """|got − wanted| / |wanted| over all leaves, in float64."""
    pairs = list(zip(jax.tree.leaves(got), jax.tree.leaves(wanted)))
    square = lambda xs: sum(float((x.astype("float64") ** 2).sum()) for x in xs)
    return (
        square([a.astype("float64") - b.astype("float64") for a, b in pairs])
        / square([b for _, b in pairs])
    ) ** 0.5


def machine():
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "devices": [str(d) for d in jax.devices()],
        "jax": jax.__version__,
    }


def table(rows, columns):
    """A Markdown table."""

    def text(x):
        return f"{x:.3g}" if isinstance(x, float) else str(x).replace("|", "\\|")  # of a language

    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(text(row.get(c, "")) for c in columns) + " |" for row in rows]
    return "\n".join(lines)


def write(name, rows, columns, note=""):
    """results/NAME.json and results/NAME.md, and the table to the terminal."""
    OUT.mkdir(exist_ok=True)
    (OUT / f"{name}.json").write_text(
        json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n"
    )
    m = machine()
    head = f"# {name}\n\n{note}\n\n{m['processor']}, {m['cores']} cores, jax {m['jax']}.\n\n"
    (OUT / f"{name}.md").write_text(head + table(rows, columns) + "\n")
    print(f"\n{table(rows, columns)}\n", flush=True)
