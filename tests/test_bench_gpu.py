"""benchmarks/gpu.py on whatever device there is, at sizes that say nothing of speed: the gradients of
its rows are held, and each has its shares."""

import json
import os
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_table_of_one_device_is_printed(tmp_path):
    code = [
        sys.executable,
        "-m",
        "benchmarks.gpu",
        "--small",
        "--profile",
        str(tmp_path / "traced"),
    ]
    subprocess.run(code, check=True, env={**os.environ, "BENCH_OUT": str(tmp_path)}, timeout=900)
    rows = json.loads((tmp_path / "gpu_small.json").read_text())["rows"]
    whats = {row["what"] for row in rows}
    assert {"BPTT", "e-prop, K = 1", "order 16, K = T", "RTRL, auto", "i*f*", "lists"} <= whats
    assert all(row["ms"] > 0 and row["GEMM"] > 0 and row["bandwidth"] > 0 for row in rows)
    assert len([*(tmp_path / "traced").iterdir()]) == 3
