"""What loading and giving back weights have in common.

A library's file says of each kind of its modules where the arrays of ours are kept. Nothing here
knows a library, and what is here and there holds the same numbers: one table is read both ways.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax import checks
from eprop_jax.network import readouts
from eprop_jax.network.cells.gated import gru, gru_unit, lstm, lstm_unit
from eprop_jax.network.cells.rate import activated, rnn
from eprop_jax.network.types import Array, Cell, Readout
from eprop_jax.network.units import like
from eprop_jax.network.unitwise import driven

At = tuple[str, ...]
"""the names that lead to an array"""


class Place(NamedTuple):
    """Where an array of ours is kept."""

    at: At
    block: int = 0
    of: int = 1
    """one of so many equal blocks, side by side along the units' axis"""
    axis: int = -1
    """the units' axis: kernels are [pre, post] or, with 0, [post, pre]"""


Places = Mapping[At, Place]
"""{("w_in", "r"): its place}"""


def side_by_side(line: str, gates: tuple[str, ...], at: At, axis: int = -1) -> Places:
    """Gates that share one array, in this order."""
    return {(line, g): Place(at, k, len(gates), axis) for k, g in enumerate(gates)}


class Ours(NamedTuple):
    """A cell or a read-out of ours that has a counterpart."""

    name: str
    make: Callable[[Any, int, int, tuple[str, ...]], Any]
    """(their module, n_in, n, the gates that have a bias) -> it"""
    is_one: Callable[[Any, Any], bool]
    """(a cell or a read-out, their module)"""
    plain: Callable[[Any, dict], dict] = lambda part, params: params
    """(it, its parameters) -> the parameters of the one that `make` makes, for the same function"""


def is_gru(cell: Any) -> bool:
    return isinstance(cell, Cell) and cell.dynamics is gru_unit


def is_lstm(cell: Any) -> bool:
    return isinstance(cell, Cell) and getattr(cell.dynamics, "func", None) is lstm_unit


def is_rnn(cell: Any) -> bool:
    """`ej.cells.stateless` has the same unit, and no w_rec."""
    return isinstance(cell, Cell) and cell.dynamics is driven


def activation(cell: Cell) -> Callable[[Array], Array]:
    """φ of an rnn, which its output applies."""
    assert isinstance(cell.output, functools.partial) and cell.output.func is activated
    return cell.output.args[0]


def without_forget_bias(cell: Cell, params: dict) -> dict:
    """An LSTM's forget bias as a part of the trained one."""
    assert isinstance(cell.dynamics, functools.partial)
    inside = cell.dynamics.args[0]
    if not checks.is_traced(inside) and inside == 0:
        return params
    b = checks.mapping("params['bias']", params.get("bias", {}))
    if "f" not in b:
        raise ValueError(
            f"cell: got forget_bias={inside} and no trained bias of f, wanted one that can hold it"
        )
    return {**params, "bias": {**b, "f": b["f"] + like(inside, b["f"])}}


GRU = Ours(
    "ej.cells.gru",
    lambda module, n_in, n, biases: gru(n_in, n, biases=biases),
    lambda part, module: is_gru(part),
)
LSTM = Ours(
    "ej.cells.lstm",
    lambda module, n_in, n, biases: lstm(n_in, n, forget_bias=0.0, biases=biases),
    lambda part, module: is_lstm(part),
    without_forget_bias,
)
SIMPLE = Ours(
    "ej.cells.rnn of the same activation",
    lambda module, n_in, n, biases: rnn(n_in, n, activation=phi(module)),
    lambda part, module: is_rnn(part) and activation(part) is phi(module),
)
LINEAR = Ours(
    "ej.readouts.linear",
    lambda module, n_in, n, biases: readouts.linear(n_in, n, bias=bool(biases)),
    lambda part, module: isinstance(part, Readout) and part.dynamics is driven,
)

SIGMOID = (jax.nn.sigmoid, jax.lax.logistic)
TANH = (jnp.tanh, jax.lax.tanh)
PHI = (jnp.tanh, jax.nn.relu, jax.nn.identity)
"""What a simple cell may apply: elementwise, and 0 at 0, so that both start from the same output."""


def phi(module: Any) -> Callable[[Array], Array]:
    return getattr(module, "activation_fn", jnp.tanh)


class Kind(NamedTuple):
    """A kind of modules of another library."""

    ours: Ours
    places: Places
    settings: Mapping[str, tuple] = {}
    """{attribute: the values under which it is ours}"""

    def places_in(self, module: Any) -> Places:
        biased = getattr(module, "use_bias", True)
        return {key: p for key, p in self.places.items() if biased or key[0] != "bias"}


def kind_of(name: str, module: Any, kinds: Mapping[type, Kind], library: str) -> Kind:
    """Its kind, by its class: a subclass may compute anything."""
    if type(module) not in kinds:
        known = ", ".join(sorted(c.__name__ for c in kinds))
        hint = f" (try {name}.cell)" if hasattr(module, "cell") else ""
        raise TypeError(f"{name}: got {origin(module)}, wanted one of {library}: {known}{hint}")
    kind = kinds[type(module)]
    for setting, allowed in kind.settings.items():
        value = getattr(module, setting)
        if not any(value is x for x in allowed):
            wanted = " or ".join(dict.fromkeys(map(called, allowed)))
            raise ValueError(f"{name}.{setting}: got {called(value)}, wanted {wanted}")
    return kind


def origin(module: Any) -> str:
    """What it is and whose: other libraries have a GRUCell too."""
    if isinstance(module, type):
        return f"the class {module.__name__} itself"
    library = type(module).__module__.split(".")[:2]
    return ".".join((*library, type(module).__name__))


def called(value: Any) -> str:
    return getattr(value, "__name__", repr(value))


def of_module(
    module: Any, kind: Kind, arrays: Mapping[At, Any], label: Callable[[At], str], n_in: int, n: int
) -> tuple[Any, Places]:
    """(the cell or read-out that it is here, where its arrays are), with its arrays checked."""
    n_in, n = checks.size("module: its inputs", n_in), checks.size("module: its units", n)
    places = kind.places_in(module)
    part = kind.ours.make(module, n_in, n, biases(places))
    known = {p.at for p in places.values()}
    for at in sorted(arrays.keys() - known):
        raise ValueError(f"{label(at)}: an {kind.ours.name} has no place for it, wanted none")
    for key, shape in shapes(part).items():
        p = places[key]
        if p.at not in arrays:
            raise ValueError(f"{label(p.at)}: missing, wanted an array of numbers")
        x, of_all = checks.array(label(p.at), arrays[p.at]), (*shape[:-1], shape[-1] * p.of)
        wanted = of_all[::-1] if p.axis == 0 else of_all
        if tuple(x.shape) != wanted:
            raise ValueError(f"{label(p.at)}: got shape {list(x.shape)}, wanted {list(wanted)}")
    one_dtype({label(at): x for at, x in arrays.items()}, getattr(module, "dtype", None))
    return part, places


def biases(places: Places) -> tuple[str, ...]:
    """The gates that have one; of a cell or a read-out without gates, one name for its own."""
    return tuple(key[-1] for key in places if key[0] == "bias")


def shapes(part: Any) -> dict[At, tuple[int, ...]]:
    drawn = jax.eval_shape(lambda: part.init(jax.random.key(0)))
    return {key: x.shape for key, x in leaves(drawn).items()}


def leaves(tree: Any) -> dict[At, Any]:
    """Of a dict of dicts."""
    return {
        tuple(str(getattr(k, "key", k)) for k in path): x
        for path, x in jax.tree.leaves_with_path(tree)
    }


def nested(arrays: Mapping[At, Any]) -> dict:
    """`leaves`, undone."""
    tree: dict = {}
    for (*within, last), x in arrays.items():
        node = tree
        for name in within:
            node = node.setdefault(name, {})
        node[last] = x
    return tree


def one_dtype(arrays: Mapping[str, Any], dtype: Any) -> None:
    """Real floating numbers of one dtype, and the module computes in no other."""
    for name, x in arrays.items():
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"{name}: got dtype {x.dtype}, wanted a floating dtype")
        if jax.dtypes.canonicalize_dtype(x.dtype) != x.dtype:
            raise TypeError(f"{name}: got {x.dtype}, wanted float32, or jax_enable_x64 switched on")
    found = sorted({str(x.dtype) for x in arrays.values()})
    if len(found) > 1:
        raise TypeError(f"{next(iter(arrays))}: got {found} with the others, wanted one dtype")
    if dtype is not None and jnp.dtype(dtype) != found[0]:
        raise TypeError(
            f"module.dtype: got {jnp.dtype(dtype)} beside weights in {found[0]}, wanted None or the "
            "weights' own: here all is computed in the dtype of the weights"
        )


def ours(places: Places, arrays: Mapping[At, Any]) -> dict:
    """Their arrays -> our parameters, copied."""

    def of(p):
        return jnp.moveaxis(jnp.split(jnp.array(arrays[p.at]), p.of, p.axis)[p.block], p.axis, -1)

    return nested({key: of(p) for key, p in places.items()})


def theirs(places: Places, params: dict) -> dict[At, Array]:
    """Our parameters -> their arrays, copied."""
    blocks: dict[At, dict[int, Any]] = {}
    axes = {p.at: p.axis for p in places.values()}
    found = leaves(params)
    for key, p in places.items():
        blocks.setdefault(p.at, {})[p.block] = jnp.moveaxis(jnp.array(found[key]), -1, p.axis)
    return {at: jnp.concatenate([x[k] for k in sorted(x)], axes[at]) for at, x in blocks.items()}


def given(part: Any, params: Any, kind: Kind, wanted: Any, like: Any, dtype: Any) -> dict:
    """Our parameters, checked to be those of the module's own kind (`wanted`, from `of_module`) and
    dtype (None: any)."""
    if not kind.ours.is_one(part, like):
        raise TypeError(
            f"cell: got {part if isinstance(part, (Cell, Readout)) else type(part).__name__}, "
            f"wanted an {kind.ours.name}, which {type(like).__name__} is there"
        )
    for line, s in part.synapses.items():
        if not s.matrix or s.exists is not None or s.delay:
            raise ValueError(f"cell: got {s.name} synapses in {line}, wanted dense ones")
    params = dict(checks.mapping("params", params))
    for name in ("cell", "readout"):
        if name in params:
            raise ValueError(
                f"params: got a dict with the key {name!r}, wanted the part's own: params[{name!r}]"
            )
    found, want = leaves(params), shapes(wanted)
    label = lambda key: "params" + "".join(f"[{k!r}]" for k in key)
    for key in sorted(found.keys() - want.keys()):
        raise ValueError(f"{label(key)}: {type(like).__name__} has no place for it, wanted none")
    for key in sorted(want.keys() - found.keys()):
        raise ValueError(f"{label(key)}: missing, wanted {list(want[key])}")
    for key, x in found.items():
        if tuple(checks.array(label(key), x).shape) != want[key]:
            raise ValueError(f"{label(key)}: got shape {list(x.shape)}, wanted {list(want[key])}")
    one_dtype({label(key): x for key, x in found.items()}, None)
    own = next(iter(found.values())).dtype
    if dtype is not None and own != jnp.dtype(dtype):
        raise TypeError(f"params: got dtype {own}, wanted {jnp.dtype(dtype)}, which `like` has")
    return kind.ours.plain(part, params)
