"""Independent oracles for layers of units, written from the cells' contract alone.

A cell is `dynamics(theta_j, c_j, a_j)` and `output(theta_j, c_j)` of one unit, and parameters w_in,
w_rec, bias (plain, or a dict by drive) and theta; a read-out is `dynamics(phi_k, y_k, a_k)`, w_out,
bias and theta. Layer l hears at step t what `inputs[l]` names, side by side (the inputs "x", or
layers below it at the same step), and its own h^{t-1} through w_rec, where h^0 = output(c^0). The
read-out hears the layers of `reads` side by side. The loss is Σ_t mean_batch loss(y^t, target^t).

Three forms of one gradient, the last two of them for a language of paths:

    simulate, total      a Python loop over steps and layers, for `jax.grad`
    enumerate_words      every path by itself: its word, and the product of its edges
    tangent_gradient     forward in time, one tangent for each layer whose parameters move, layer
                         and state of the automaton

`feedback` (an array [n_l, n_out] a layer, or None for it) replaces w_out on the way back, also for
layers that the read-out does not hear. `activity` (a layer: f [n] -> [] of its mean over steps, or
None) and `state` (a layer: c_j -> [], or None) are further losses; a path may end at them too.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

stop = jax.lax.stop_gradient


class Stack(NamedTuple):
    cells: tuple
    readout: Any
    inputs: tuple
    """of each layer, what w_in hears: "x" or numbers of layers below"""
    reads: tuple

    @property
    def sizes(self):
        return [cell.n_units for cell in self.cells]


class Run(NamedTuple):
    """What happened: a list by layer of arrays [T, B, ...], and of trees of them."""

    y: Any
    a_out: Any
    c_0: list
    c_tm1: list
    c: list
    a: list
    pre: list
    """what w_in hears, [T, B, n_in]"""
    h_tm1: list
    h: list


def chain(cells, readout):
    """Each layer hears the one below, and the read-out the last."""
    inputs = (("x",), *((l,) for l in range(len(cells) - 1)))
    return Stack(tuple(cells), readout, inputs, (len(cells) - 1,))


# -- the network -----------------------------------------------------------------------------------


def by_gate(p, line):
    return p[line] if isinstance(p.get(line), dict) else {"": p[line]} if line in p else {}


def values(layer, p):
    """What one unit finds in theta_j, for all units."""
    fixed = {
        k: jnp.asarray(v, float if np.issubdtype(np.asarray(v).dtype, np.floating) else "int32")
        for k, v in layer.constants.items()
    }
    return fixed | p.get("theta", {})


def existing(stack, params):
    """Absent synapses are zero."""
    cells = [
        p if cell.connectivity is None or "w_rec" not in p else
        {**p, "w_rec": jax.tree.map(lambda w: jnp.where(cell.connectivity, w, 0.0), p["w_rec"])}
        for cell, p in zip(stack.cells, params["cell"])
    ]  # fmt: skip
    return {**params, "cell": cells}


def drive(cell, p, pre, h_tm1):
    w_in, w_rec, bias = (by_gate(p, line) for line in ("w_in", "w_rec", "bias"))
    a = {}
    for g in {**w_in, **w_rec, **bias}:
        a[g] = jnp.zeros((len(pre), cell.n_units))
        a[g] += pre @ w_in[g] if g in w_in else 0.0
        a[g] += h_tm1 @ w_rec[g] if g in w_rec else 0.0
        a[g] += bias[g][None] if g in bias else 0.0
    return a[""] if set(a) == {""} else a


def units(f, theta, *trees, axes=1):
    """f of one unit's scalars, over units and `axes` leading axes."""
    f = jax.vmap(f)
    for _ in range(axes):
        f = jax.vmap(f, (None, *(0 for _ in trees)))
    return f(theta, *trees)


def simulate(stack, params, xs, feedback=None) -> Run:
    """xs [T, B, n_in] -> what happened, step by step and layer by layer."""
    params, batch = existing(stack, params), (xs.shape[1],)
    layers = list(zip(stack.cells, params["cell"]))
    c = [cell.initial_state(p, batch) for cell, p in layers]
    h = [units(cell.output, values(cell, p), c_l) for (cell, p), c_l in zip(layers, c)]
    out = stack.readout
    y = out.initial_state(params["readout"], batch)
    c_0, steps = list(c), []

    @jax.jit  # compiled once, not once a step
    def step(c_tm1, h_tm1, y_tm1, x):
        c, h, pre, a = [], [], [], []
        for l, (cell, p) in enumerate(layers):
            pre.append(jnp.concatenate([x if k == "x" else h[k] for k in stack.inputs[l]], -1))
            a.append(drive(cell, p, pre[l], h_tm1[l]))
            c_l = units(cell.dynamics, values(cell, p), c_tm1[l], a[l])
            c.append(jax.tree.map(jnp.asarray, c_l))
            h.append(units(cell.output, values(cell, p), c[l]))
        a_out = heard(stack, params["readout"], h, feedback)
        y = units(out.dynamics, values(out, params["readout"]), y_tm1, a_out)
        return c, h, y, a_out, a, pre

    for x in xs:
        c_tm1, h_tm1 = c, h
        c, h, y, a_out, a, pre = step(c_tm1, h_tm1, y, x)
        steps.append((y, a_out, c_tm1, c, a, pre, h_tm1, h))
    y, a_out, *rest = jax.tree.map(lambda *s: jnp.stack(s), *steps)
    return Run(y, a_out, c_0, *rest)


def heard(stack, p_out, h, feedback=None):
    """The read-out's drive."""
    read = jnp.concatenate([h[l] for l in stack.reads], -1)
    if feedback is None:
        a = read @ p_out["w_out"]
    else:
        a = stop(read) @ p_out["w_out"]
        a += sum((h_l - stop(h_l)) @ stop(B) for h_l, B in zip(h, feedback) if B is not None)
    return a + p_out["bias"][None] if "bias" in p_out else a


def loss_of(y, ys, loss):
    return jnp.sum(jax.vmap(jax.vmap(loss))(y, ys)) / y.shape[1]


def own_losses(h, c, activity, state):
    """Activity and state losses of one layer, mean over the batch."""
    batch = h.shape[1]
    of_rate = 0.0 if activity is None else jnp.sum(jax.vmap(activity)(jnp.mean(h, 0)))
    of_state = 0.0 if state is None else jnp.sum(jax.vmap(jax.vmap(jax.vmap(state)))(c))
    return (of_rate + of_state) / batch


def total(stack, params, xs, ys, loss, feedback=None, activity=None, state=None):
    """The loss of the whole sequence; its `jax.grad` keeps every path."""
    run, none = simulate(stack, params, xs, feedback), (None,) * len(stack.cells)
    more = map(own_losses, run.h, run.c, activity or none, state or none)
    return loss_of(run.y, ys, loss) + sum(more)


# -- one unit's blocks, and where a path may end -----------------------------------------------------


class Blocks(NamedTuple):
    """Of one layer, as numpy: d components, g drives, k trained values a unit."""

    D: Any  # [T, B, n, d, d]
    B: dict  # {gate: [T, B, n, d]}
    Theta: dict  # {name: [T, B, n, d]}
    psi: Any  # [T, B, n, d]
    Xi: dict  # {name: [T + 1, B, n]}, from h^0 on
    psi_0: Any  # [B, n, d], of h^0
    start: dict  # {name: the component that it is the initial value of}


def blocks(cell, p, run, l) -> Blocks:
    theta, trained = values(cell, p), sorted(p.get("theta", {}))
    is_float = [jnp.issubdtype(x.dtype, jnp.floating) for x in jax.tree.leaves(run.c_0[l])]
    tree = jax.tree.structure(run.c_0[l])
    gates = list({g: 0 for line in ("w_in", "w_rec", "bias") for g in by_gate(p, line)})

    def floats(c):
        return [x for x, yes in zip(jax.tree.leaves(c), is_float) if yes]

    d = sum(is_float)

    def unpacked(z, theta_j, c_j):
        """Scalars in the places of one unit's state and trained values."""
        numbers = iter(z[:d])
        leaves = [next(numbers) if f else x for x, f in zip(jax.tree.leaves(c_j), is_float)]
        return theta_j | dict(zip(trained, z[len(z) - len(trained) :])), tree.unflatten(leaves)

    def dynamics(theta_j, c_j, a_j):
        a_j = a_j if isinstance(a_j, dict) else {"": a_j}

        def f(z):
            th, c = unpacked(z, theta_j, c_j)
            a = dict(zip(gates, z[d:]))
            after = cell.dynamics(th, c, a[""] if gates == [""] else a)
            return jnp.stack([jnp.asarray(x, float) for x in floats(after)])

        z = [*floats(c_j), *(a_j[g] for g in gates), *(theta_j[k] for k in trained)]
        return jax.jacfwd(f)(jnp.stack(z))

    def output(theta_j, c_j):
        z = jnp.stack([*floats(c_j), *(theta_j[k] for k in trained)])
        return jax.jacfwd(lambda z: cell.output(*unpacked(z, theta_j, c_j)))(z)

    of_dynamics = jax.jit(functools.partial(units, dynamics, axes=2))
    of_output = jax.jit(functools.partial(units, output, axes=2))
    J = np.asarray(of_dynamics(theta, run.c_tm1[l], run.a[l]))
    from_start = jax.tree.map(lambda c_0, c: jnp.concatenate([c_0[None], c]), run.c_0[l], run.c[l])
    K = np.asarray(of_output(theta, from_start))
    return Blocks(
        J[..., :d],
        {g: J[..., d + k] for k, g in enumerate(gates)},
        {name: J[..., d + len(gates) + k] for k, name in enumerate(trained)},
        K[1:, ..., :d],
        {name: K[..., d + k] for k, name in enumerate(trained)},
        K[0, ..., :d],
        {name or "c": z for z, name in enumerate(
            jax.tree_util.keystr(path, simple=True)
            for (path, _), yes in zip(jax.tree.leaves_with_path(run.c_0[l]), is_float) if yes)},
    )  # fmt: skip


class Ends(NamedTuple):
    loss: Any
    readout: dict
    """the read-out's own gradient"""
    dh: list
    """∂L/∂h^t of each layer [T, B, n], past the read-out or from the layer's activity"""
    dc: list
    """∂L/∂c^t of each layer [T, B, n, d]"""


def ends(stack, params, run, ys, loss, feedback=None, activity=None, state=None) -> Ends:
    out, p_out = stack.readout, params["readout"]

    step = jax.jit(lambda p, y, a_t: units(out.dynamics, values(out, p), y, a_t))

    def of_read(p, a_out):
        y, all_y = out.initial_state(p, (ys.shape[1],)), []
        for a_t in a_out:
            y = step(p, y, a_t)
            all_y.append(y)
        return loss_of(jnp.stack(all_y), ys, loss)

    def of_outputs(p):
        return of_read(p, jax.vmap(lambda *h: heard(stack, p, h))(*run.h))

    value, readout = jax.value_and_grad(of_outputs)(p_out)
    dL_da = np.asarray(jax.grad(of_read, argnums=1)(p_out, run.a_out))
    dh, dc, first = [], [], 0
    back = [None] * len(stack.cells) if feedback is None else list(feedback)
    if feedback is None:
        for l in stack.reads:
            back[l] = p_out["w_out"][first : first + stack.sizes[l]]
            first += stack.sizes[l]
    none = (None,) * len(stack.cells)
    for h, c, B, f, g in zip(run.h, run.c, back, activity or none, state or none):
        dh.append(np.zeros(h.shape) if B is None else dL_da @ np.asarray(B).T)
        is_float = [jnp.issubdtype(x.dtype, jnp.floating) for x in jax.tree.leaves(c)]
        dc.append(np.zeros((*h.shape, sum(is_float))))
        if (f, g) != (None, None):
            by = jax.value_and_grad(own_losses, argnums=(0, 1), allow_int=True)
            more, (by_h, by_c) = by(h, c, f, g)
            value += more
            dh[-1] = dh[-1] + by_h
            by_c = [x for x, yes in zip(jax.tree.leaves(by_c), is_float) if yes]
            dc[-1] = np.stack(list(map(np.asarray, by_c)), -1)
    return Ends(value, readout, dh, dc)


class Problem(NamedTuple):
    """A network at its parameters and data, run and differentiated unit by unit: what the sums over
    paths need, whatever the language."""

    stack: Stack
    params: dict
    run: Run
    blocks: list
    ends: Ends


def problem(stack, params, xs, ys, loss, feedback=None, activity=None, state=None) -> Problem:
    """xs [T, B, n_in], ys [T, B, n_out], loss(y [n_out], target) -> []; the rest as above."""
    params = existing(stack, params)
    run = simulate(stack, params, xs)
    J = [blocks(cell, p, run, l) for l, (cell, p) in enumerate(zip(stack.cells, params["cell"]))]
    end = ends(stack, params, run, ys, loss, feedback, activity, state)
    return Problem(stack, params, run, J, end)


def like(stack, params, grads, readout):
    """Gradients by layer and leaf, as a tree like the parameters'."""

    def layer(cell, p, leaves):
        found = jax.tree.structure(p).unflatten(leaves)
        if cell.connectivity is None or "w_rec" not in p:
            return found
        mask = cell.connectivity
        return {**found, "w_rec": jax.tree.map(lambda g: np.where(mask, g, 0.0), found["w_rec"])}

    cells = [layer(*each) for each in zip(stack.cells, params["cell"], grads)]
    return {"cell": tuple(cells), "readout": readout}


def external(given):
    """n_in, the number of inputs "x"."""
    for pre, names in zip(given.run.pre, given.stack.inputs):
        if "x" in names:
            return pre.shape[-1] - sum(given.stack.sizes[k] for k in names if k != "x")


def part_of(path):
    """("w_in", gate) or ("theta", name)."""
    return path[0].key, path[1].key if len(path) > 1 else ""


# -- every path by itself ---------------------------------------------------------------------------


def enumerate_words(given: Problem, accepts):
    """(loss, grads) of the paths whose word `accepts` takes; a letter `e` is a synapse between two
    units, `s` one of a unit to itself. For tiny networks."""
    stack, p, run, J, end = given
    (T, batch), accepts = run.y.shape[:2], functools.cache(accepts)
    width = external(given)
    w_in, w_rec = ([by_gate(q, line) for q in p["cell"]] for line in ("w_in", "w_rec"))
    w_in, w_rec = jax.tree.map(np.asarray, (w_in, w_rec))
    first = [dict(zip(names, np.cumsum([0, *widths]))) for names, widths in (
        (names, [width if k == "x" else stack.sizes[k] for k in names])
        for names in stack.inputs)]  # fmt: skip

    def synapse(l, k, t, b, weights, row):
        """∂c_k^t by what unit `row` of `weights` sends, [d]."""
        return sum(J[l].B[g][t, b, k] * w[row, k] for g, w in weights.items())

    def from_h(l, j, t, b, carried, word):
        """Σ over all paths from h_j^t on, times what was `carried` there: [what it is by]."""
        found = 0.0 * carried
        if t >= 0 and accepts(word):
            found = end.dh[l][t, b, j] * carried
        for k in range(stack.sizes[l]) if t + 1 < T and w_rec[l] else ():
            c = np.multiply.outer(synapse(l, k, t + 1, b, w_rec[l], j), carried)
            found = found + from_c(l, k, t + 1, b, c, word + ("s" if k == j else "e"))
        for above in range(l + 1, len(stack.cells)) if t >= 0 else ():
            for k in range(stack.sizes[above]) if l in stack.inputs[above] else ():
                at = synapse(above, k, t, b, w_in[above], first[above][l] + j)
                found = found + from_c(above, k, t, b, np.multiply.outer(at, carried), word + "f")
        return found

    def from_c(l, j, t, b, carried, word):
        """The same from c_j^t on, where [d, what it is by] was carried."""
        found = from_h(l, j, t, b, J[l].psi[t, b, j] @ carried, word)
        if accepts(word):
            found = found + end.dc[l][t, b, j] @ carried
        if t + 1 < T:
            found = found + from_c(l, j, t + 1, b, J[l].D[t + 1, b, j] @ carried, word + "i")
        return found

    grads = []
    for l, q in enumerate(p["cell"]):
        paths, leaves = zip(*jax.tree.leaves_with_path(q))
        leaves, d = [np.zeros(x.shape) for x in leaves], end.dc[l].shape[-1]
        pre = {"w_in": np.asarray(run.pre[l]), "w_rec": np.asarray(run.h_tm1[l])}
        for t, b, j in np.ndindex(T + 1, batch, stack.sizes[l]):
            by_h = from_h(l, j, t - 1, b, np.ones(()), "") if J[l].Xi else 0.0
            by_c = from_c(l, j, t, b, np.eye(d), "") if t < T else np.zeros(d)
            for path, g in zip(paths, leaves):
                line, name = part_of(path)
                if line == "theta":
                    g[j] += J[l].Xi[name][t, b, j] * by_h
                if t < T:
                    block = (J[l].Theta if line == "theta" else J[l].B)[name][t, b, j]
                    g[..., j] += by_c @ block * (pre[line][t, b] if line in pre else 1.0)
        grads.append(leaves)
    return end.loss, like(stack, p, grads, end.readout)


# -- forward in time --------------------------------------------------------------------------------


def sources(p, run, J, l):
    """How each of a layer's parameters, side by side, enters: ∂c^t [T, B, n, d, P], ∂h^t
    [T + 1, B, n, P], from h^0 on, and ∂c^0 [B, n, d, P]."""
    T, batch, n, d = J.psi.shape
    pre, one = {"w_in": np.asarray(run.pre[l]), "w_rec": np.asarray(run.h_tm1[l])}, np.eye(n)
    by_c, by_h, at_0 = [], [], []
    for path, leaf in jax.tree.leaves_with_path(p):
        line, name = part_of(path)
        at_0.append(np.zeros((batch, n, d, leaf.size)))
        if line == "initial":
            at_0[-1][:, :, J.start[name]] = one
            c = np.zeros((T, batch, n, d, n))
        elif line in pre:
            c = np.einsum("tbjz,tbi,jk->tbjzik", J.B[name], pre[line], one)
        else:
            c = np.einsum("tbjz,jk->tbjzk", (J.Theta if line == "theta" else J.B)[name], one)
        by_c.append(c.reshape(T, batch, n, d, -1))
        by_h.append(np.zeros((T + 1, batch, n, leaf.size)))
        if line == "theta":
            by_h[-1] += np.einsum("tbj,jk->tbjk", J.Xi[name], one)
    return tuple(np.concatenate(x, -1) for x in (by_c, by_h, at_0))


def tangent_gradient(given: Problem, automaton):
    """(loss, grads) of the paths that an automaton of `eprop_jax.engine.paths` accepts."""
    stack, p, run, J, end = given
    width = external(given)
    moves, states, layers = automaton.moves, range(len(automaton.moves)), range(len(stack.cells))
    found = (sources(q, run, J[l], l) for l, q in enumerate(p["cell"]))
    direct_c, direct_h, at_0 = zip(*found)
    w_in, w_rec = ([by_gate(q, line) for q in p["cell"]] for line in ("w_in", "w_rec"))
    w_in, w_rec = jax.tree.map(np.asarray, (w_in, w_rec))
    one = [np.eye(n) for n in stack.sizes]
    itself = [{g: w * one[l] for g, w in w_rec[l].items()} for l in layers]
    between = [{g: w * (1 - one[l]) for g, w in w_rec[l].items()} for l in layers]

    def rows(l, k):
        """The rows of layer l's w_in that hear layer k."""
        first = 0
        for name in stack.inputs[l]:
            if name == k:
                return {g: w[first : first + stack.sizes[k]] for g, w in w_in[l].items()}
            first += width if name == "x" else stack.sizes[name]
        return {}

    hop = {(l, k): rows(l, k) for l in layers for k in range(l)}

    def through(l, t, weights, h):
        """What tangents h [B, m, P] do to c^t by way of synapses: [B, n, d, P]."""
        c = 0.0
        for g, w in weights.items():
            c = c + np.einsum("bjz,ij,bip->bjzp", J[l].B[g][t], w, h)
        return c

    h = {key: 0.0 * direct_h[key[0]][0, :, :1] + np.zeros((1, stack.sizes[key[1]], 1))
         for key in np.ndindex(len(layers), len(layers), len(states))}  # fmt: skip
    c = {(m, l, q): 0.0 * h[m, l, q][:, :, None] + np.zeros((end.dc[l].shape[-1], 1))
         for m, l, q in h}  # fmt: skip
    grads = [0.0] * len(layers)
    for m in layers:
        c[m, m, 0] = at_0[m]
        h[m, m, 0] = direct_h[m][0] + np.einsum("bjz,bjzp->bjp", J[m].psi_0, at_0[m])
    for t in range(len(run.y)):
        c_tm1, h_tm1 = dict(c), dict(h)
        for m, l in np.ndindex(len(layers), len(layers)):
            new = [0.0 * c[m, l, q] for q in states]
            for q, to in enumerate(moves):
                if to.i is not None:
                    new[to.i] += np.einsum("bjzy,bjyp->bjzp", J[l].D[t], c_tm1[m, l, q])
                if to.e is not None:
                    new[to.e] += through(l, t, between[l], h_tm1[m, l, q])
                if to.s is not None:
                    new[to.s] += through(l, t, itself[l], h_tm1[m, l, q])
                for below in range(l) if to.f is not None else ():
                    new[to.f] += through(l, t, hop[l, below], h[m, below, q])
            if m == l:
                new[0] += direct_c[l][t]
            for q in states:
                c[m, l, q] = new[q]
                h[m, l, q] = np.einsum("bjz,bjzp->bjp", J[l].psi[t], new[q])
                if m == l and q == 0:
                    h[m, l, q] = h[m, l, q] + direct_h[l][t + 1]
                if automaton.accepting[q]:
                    grads[m] = grads[m] + np.einsum("bj,bjp->p", end.dh[l][t], h[m, l, q])
                    grads[m] = grads[m] + np.einsum("bjz,bjzp->p", end.dc[l][t], c[m, l, q])

    def split(g, q):
        leaves = jax.tree.leaves(q)
        parts = np.split(g, np.cumsum([x.size for x in leaves])[:-1])
        return [part.reshape(x.shape) for part, x in zip(parts, leaves)]

    grads = [split(g, q) for g, q in zip(grads, p["cell"])]
    return end.loss, like(stack, p, grads, end.readout)


# -- drawn networks ---------------------------------------------------------------------------------


def drawn(stack, T, batch, seed=0):
    """(params, xs, ys), none of whose numbers is zero."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape))

    k_readout, *keys = jax.random.split(jax.random.key(seed), 1 + len(stack.cells))
    params = {
        "cell": tuple(cell.init(k) for cell, k in zip(stack.cells, keys)),
        "readout": stack.readout.init(k_readout),
    }
    params = jax.tree.map(lambda p: p + 0.1 * normal(*p.shape), params)
    n_in = next(
        cell.n_in - sum(stack.sizes[k] for k in names if k != "x")
        for cell, names in zip(stack.cells, stack.inputs)
        if "x" in names
    )
    return params, normal(T, batch, n_in), normal(T, batch, stack.readout.n_out)
