"""NIR's equations integrated by NumPy, node by node over the graph: nothing here calls the library.

Which edges are heard one step late is said by the caller. A nested graph is a graph in its place.
"""

import numpy as np
from scipy.linalg import expm


def run(graph, xs, dt, *, scheme="exact", reset="value", late=()):
    """xs [T, n_in] flattened -> {node: [T, ...]} of what each node sends, by dotted name."""
    nodes, edges = level(graph, "")
    source = next(k for k, n in nodes.items() if type(n).__name__ == "Input" and "." not in k)
    heard = {k: [a for a, b in edges if b == k] for k in nodes}
    order = sorted_nodes(nodes, [e for e in edges if e not in set(late)])
    state, sent = {k: {} for k in nodes}, {k: [] for k in nodes}
    for x in xs:
        now = {source: np.reshape(x, tuple(nodes[source].input_type["input"]))}
        for k in order:
            if k == source:
                continue
            # A voltage of 0 does not spike: before the first step nothing was sent.
            last = lambda a: sent[a][-1] if sent[a] else np.zeros(np.shape(nodes[a].r))
            total = sum(last(a) if (a, k) in late else now[a] for a in heard[k])
            kind = type(nodes[k]).__name__
            now[k] = STEP[kind](nodes[k], total, state[k], dt, scheme, reset)
        for k, y in now.items():
            sent[k].append(y)
    return {k: np.stack([np.asarray(y) for y in ys]) for k, ys in sent.items()}


def level(graph, prefix):
    nodes, edges = {}, []
    inner = {k for k, n in graph.nodes.items() if type(n).__name__ == "NIRGraph"}
    for k, node in graph.nodes.items():
        if k in inner:
            below = level(node, f"{prefix}{k}.")
            nodes |= below[0]
            edges += below[1]
        else:
            nodes[prefix + k] = node
    port = lambda k, kind: next(
        x for x, n in graph.nodes[k].nodes.items() if type(n).__name__ == kind
    )
    for a, b in graph.edges:
        a = f"{a}.{port(a, 'Output')}" if a in inner else a
        b = f"{b}.{port(b, 'Input')}" if b in inner else b
        edges.append((prefix + a, prefix + b))
    return nodes, edges


def sorted_nodes(nodes, edges):
    done, todo = [], list(nodes)
    while todo:
        ready = [k for k in todo if all(a in done for a, b in edges if b == k)]
        assert ready, todo
        done += ready
        todo = [k for k in todo if k not in ready]
    return done


def advance(A, b, y, dt, scheme):
    """ẏ = A y + b over dt, of one unit: exactly, or component by component in order."""
    n = len(y)
    if scheme == "exact":
        M = np.zeros((n + 1, n + 1))
        M[:n, :n], M[:n, n] = A, b
        return (expm(M * dt) @ np.append(y, 1.0))[:n]
    y = np.array(y, float)
    for i in range(n):  # a later equation hears the earlier ones of this step
        y[i] = y[i] + dt * (A[i] @ y + b[i])
    return y


def integrate(rates, y, shape, dt, scheme):
    """rates(j) -> (A, b) of unit j; y: a list of arrays."""
    flat = [np.broadcast_to(v, shape).ravel() for v in y]
    found = [
        advance(*rates(j), [v[j] for v in flat], dt, scheme) for j in range(int(np.prod(shape)))
    ]
    return [np.reshape([f[i] for f in found], shape) for i in range(len(y))]


def neuron(node, x, s, dt, scheme, reset):
    x = np.asarray(x, float)
    get = lambda k, x=x: np.broadcast_to(np.asarray(getattr(node, k), float), shape).ravel()
    kind = type(node).__name__
    shape = s.setdefault("shape", np.broadcast_shapes(x.shape, np.shape(node.r)))
    a = np.broadcast_to(x, shape).ravel()
    v, z = s.get("v", np.zeros(shape)), s.get("z", np.zeros(shape))
    spikes = hasattr(node, "v_threshold")
    if spikes:
        v_th, v_reset = get("v_threshold").reshape(shape), get("v_reset").reshape(shape)
        if reset == "value":
            v = np.where(z > 0, v_reset, v)
        elif reset == "subtract":
            v = v - z * (v_th - v_reset)
    R = get("r")
    if kind in ("LIF", "LI"):
        tau, leak = get("tau"), get("v_leak")
        rates = lambda j: (
            np.array([[-1 / tau[j]]]), np.array([(leak[j] + R[j] * a[j]) / tau[j]])
        )  # fmt: skip
        (v,) = integrate(rates, [v], shape, dt, scheme)
    elif kind in ("IF", "I"):
        (v,) = integrate(
            lambda j: (np.zeros((1, 1)), np.array([R[j] * a[j]])), [v], shape, dt, scheme
        )
    else:
        tm, ts, leak, w = get("tau_mem"), get("tau_syn"), get("v_leak"), get("w_in")
        rates = lambda j: (
            np.array([[-1 / ts[j], 0.0], [R[j] / tm[j], -1 / tm[j]]]),
            np.array([w[j] * a[j] / ts[j], leak[j] / tm[j]]),
        )
        s["i"], v = integrate(rates, [s.get("i", np.zeros(shape)), v], shape, dt, scheme)
    if not spikes:
        s["v"] = v
        return v
    v = v - z * (v_th - v_reset) if reset == "subtract_late" else v
    s["v"], s["z"] = v, (v > v_th).astype(float)
    return s["z"]


def convolve(node, x):
    w, x = np.asarray(node.weight, float), np.asarray(x, float)
    kernel = w.shape[2:]
    n = len(kernel)
    stride = np.broadcast_to(node.stride, (n,))
    if isinstance(node.padding, str):
        sides = [((k - 1) // 2, k // 2) if node.padding == "same" else (0, 0) for k in kernel]
    else:
        sides = [(p, p) for p in np.broadcast_to(node.padding, (n,))]
    x = np.pad(x, [(0, 0), *sides])
    sizes = [(m - k) // s + 1 for m, k, s in zip(x.shape[1:], kernel, stride)]
    out = np.zeros((w.shape[0], *sizes))
    for at in np.ndindex(*sizes):
        part = x[(slice(None), *(slice(p * s, p * s + k) for p, s, k in zip(at, stride, kernel)))]
        out[(slice(None), *at)] = np.tensordot(w, part, n + 1)
    return out + np.reshape(node.bias, (-1, *(1,) * n))


def pool(node, x, mean):
    (kh, kw), (sh, sw), (ph, pw) = (
        np.broadcast_to(getattr(node, k), (2,)) for k in ("kernel_size", "stride", "padding")
    )
    x = np.pad(x, [(0, 0), (ph, ph), (pw, pw)])
    H, W = (x.shape[1] - kh) // sh + 1, (x.shape[2] - kw) // sw + 1
    out = np.array([
        [x[:, i * sh : i * sh + kh, j * sw : j * sw + kw].sum((1, 2)) for j in range(W)]
        for i in range(H)
    ])  # fmt: skip
    return np.moveaxis(out, -1, 0) / (kh * kw if mean else 1)


def delay(node, x, s, dt, *_):
    steps = np.round(np.asarray(node.delay) / dt).astype(int)
    s.setdefault("past", []).append(np.broadcast_to(x, np.shape(node.delay)).ravel())
    past, t = s["past"], len(s["past"]) - 1
    flat = [past[t - k][j] if t >= k else 0.0 for j, k in enumerate(steps.ravel())]
    return np.reshape(flat, steps.shape)


def flatten(node, x):
    first, last = node.start_dim % x.ndim, node.end_dim % x.ndim
    return x.reshape(*x.shape[:first], -1, *x.shape[last + 1 :])


def dense(node, x):
    return np.asarray(node.weight) @ x


STEP = {
    **dict.fromkeys(("LIF", "CubaLIF", "IF", "LI", "CubaLI", "I"), neuron),
    "Input": lambda node, x, *_: x,
    "Output": lambda node, x, *_: x,
    "Affine": lambda node, x, *_: dense(node, x) + node.bias,
    "Linear": lambda node, x, *_: dense(node, x),
    "Scale": lambda node, x, *_: np.asarray(node.scale) * x,
    "Conv1d": lambda node, x, *_: convolve(node, x),
    "Conv2d": lambda node, x, *_: convolve(node, x),
    "SumPool2d": lambda node, x, *_: pool(node, x, False),
    "AvgPool2d": lambda node, x, *_: pool(node, x, True),
    "Flatten": lambda node, x, *_: flatten(node, x),
    "Threshold": lambda node, x, *_: (x > np.asarray(node.threshold)).astype(float),
    "Delay": delay,
}
