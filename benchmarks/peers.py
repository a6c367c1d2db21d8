"""The same network, data and gradient in braintrace: e-prop and exact RTRL, ours against theirs.

    make bench-peers        # in an environment of its own: .venv-peers

A tanh RNN with a bias, a linear read-out and the squared error of every step, float32, the same
weights on both sides. Every gradient (w_in, w_rec, bias and read-out) is first held against
float64 autodiff of a plain scan; nothing is timed that is off by more than 1e-5. What each rule of
braintrace keeps of ∂h^t/∂h^{t-1} decides what is compared:

- none: `D_RTRL` (and `EProp`, the same with an unfiltered trace) drops all that passes through
  w_rec. This is `ej.eprop` on `ej.cells.rnn`. Since D = 0 here, `OSTLFeedforward` with decay 0
  gives the same without a trace.
- self: `OSTLRecurrent` keeps the diagonal, w_jj. This is `ej.eprop` where the unit's connection to
  itself stands inside `dynamics`, and w_rec has no diagonal.
- all: `SnAp`, saturated at n = 2, keeps everything. This is `ej.rtrl`, and BPTT.

Fair to the peer: one compiled program a sequence, `etrace_grad` as its scan over time, no state
written back, and both ways that it offers for a batch: a batch axis inside the model, and vmap=True
over examples. Its one-step path gives no gradient to weights inside the model that reach no hidden
state (0.2.6: a read-out's is zero), so the read-out stands outside, in the step's loss. Its windows
(`vjp_method="multi-step"`) are measured where the gradient is the same: with saturated `SnAp`.
There a window of the whole sequence is BPTT and carries no trace, as is K = T on our side. With the
e-prop rules a window is backpropagated through in full: another gradient. Ours, auto, is the whole
sequence without traces where T ≤ 128; "one step call" carries the traces on, like braintrace.
`compile_s` is XLA's part and, on our side only, the tracing.
"""

import importlib.metadata
import time
import warnings

import brainstate
import braintrace
import jax
import jax.numpy as jnp

import eprop_jax as ej
from benchmarks import harness, rules

LOSS = ej.losses.squared_error
N_IN, N_OUT = 40, 2


def stack(n):
    cells = [ej.cells.rnn(N_IN, n), ej.cells.rnn(n, n)]
    return ej.Network(cells, ej.readouts.linear(n, N_OUT))


def layers_of(params):
    return params["cell"] if isinstance(params["cell"], tuple) else (params["cell"],)


def problem(n, T, B, net=None):
    """(params, xs, ys), random, with weights at which the recurrence matters."""
    net = net or ej.Network(ej.cells.rnn(N_IN, n), ej.readouts.linear(n, N_OUT))
    params = net.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (T, B, N_IN))
    ys = jax.random.normal(jax.random.key(2), (T, B, N_OUT))
    return params, xs, ys


def plain_loss(keep):
    """The reference: Σ_t mean_batch ½ |y − target|², and autodiff through what is kept of w_rec."""

    def loss(params, xs, ys):
        layers, out = layers_of(params), params["readout"]

        def step(h_tm1, inputs):
            heard, target = inputs
            h_t = []
            for p, h in zip(layers, h_tm1):
                cut = jax.lax.stop_gradient(h)
                back = (h if keep == "all" else cut) @ p["w_rec"]
                if keep == "self":
                    back += (h - cut) * jnp.diag(p["w_rec"])
                heard = jnp.tanh(heard @ p["w_in"] + back + p["bias"])
                h_t.append(heard)
            return h_t, 0.5 * jnp.sum((heard @ out["w_out"] + out["bias"] - target) ** 2)

        h_0 = [jnp.zeros((xs.shape[1], p["bias"].shape[0]), xs.dtype) for p in layers]
        return jnp.sum(jax.lax.scan(step, h_0, (xs, ys))[1]) / xs.shape[1]

    return loss


def reference(keep, args):
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: x.astype("float64"), args)
        return jax.device_get(jax.jit(jax.grad(plain_loss(keep)))(*wide))


def distance(a, b):
    """'relative error, cosine' of a to b, over all parameters."""
    a, b = (jnp.concatenate([x.ravel() for x in jax.tree.leaves(tree)]) for tree in (a, b))
    norm = jnp.linalg.norm
    return f"{norm(a - b) / norm(b):.2g} (cosine {a @ b / (norm(a) * norm(b)):.3f})"


def definitions(args):
    """How far apart the gradients are that are compared here, each with its own kind only."""
    none, own, exact = (reference(keep, args) for keep in ("none", "self", "all"))
    window = jax.jit(theirs(braintrace.D_RTRL, args, window=10))(*args)[1]
    n, T, B = args[0]["cell"]["bias"].size, *args[1].shape[:2]
    return (
        f"Relative error between the definitions at n={n} T={T} B={B}: "
        f"none to all {distance(none, exact)}, self to all {distance(own, exact)}, "
        f"none to self {distance(none, own)}; D_RTRL in windows of 10 steps "
        f"to none {distance(window, none)}, to all {distance(window, exact)}."
    )


def self_connected(n):
    """The RNN with the unit's own connection inside its dynamics: c^t = a^t + w_jj h^{t-1}."""
    return ej.cells.custom(
        N_IN,
        n,
        lambda theta, c, a: a + theta["w_self"] * jnp.tanh(c),
        lambda theta, c: jnp.tanh(c),
        0.0,
        theta={"w_self": 0.0},
        self_connections=False,
    )


def with_self(run, n):
    """`run` on the network above, for weights and gradients in the plain RNN's layout."""
    eye = jnp.eye(n)

    def f(params, xs, ys):
        cell = dict(params["cell"], theta={"w_self": jnp.diag(params["cell"]["w_rec"])})
        cell["w_rec"] *= 1 - eye
        loss, grads, *_ = run({**params, "cell": cell}, xs, ys)
        cell = dict(grads["cell"])
        cell["w_rec"] += eye * cell.pop("theta")["w_self"]
        return loss, {**grads, "cell": cell}

    return f


def ours(rule_of, cell, B, params):
    """{name: function}: what `chunk="auto"` picks, the whole sequence, and step by step."""
    net = ej.Network(cell, ej.readouts.linear(cell.n_units, N_OUT))
    rule = rule_of(net, LOSS)
    name = rule_of.__name__
    start = net.init(jax.random.key(0))  # for the shapes of the traces only
    runs = {
        f"ours: {name}, auto": ej.value_and_grad(rule, chunk="auto"),
        f"ours: {name}, K = T": ej.value_and_grad(rule),
        f"ours: {name}, one step call": rules.whole_step(rule, start, B),
        f"ours: {name}, K = 1": ej.value_and_grad(rule, chunk=1),
    }
    if "theta" in start["cell"]:
        runs = {name: with_self(run, cell.n_units) for name, run in runs.items()}
    return runs


def theirs(algorithm, args, *, vmap=False, window=None, **options):
    """braintrace's gradient as a pure function of (params, xs, ys)."""
    params, xs, _ = args
    layers, B = layers_of(params), xs.shape[1]
    sizes = [p["w_in"].shape for p in layers]
    cells = [braintrace.nn.ValinaRNNCell(*size, activation="tanh") for size in sizes]
    model = cells[0] if len(cells) == 1 else brainstate.nn.Sequential(*cells)
    out = brainstate.nn.Linear(sizes[-1][1], N_OUT)
    if window:
        options["vjp_method"] = "multi-step"
    learner = braintrace.compile(model, algorithm, xs[0], batch_size=B, vmap=vmap, **options)
    weights = {f"layer {l}": cell.W.weight for l, cell in enumerate(cells)} | {
        "readout": out.weight
    }

    def step(x, target):
        h = learner(braintrace.MultiStepData(x) if window else x)
        return 0.5 * jnp.sum((out(h) - target) ** 2, axis=(-2, -1)) / B

    def run(params, xs, ys):
        for cell, p in zip(cells, layers_of(params)):
            w = jnp.concatenate([p["w_in"], p["w_rec"]])
            cell.W.weight.value = {"weight": w, "bias": p["bias"]}
        r = params["readout"]
        out.weight.value = {"weight": r["w_out"], "bias": r["bias"]}
        grads, loss = learner.etrace_grad(
            xs,
            ys,
            step_fn=step,
            weights=weights,
            chunk_size=window,
            reduction="sum",
            loss_output="scalar",
            return_value=True,
        )
        of_layers = tuple(
            {"w_in": g["weight"][:m], "w_rec": g["weight"][m:], "bias": g["bias"]}
            for g, (m, _) in ((grads[f"layer {l}"], size) for l, size in enumerate(sizes))
        )
        stacked, r = isinstance(params["cell"], tuple), grads["readout"]
        return loss, {
            "cell": of_layers if stacked else of_layers[0],
            "readout": {"w_out": r["weight"], "bias": r["bias"]},
        }

    program = brainstate.transform.StatefulFunction(run)
    program.make_jaxpr(*args)
    start = [state.value for state in program.get_states(*args)]  # zero state, zero trace
    return lambda *args: program.jaxpr_call(start, *args)[1]


def both_ways(name, algorithm, args, **options):
    return {
        f"braintrace: {name}, batch": theirs(algorithm, args, **options),
        f"braintrace: {name}, vmap": theirs(algorithm, args, vmap=True, **options),
    }


def case(title, keep, functions, args, bound=1e-5, repeats=9):
    wanted = reference(keep, args)
    errors = {}
    for name, f in functions.items():
        errors[name] = harness.relative_error(jax.device_get(jax.jit(f)(*args)[1]), wanted)
        if errors[name] > bound:
            raise AssertionError(f"{title} {name}: relative error {errors[name]:.1e} > {bound}")
    jax.clear_caches()  # or the compile times would be those of a cache
    rows = harness.measure(title, functions, args, repeats)
    for row in rows:
        row |= {"keeps": keep, "error": errors[row["what"]]}
    return rows


def bars(rows):
    """How many times our time each takes, ours whole where the rule picks it and ours step by step."""
    found = []
    for case in dict.fromkeys(row["case"] for row in rows):
        ms = {row["what"]: row["ms"] for row in rows if row["case"] == case}
        ours = {name: t for name, t in ms.items() if name.startswith("ours")}
        whole, online = next(iter(ours.values())), next(t for k, t in ours.items() if "K = 1" in k)
        found += [
            f"{name.removeprefix('braintrace: ')} {t / whole:.3g} ({t / online:.3g} at K = 1)"
            for name, t in ms.items()
            if name not in ours
        ]
    return "Times ours: " + "; ".join(found)


def main():
    warnings.filterwarnings("ignore", category=UserWarning, module="braintrace")
    begin = time.perf_counter()

    n, T, B = 128, 100, 32
    args = problem(n, T, B)
    apart = definitions(args)
    functions = ours(ej.eprop, ej.cells.rnn(N_IN, n), B, args[0])
    functions |= both_ways("D_RTRL", braintrace.D_RTRL, args)
    functions |= both_ways("OSTLFeedforward", braintrace.OSTLFeedforward, args, decay_or_rank=0.0)
    rows = case(f"e-prop, n={n} T={T} B={B}", "none", functions, args)
    functions = ours(ej.eprop, self_connected(n), B, args[0])
    functions |= both_ways("OSTLRecurrent", braintrace.OSTLRecurrent, args)
    rows += case(f"e-prop with w_jj, n={n} T={T} B={B}", "self", functions, args)

    args = problem(n, T, B, stack(n))
    rule = ej.by_paths(stack(n), LOSS, paths="i*f*")
    functions = {"ours: i*f*, K = T": ej.value_and_grad(rule)}
    functions["ours: i*f*, K = 1"] = ej.value_and_grad(rule, chunk=1)
    functions |= both_ways("D_RTRL", braintrace.D_RTRL, args)
    rows += case(f"two layers, n={n} T={T} B={B}", "none", functions, args)

    n, T, B = 16, 100, 8
    args = problem(n, T, B)
    functions = ours(ej.rtrl, ej.cells.rnn(N_IN, n), B, args[0])
    functions |= both_ways("SnAp", braintrace.SnAp, args, n=2)
    for k in (10, T):
        snap = theirs(braintrace.SnAp, args, n=2, window=k)
        functions[f"braintrace: SnAp, window {k}"] = snap
    rows += case(f"exact, n={n} T={T} B={B}", "all", functions, args, repeats=15)

    versions = ", ".join(
        f"{p} {importlib.metadata.version(p)}" for p in ("braintrace", "brainstate", "eprop_jax")
    )
    text = __doc__.split("\n\n", 2)[2].strip()
    text += f"\n\n{apart}\n\n{bars(rows)}.\n\nRatios are to the first row of each case, errors to "
    text += f"float64 autodiff. {versions}; {time.perf_counter() - begin:.0f} s."
    print(f"{apart}\n{bars(rows)}.\n{versions}")
    columns = ["case", "what", "keeps", "ratio", "low", "high", "ms", "temp_MB", "compile_s"]
    harness.write("peers", rows, [*columns, "error"], text)


if __name__ == "__main__":
    main()
