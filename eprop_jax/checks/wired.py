"""Refusals of how the layers of a network hear each other."""

from __future__ import annotations

from typing import Any

import numpy as np

Inputs = tuple[tuple[Any, ...], ...]


def usual_wiring(n_layers: int) -> tuple[Inputs, tuple[int, ...]]:
    """Each layer hears the one below, the first the inputs; the read-out hears the last."""
    return (("x",), *((l,) for l in range(n_layers - 1))), (n_layers - 1,)


def wiring(cells, readout, inputs, reads) -> tuple[Inputs, tuple[int, ...]]:
    """(what each layer hears, what the read-out hears), the usual for None; sizes must fit."""
    n = len(cells)
    if n == 0:
        raise ValueError("cell: got an empty list, wanted at least one ej.Cell")
    usual = usual_wiring(n)
    inputs = usual[0] if inputs is None else _inputs(inputs, n)
    reads = usual[1] if reads is None else _layers("reads", reads, n)
    sizes_fit(cells, readout, inputs, reads)
    return inputs, reads


def _inputs(inputs, n: int) -> Inputs:
    form = 'of each layer a tuple of "x" and numbers of layers below it'
    if not isinstance(inputs, (tuple, list)):
        raise TypeError(f"inputs: got {type(inputs).__name__}, wanted {form}")
    if len(inputs) != n:
        raise ValueError(f"inputs: got {len(inputs)} entries, wanted {n}: {form}")
    found = tuple(_layers(f"inputs[{l}]", names, l, "x") for l, names in enumerate(inputs))
    if not any("x" in names for names in found):
        raise ValueError(f'inputs: got {found}, wanted a layer that hears the inputs, "x"')
    return found


def _layers(name: str, given, n: int, *others: str) -> tuple:
    """Distinct numbers of layers below n, or one of the other names."""
    below = f"numbers of layers from 0 to {n - 1}" if n else "nothing else"
    wanted = f"a tuple, without repetition, of {' or '.join([*map(repr, others), below])}"
    if not isinstance(given, (tuple, list)):
        raise TypeError(f"{name}: got {given!r}, wanted {wanted}")

    def one(k):
        number = isinstance(k, (int, np.integer)) and not isinstance(k, bool) and 0 <= k < n
        if not number and not (isinstance(k, str) and k in others):
            raise ValueError(f"{name}: got {k!r}, wanted {wanted}")
        return int(k) if number else k

    found = tuple(map(one, given))
    if not found or len(set(found)) < len(found):
        raise ValueError(f"{name}: got {found}, wanted {wanted}")
    return found


def sizes_fit(cells, readout, inputs: Inputs, reads: tuple[int, ...]) -> None:
    units = lambda names: sum(cells[k].n_units for k in names if k != "x")
    n_x = None
    for l, (cell, names) in enumerate(zip(cells, inputs)):
        if "x" in names and n_x is None:
            n_x, first = cell.n_in - units(names), l
            if n_x < 1:
                raise ValueError(
                    f"cell[{l}]: has n_in={cell.n_in}, wanted more than {units(names)}, the units of "
                    f"the layers that it hears beside the inputs (inputs[{l}]={names})"
                )
        wanted = units(names) + ((n_x or 0) if "x" in names else 0)
        if cell.n_in != wanted:
            also = f', with {n_x} inputs "x", as layer {first} has' if "x" in names else ""
            raise ValueError(
                f"cell[{l}]: has n_in={cell.n_in}, wanted {wanted}, the sum of what it hears "
                f"(inputs[{l}]={names}{also})"
            )
    if readout.n_units != units(reads):
        whose = (
            "the cell's n_units" if len(cells) == 1 else f"the units of its layers, reads={reads}"
        )
        raise ValueError(f"readout: has n_units={readout.n_units}, wanted {units(reads)}, {whose}")


def matrices(name: str, net):
    """Refuse synapses that are no matrix [pre, post], or late, where something is written for those."""
    layers = [("cell", cell) for cell in net.cells] + [("readout", net.readout)]
    for where, layer in layers:
        for line, s in layer.synapses.items():
            if not s.matrix or s.delay:
                raise ValueError(
                    f"{name}: got {line} of {s.name} synapses in its {where}, wanted "
                    "matrices [pre, post], which is what this is written for"
                )
    return net


def no_initial(params):
    """Refuse a trained initial state, where something takes c^0 for data."""
    if "initial" in params["cell"]:
        raise ValueError(
            "params['cell']['initial']: got a trained initial state, wanted none: here c^0 is data"
        )


def no_delays(name: str, net):
    """Refuse synapses that hear what was sent earlier, where a jump is taken to take one step."""
    for l, cell in enumerate(net.cells):
        for line, s in cell.synapses.items():
            if s.delay:
                raise ValueError(
                    f"{name}: got delays on {line} of layer {l}, wanted none: here a jump takes one "
                    "step"
                )
    return net


def one_layer(name: str, net):
    """Refuse a stack, where something is written for one layer."""
    if net.stacked:
        raise ValueError(
            f"{name}: got a stack of {len(net.cells)} layers, wanted a network of one cell, which is "
            "what this is written for"
        )
    return net
