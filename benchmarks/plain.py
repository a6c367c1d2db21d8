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


CELLS = {"alif": (alif, 3), "lif": (lif, 2), "rnn": (rnn, 0), "lstm": (lstm, 1)}


def loss_of(name, cut=False):
    """(params, xs [T, B, n_in], ys [T, B, n_out]) -> Σ_t mean_batch ½ |y − target|².

    `spikes` [T, B, n], where given, take the place of the network's own.
    """
    step, n_states = CELLS[name]

    def loss(params, xs, ys, spikes=None):
        p, out = params["cell"], params["readout"]
        n = out["w_out"].shape[0]
        zero = jnp.zeros((xs.shape[1], n), xs.dtype)

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
