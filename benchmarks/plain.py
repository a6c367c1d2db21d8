"""The baseline: what a user writes by hand, `jax.value_and_grad` of an unrolled scan.

Plain jax.numpy, no eprop_jax. One function a neuron, each with the parameters, shapes and loss of
the library's own network, so that the gradients can be held against each other before anything is
timed. `cut=True` is the stop-gradient trick: e-prop by autodiff.
"""

import jax
import jax.numpy as jnp


@jax.custom_jvp
def spike(x):
    return (x >= 0).astype(x.dtype)


@spike.defjvp
def _(primals, tangents):
    (x,), (x_dot,) = primals, tangents
    return spike(x), 0.3 * jnp.maximum(0.0, 1.0 - jnp.abs(x)) * x_dot


ALPHA, RHO, KAPPA = (float(jnp.exp(-1.0 / tau)) for tau in (20.0, 200.0, 20.0))
BETA = 1.7 * (1 - RHO) / (1 - ALPHA)


def fire(x, imposed):
    """A spike, or the imposed one with the same derivative."""
    z = spike(x)
    return z if imposed is None else imposed + z - jax.lax.stop_gradient(z)


def alif(p, state, x, h, imposed):
    v, a, z = state
    v = ALPHA * v + x @ p["w_in"] + h @ p["w_rec"] + p["bias"] - jax.lax.stop_gradient(z)
    a = RHO * a + z
    z = fire(v - 1.0 - BETA * a, imposed)
    return (v, a, z), z


def lif(p, state, x, h, imposed):
    v, z = state
    v = ALPHA * v + x @ p["w_in"] + h @ p["w_rec"] + p["bias"] - jax.lax.stop_gradient(z)
    z = fire(v - 1.0, imposed)
    return (v, z), z


def rnn(p, state, x, h, imposed):
    h = jnp.tanh(x @ p["w_in"] + h @ p["w_rec"] + p["bias"])
    return (), h


def lstm(p, state, x, h, imposed):
    (s,) = state
    a = {g: x @ p["w_in"][g] + h @ p["w_rec"][g] + p["bias"][g] for g in "ifgo"}
    s = jax.nn.sigmoid(a["f"] + 1.0) * s + jax.nn.sigmoid(a["i"]) * jnp.tanh(a["g"])
    h = jax.nn.sigmoid(a["o"]) * jnp.tanh(s)
    return (s,), h


def gru(p, state, x, h, imposed):
    of_x = {g: x @ p["w_in"][g] + p["bias"][g] for g in "rzn"}
    of_h = {g: h @ w for g, w in p["w_rec"].items()}
    r, z = (jax.nn.sigmoid(of_x[g] + of_h[g]) for g in "rz")
    h = (1 - z) * jnp.tanh(of_x["n"] + r * (of_h["hn"] + p["bias"]["hn"])) + z * h
    return (), h


CELLS = {
    "alif": (alif, 3),
    "lif": (lif, 2),
    "rnn": (rnn, 0),
    "lstm": (lstm, 1),
    "gru": (gru, 0),
}


def loss_of(name, cut=False):
    """(params, xs [T, B, n_in], ys [T, B, n_out]) -> Σ_t mean_batch ½ |y − target|².

    `cut` stops the gradient at the recurrent input. `spikes` [T, B, n], where given, take the place
    of the network's own.
    """
    step, n_states = CELLS[name]

    def loss(params, xs, ys, spikes=None):
        p, out = params["cell"], params["readout"]
        zero = jnp.zeros((xs.shape[1], out["w_out"].shape[0]), xs.dtype)

        def body(carry, inputs):
            state, h, y = carry
            x, target, imposed = inputs
            state, h = step(p, state, x, jax.lax.stop_gradient(h) if cut else h, imposed)
            y = KAPPA * y + h @ out["w_out"] + out["bias"]
            return (state, h, y), 0.5 * jnp.sum((y - target) ** 2)

        carry = ((zero,) * n_states, zero, jnp.zeros(ys.shape[1:], xs.dtype))
        _, losses = jax.lax.scan(body, carry, (xs, ys, spikes))
        return jnp.sum(losses) / xs.shape[1]

    return loss


def loss_of_order(name, order):
    """The same value, whose derivative keeps paths of fewer than `order` explicit jumps: as many
    copies of the network run side by side, each hears the one below it, the lowest hears with the
    gradient stopped, and the highest is read out."""
    step, n_states = CELLS[name]

    def loss(params, xs, ys, spikes=None):
        p, out = params["cell"], params["readout"]
        copies = (order, xs.shape[1], out["w_out"].shape[0])

        def body(carry, inputs):
            state, h, y = carry
            x, target, imposed = inputs
            heard = jnp.concatenate([jax.lax.stop_gradient(h[:1]), h[:-1]])
            state, h = step(p, state, x[None], heard, None if imposed is None else imposed[None])
            y = KAPPA * y + h[-1] @ out["w_out"] + out["bias"]
            return (state, h, y), 0.5 * jnp.sum((y - target) ** 2)

        zero = jnp.zeros(copies, xs.dtype)
        carry = ((zero,) * n_states, zero, jnp.zeros(ys.shape[1:], xs.dtype))
        _, losses = jax.lax.scan(body, carry, (xs, ys, spikes))
        return jnp.sum(losses) / xs.shape[1]

    return loss


def textbook_eprop(params, xs, ys):
    """(loss, grads): e-prop for ALIF as it is usually written from the equations, one step at a time.

    Eq. 8, 9, 39, 40 with ε as [B, synapse, unit, component], its 2 × 2 blocks by einsum.
    """
    p, out = params["cell"], params["readout"]
    B, n = xs.shape[1], out["w_out"].shape[0]
    lines = xs.shape[2] + n + 1
    w = jnp.concatenate([p["w_rec"], p["w_in"], p["bias"][None]])

    def psi(x):
        return 0.3 * jnp.maximum(0.0, 1.0 - jnp.abs(x))

    def body(carry, inputs):
        v, a, z, y, eps, e_bar, z_bar, one_bar, grads = carry
        x, target = inputs
        pre = jnp.concatenate([z, x, jnp.ones((B, 1), x.dtype)], 1)
        psi_tm1 = psi(v - 1.0 - BETA * a)
        D = jnp.stack(
            [
                jnp.stack([jnp.full_like(v, ALPHA), jnp.zeros_like(v)], -1),
                jnp.stack([psi_tm1, RHO - BETA * psi_tm1], -1),
            ],
            -2,
        )
        v, a = ALPHA * v + pre @ w - z, RHO * a + z
        z = spike(v - 1.0 - BETA * a)
        y = KAPPA * y + z @ out["w_out"] + out["bias"]
        b = jnp.array([1.0, 0.0], x.dtype)
        eps = jnp.einsum("bjrc,bijc->bijr", D, eps) + pre[:, :, None, None] * b
        dh_dc = psi(v - 1.0 - BETA * a)[..., None] * jnp.array([1.0, -BETA], x.dtype)
        e_bar = KAPPA * e_bar + jnp.einsum("bjc,bijc->bij", dh_dc, eps)
        z_bar, one_bar = KAPPA * z_bar + z, KAPPA * one_bar + 1.0
        dL_dy = (y - target) / B
        g = jnp.einsum("bj,bij->ij", dL_dy @ out["w_out"].T, e_bar)
        g_out = (jnp.einsum("bj,bk->jk", z_bar, dL_dy), one_bar * dL_dy.sum(0))
        grads = jax.tree.map(jnp.add, grads, (g, *g_out))
        loss = 0.5 * jnp.sum((y - target) ** 2) / B
        return (v, a, z, y, eps, e_bar, z_bar, one_bar, grads), loss

    zero, dtype = jnp.zeros((B, n), xs.dtype), xs.dtype
    start = (
        jnp.zeros((lines, n), dtype),
        jnp.zeros_like(out["w_out"]),
        jnp.zeros_like(out["bias"]),
    )
    eps, e_bar = jnp.zeros((B, lines, n, 2), dtype), jnp.zeros((B, lines, n), dtype)
    y = jnp.zeros(ys.shape[1:], dtype)
    carry = (zero, zero, zero, y, eps, e_bar, zero, jnp.zeros((), dtype), start)
    (*_, (g, g_out, g_bias)), losses = jax.lax.scan(body, carry, (xs, ys))
    cell = {"w_rec": g[:n], "w_in": g[n:-1], "bias": g[-1]}
    return losses.sum(), {"cell": cell, "readout": {"w_out": g_out, "bias": g_bias}}
