"""Convolutions: units stand on a grid, and all places share one kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax import checks
from eprop_jax.network.synapses.value import Array, Kind, Synapses, normal

PADDING = ("SAME", "VALID")


def conv(
    shape: Sequence[int],
    channels: int,
    kernel: Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: str = "SAME",
) -> Kind:
    """A convolution of 1 or 2 dimensions: w [*kernel, channels heard, channels].

    The units that are heard stand on a grid, `shape` = (*places, channels), flattened in this order;
    those that it drives on the grid that `conv_shape` tells. A trace has the kernel's lines at each
    place, [*batch, lines, n_post], and is added over places where a gradient is made of it.

    Args:
      shape: (length, channels) or (height, width, channels) of what is heard.
      channels: of the units that it drives.
      kernel: (length,) or (height, width).
      stride: steps between places, one for all dimensions or one each.
      padding: "SAME" or "VALID", as in `jax.lax.conv_general_dilated`.

    Returns:
      A kind.

    Raises:
      TypeError, ValueError: for what does not fit together; where the kind meets its line, for sizes
        that are not those of the grids.

    >>> import math, jax, eprop_jax as ej
    >>> grid = ej.synapses.conv_shape((8, 8, 1), channels=4, kernel=(3, 3), stride=2)
    >>> grid
    (4, 4, 4)
    >>> w_in = ej.synapses.conv((8, 8, 1), channels=4, kernel=(3, 3), stride=2)
    >>> cell = ej.cells.lif(64, math.prod(grid), w_in=w_in, drives=("w_in", "bias"))
    >>> cell.init(jax.random.key(0))["w_in"].shape
    (3, 3, 1, 4)
    """
    grid = conv_shape(shape, channels, kernel, stride=stride, padding=padding)
    *places, heard = shape = tuple(shape)
    kernel, strides = tuple(kernel), _each(stride, len(places))
    n_lines = math.prod(kernel) * heard
    names = ("NHC", "HIO", "NHC") if len(places) == 1 else ("NHWC", "HWIO", "NHWC")

    def kind(n_pre: int, n_post: int) -> Synapses:
        for name, n, wanted in (("shape", n_pre, shape), ("channels", n_post, grid)):
            if n != math.prod(wanted):
                raise ValueError(
                    f"{name}: got a grid of {' × '.join(map(str, wanted))} = {math.prod(wanted)} "
                    f"units, wanted the line's {n}"
                )
        at = _heard(shape, grid, kernel, strides, padding)

        def drive(w: Array, pre: Array) -> Array:
            x = pre.reshape(-1, *shape).astype(jnp.result_type(pre, w))
            a = jax.lax.conv_general_dilated(
                x, w.astype(x.dtype), strides, padding, dimension_numbers=names
            )
            return a.reshape(*pre.shape[:-1], n_post)

        def view(pre: Array) -> Array:
            filled = jnp.concatenate([pre, jnp.zeros_like(pre[..., :1])], -1)
            by_place = filled.at[..., jnp.asarray(at)].get(mode="promise_in_bounds")
            return jnp.repeat(by_place, channels, -1)  # all channels of a place hear the same

        return Synapses(
            n_pre,
            n_post,
            init=lambda key, gain: normal(key, (*kernel, heard, channels), n_lines, gain),
            drive=drive,
            view=view,
            tie=lambda x: x.reshape(*kernel, heard, -1, channels).sum(-2),
            name="conv",
        )

    return kind


def conv_shape(
    shape: Sequence[int],
    channels: int,
    kernel: Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: str = "SAME",
) -> tuple[int, ...]:
    """The grid (*places, channels) of the units that `conv` drives; its product is their number.

    Args:
      shape, channels, kernel, stride, padding: as in `conv`.

    Raises:
      TypeError, ValueError: for what does not fit together.

    >>> import eprop_jax as ej
    >>> ej.synapses.conv_shape((16, 16, 1), 8, (5, 5), padding="VALID")
    (12, 12, 8)
    """
    dims = len(tuple(kernel))
    if dims not in (1, 2) or len(tuple(shape)) != dims + 1:
        raise ValueError(
            f"shape, kernel: got {tuple(shape)} and {tuple(kernel)}, wanted (length, channels) and "
            "(length,), or (height, width, channels) and (height, width)"
        )
    for k, sizes in (("shape", shape), ("kernel", kernel), ("stride", _each(stride, dims))):
        for x in sizes:
            checks.size(k, x)
    if len(_each(stride, dims)) != dims:
        raise ValueError(f"stride: got {stride}, wanted one number, or {dims}")
    channels = checks.size("channels", channels)
    if padding not in PADDING:
        raise ValueError(f"padding: got {padding!r}, wanted one of {PADDING}")
    step = _each(stride, dims)
    if padding == "SAME":
        places = tuple(-(-x // s) for x, s in zip(shape, step))
    else:
        places = tuple((x - k) // s + 1 for x, k, s in zip(shape, kernel, step))
    if min(places) < 1:
        raise ValueError(f"kernel: got {tuple(kernel)}, wanted at most {tuple(shape[:-1])}")
    return (*places, channels)


def pooled(kind: Kind, shape: Sequence[int], size: int | Sequence[int]) -> Kind:
    """Synapses that hear the mean of each block of a grid: average pooling, then `kind`.

    Args:
      kind: of the synapses behind it, whose n_pre is the number of blocks times channels.
      shape: (*places, channels) of the units that are heard.
      size: of a block, one number for all dimensions or one each, which divide the places.

    Returns:
      A kind, with the weights of `kind`.

    Raises:
      TypeError, ValueError: for sizes that do not fit.

    >>> import jax, eprop_jax as ej
    >>> w_in = ej.synapses.pooled(ej.synapses.dense(), shape=(8, 8, 2), size=4)
    >>> ej.cells.gru(128, 5, w_in=w_in).init(jax.random.key(0))["w_in"]["z"].shape
    (8, 5)
    """
    checks.is_callable("kind", kind)
    *places, channels = shape = tuple(checks.size("shape", x) for x in shape)
    block = _each(size, len(places))
    for x in block:
        checks.size("size", x)
    if len(block) != len(places) or any(x % b for x, b in zip(places, block)):
        raise ValueError(f"size: got {size}, wanted sizes that divide {tuple(places)}")
    blocks = [x // b for x, b in zip(places, block)]
    split = [x for pair in zip(blocks, block) for x in pair]
    within = tuple(range(-2 * len(blocks), 0, 2))  # the axes inside a block, before the channels'

    def pool(pre: Array) -> Array:
        x = pre.reshape(*pre.shape[:-1], *split, channels)
        return x.mean([a for a in within]).reshape(*pre.shape[:-1], -1)

    def kind_of(n_pre: int, n_post: int) -> Synapses:
        if n_pre != math.prod(shape):
            raise ValueError(
                f"shape: got a grid of {math.prod(shape)} units, wanted the line's {n_pre}"
            )
        s = kind(math.prod(blocks) * channels, n_post)
        collect = s.collect
        return s._replace(
            n_pre=n_pre,
            drive=lambda w, pre: s.drive(w, pool(pre)),
            view=lambda pre: s.view(pool(pre)),
            back=None,
            collect=None if collect is None else lambda pre, da: collect(pool(pre), da),
            own=None,
            matrix=False,
            name=f"pooled {s.name}",
        )

    return kind_of


def _each(x: Any, dims: int) -> tuple[int, ...]:
    return (x,) * dims if np.ndim(x) == 0 else tuple(x)


def _heard(shape, grid, kernel, strides, padding) -> np.ndarray:
    """[lines, places]: which unit each line of a place hears; beyond the edge, the number of all."""
    *places, channels = shape
    index = np.arange(math.prod(shape)).reshape(shape)
    if padding == "SAME":
        # As XLA pads: the larger half after.
        total = [
            max((o - 1) * s + k - x, 0) for o, s, k, x in zip(grid[:-1], strides, kernel, places)
        ]
        sides = [(t // 2, t - t // 2) for t in total]
        index = np.pad(index, [*sides, (0, 0)], constant_values=index.size)
    windows = np.lib.stride_tricks.sliding_window_view(index, kernel, tuple(range(len(places))))
    windows = windows[tuple(slice(None, None, s) for s in strides)]
    # [*places, channels, *kernel] -> [*kernel, channels, places]
    dims = len(places)
    windows = windows[tuple(slice(o) for o in grid[:-1])]
    order = (*range(dims + 1, 2 * dims + 1), dims, *range(dims))
    return windows.transpose(order).reshape(math.prod(kernel) * channels, -1).astype(np.int32)
