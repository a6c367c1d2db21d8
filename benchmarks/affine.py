"""Units that nothing recurrent drives: their steps one after the other, or all at once.

    python -m benchmarks.affine [--small]

Time of e-prop's gradient of a whole sequence, float32, as a share of that by steps in the same run. The
library takes the steps on CPU and all at once elsewhere (`network/affine.py`); here each form is asked
for. Both are held to each other in float64 first.
"""

import argparse
import functools
from unittest import mock

import jax

import eprop_jax as ej
from benchmarks import harness
from eprop_jax.network import affine

LOSS = ej.losses.squared_error
FORMS = {"steps": lambda steps, at_once: steps(), "at once": lambda steps, at_once: at_once()}


def by(form, rule, params, xs, ys):
    with mock.patch.object(affine, "by_device", FORMS[form]):
        return ej.value_and_grad(rule)(params, xs, ys)


def case(n, T, B, repeats):
    net = ej.Network(ej.cells.linear_recurrence(40, n, frequency=0.1), ej.readouts.linear(n, 2))
    xs = jax.random.normal(jax.random.key(1), (T, B, 40))
    ys = jax.random.normal(jax.random.key(2), (T, B, 2))
    args = net.init(jax.random.key(0)), xs, ys
    # One rule a form, since what a rule has compiled it keeps.
    functions = {form: functools.partial(by, form, ej.eprop(net, LOSS)) for form in FORMS}
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: x.astype("float64"), args)
        (_, one), (_, two) = (jax.jit(f)(*wide) for f in functions.values())
        error = harness.relative_error(two, one)
    if not error < 1e-11:
        raise AssertionError(f"n={n} T={T} B={B}: the two forms differ by {error:.1e}")
    rows = harness.measure(f"linear recurrence n={n} T={T} B={B}", functions, args, repeats)
    return [{**row, "error": error} for row in rows]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--small", action="store_true", help="tiny sizes, which say nothing")
    small = parser.parse_args().small
    sizes = [(16, 100_000, 1), (64, 100_000, 1), (256, 8192, 1), (64, 4096, 16), (256, 1024, 16)]
    sizes, repeats = ([(8, 64, 2)], 3) if small else (sizes, 7)
    rows = [row for size in sizes for row in case(*size, repeats)]
    columns = ["case", "what", "ratio", "low", "high", "ms", "temp_MB", "compile_s", "error"]
    note = __doc__.split("\n\n")[2].replace("\n", " ")
    note += f" On {jax.devices()[0].device_kind}."
    harness.write("affine_small" if small else "affine", rows, columns, note)


if __name__ == "__main__":
    main()
