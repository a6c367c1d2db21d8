"""The engine's own promises: shared components, structural zeros, constant memory, predicted cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref

import eprop_jax as ej
from eprop_jax import jacobians as jac
from eprop_jax.network import unitwise

LOSS = ej.losses.squared_error

CELLS = {
    "rnn": lambda: ej.cells.rnn(3, 4),
    "leaky_rnn": lambda: ej.cells.leaky_rnn(3, 4, tau=5.0),
    "leaky_rnn, mixed": lambda: ej.cells.leaky_rnn(3, 4, tau=[2.0, 3.0, 4.0, 5.0]),
    "leaky_rnn, trained": lambda: ej.cells.leaky_rnn(3, 4, trainable=("tau",)),
    "lif": lambda: ej.cells.lif(3, 4, v_th=0.3),
    "lif, reset gradient": lambda: ej.cells.lif(3, 4, v_th=0.3, reset_gradient=True),
    "lif, mixed": lambda: ej.cells.lif(3, 4, v_th=0.3, tau_m=[5.0, 10.0, 20.0, 30.0]),
    "alif": lambda: ej.cells.alif(3, 4, v_th=0.3, beta=[0.0, 0.1, 0.2, 0.3], refractory=2),
    "gru": lambda: ej.cells.gru(3, 4),
    "lstm": lambda: ej.cells.lstm(3, 4),
    "linear_recurrence": lambda: ej.cells.linear_recurrence(3, 4),
}
SHARED = {"rnn": {0}, "leaky_rnn": {0}, "lif": {0}, "alif": {0}}


def drawn(cell, seed=0, batch=5):
    """A state and a drive of plausible size, for many units and examples."""
    params = cell.init(jax.random.key(seed))
    keys = iter(jax.random.split(jax.random.key(seed + 1), 20))
    draw = lambda x: jax.random.normal(next(keys), x.shape) if x.dtype != jnp.int32 else x
    c = jax.tree.map(draw, cell.initial_state(params, (batch,)))
    gates = set().union(
        *(unitwise.as_gates(params[k]) for k in ("w_in", "w_rec", "bias") if k in params)
    )
    a = unitwise.of_gates({g: jax.random.normal(next(keys), (batch, 4)) for g in sorted(gates)})
    return params, c, a


@pytest.mark.parametrize("name", CELLS)
def test_what_a_cell_calls_shared_is_the_same_for_all_units(name):
    cell = CELLS[name]()
    params, c, a = drawn(cell)
    J = jac.blocks(cell, params, c, a, c)
    shared = jac.shared_positions(cell, c)
    assert shared == SHARED.get(name, set())
    for r in shared:
        for source, block in enumerate(J.D[r]):
            if source != r:
                assert block is None or not np.any(block)
        for block in [J.D[r][r], *J.B[r].values()]:
            assert block is None or np.ptp(np.asarray(block)) == 0


@pytest.mark.parametrize("name", CELLS)
def test_blocks_are_jacfwd_of_one_unit(name):
    """Each block against `jax.jacfwd` of all of one unit's scalars at once; None only where zero."""
    cell = CELLS[name]()
    params, c, a = drawn(cell)
    J = jac.blocks(cell, params, c, a, c)
    values = unitwise.theta(cell, params)
    for b, j in ((0, 0), (3, 2)):
        at = lambda tree, b=b, j=j: jax.tree.map(lambda x: x[b, j], tree)
        theta_j, leaves = {k: v[j] for k, v in values.items()}, jax.tree.leaves(at(c))
        where = unitwise.float_positions(c)

        def unit(parts, a_j, theta_j=theta_j, leaves=leaves, where=where):
            merged = list(leaves)
            for i, part in zip(where, parts):
                merged[i] = part
            state = jax.tree.structure(c).unflatten(merged)
            return unitwise.floats(cell.dynamics(theta_j, state, a_j)), cell.output(theta_j, state)

        parts = tuple(leaves[i] for i in where)
        by_c = jax.jacfwd(unit, argnums=0)(parts, at(a))
        by_a = jax.jacfwd(unit, argnums=1)(parts, at(a))
        for r in range(len(parts)):
            for col in range(len(parts)):
                block = J.D[r][col]
                got = 0.0 if block is None else float(block[b, j])
                assert got == pytest.approx(float(by_c[0][r][col]), abs=1e-14)
            for gate, wanted in unitwise.as_gates(by_a[0][r]).items():
                block = J.B[r][gate]
                got = 0.0 if block is None else float(block[b, j])
                assert got == pytest.approx(float(wanted), abs=1e-14)
            got = 0.0 if J.psi[r] is None else float(J.psi[r][b, j])
            assert got == pytest.approx(float(by_c[1][r]), abs=1e-14)


def test_traces_that_are_always_zero_are_not_kept():
    net = ej.Network(ej.cells.lstm(3, 4), ej.readouts.linear(4, 2))
    carry = ej.eprop(net, LOSS).init(net.init(jax.random.key(0)), (2,))
    assert carry.epsilon["w_in"]["i"].o == ()  # the input gate never reaches the output gate
    assert carry.epsilon["w_in"]["o"].s == ()
    assert carry.epsilon["w_in"]["o"].o.shape == (2, 3, 4)


def test_a_shared_voltage_has_one_trace_for_all_units():
    net = ej.Network(ej.cells.alif(3, 4, refractory=2), ej.readouts.leaky(4, 2))
    carry = ej.eprop(net, LOSS).init(net.init(jax.random.key(0)), (2,))
    assert carry.epsilon["w_rec"].v.shape == (2, 4, 1)
    assert carry.epsilon["w_rec"].a.shape == (2, 4, 4)
    assert carry.epsilon["w_rec"].r == ()  # a counter has no trace
    assert carry.gamma.cell["w_rec"].shape == (2, 1, 4, 4)  # Eq. 39: one for both read-outs


@pytest.mark.parametrize("chunk", [1, 100])
def test_memory_does_not_depend_on_T(chunk):
    net = ej.Network(ej.cells.alif(3, 16), ej.readouts.leaky(16, 2))
    params = jax.eval_shape(net.init, jax.random.key(0))
    f = jax.jit(ej.value_and_grad(ej.eprop(net, LOSS), chunk=chunk))

    def temporary_bytes(T):
        xs, ys = (jax.ShapeDtypeStruct((T, 2, k), jnp.float64) for k in (3, 2))
        return f.lower(params, xs, ys).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(1000) == temporary_bytes(10**6)


def shapes(net):
    """Parameters of a network by their shapes, in float64."""
    params = jax.eval_shape(net.init, jax.random.key(0))
    return jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, jnp.float64), params)


def test_auto_chunk_is_the_same_gradient():
    net = ej.Network(ej.cells.gru(3, 4), ej.readouts.leaky(4, 2))
    params, rule = net.init(jax.random.key(0)), ej.rtrl(net, LOSS)
    xs = jax.random.normal(jax.random.key(1), (37, 2, 3))
    ys = jax.random.normal(jax.random.key(2), (37, 2, 2))
    whole = ej.value_and_grad(ej.bptt(net, LOSS), chunk="auto")(params, xs, ys)[1]
    auto = ej.value_and_grad(rule, chunk="auto")(params, xs, ys)[1]
    assert float(ej.fidelity(auto, whole).relative_error) < 1e-10


# Three LIF units with two inputs and two leaky read-outs, batch 2, float64. By hand, in numbers:
# m = 2 + 3 lines and a bias; P = 15 weights, of which 9 recurrent. The state: v 2·3, y 2·2.
# ε: one column for all units, 2·(2 + 3 + 1). γ of the read-out: one column, 2·(3 + 1).
# γ of the cell: 2·(6 + 9 + 3), once for both read-outs (Eq. 39), twice where units hear each other.
# α, β: 2·3·(6 + 9 + 3). A step keeps v, a, ∂̃a, h a unit, and 4 numbers a read-out unit: 2·(3·4 + 8).
STATE, EPSILON, GAMMA_OUT, GAMMA, ENDS = 10, 12, 8, 36, 108
FORWARD = 2 * 2 * 15 + 3 * 2 * 3 * 2  # and the gradients, of the cell and of the read-out
JUMP = 2 * 9  # back through W_rec
COSTS = [
    # rule, K, multiply-adds a step, numbers in the carry, numbers that a step keeps
    ("e-prop", 1, FORWARD + 4 * (EPSILON + GAMMA), STATE + EPSILON + GAMMA_OUT + GAMMA, 40),
    ("e-prop", 10, FORWARD + 1.3 * (EPSILON + GAMMA), STATE + EPSILON + GAMMA_OUT + GAMMA, 40),
    ("e-prop", None, FORWARD, STATE + EPSILON + GAMMA_OUT + GAMMA, 40),
    # 5 ends (v of three units, two read-outs), whose co-states a chunk keeps, 3 units and 2 examples
    ("rtrl", 1, FORWARD + JUMP + (1 + 3) * ENDS + 2 * GAMMA,
     STATE + ENDS + GAMMA_OUT + 2 * GAMMA, 40 + 5 * 3 * 2),
    ("rtrl", 10, FORWARD + JUMP + 5 * 2 * (9 + 15) + ENDS * 3 / 10,
     STATE + ENDS + GAMMA_OUT + 2 * GAMMA, 40 + 5 * 3 * 2),
    ("rtrl", None, FORWARD + JUMP, STATE + ENDS + GAMMA_OUT + 2 * GAMMA, 40),
    # three grades, two traces of RTRL's size
    ("order 3", 1, FORWARD + 2 * JUMP + (1 + 3) * 2 * ENDS + EPSILON + 2 * GAMMA,
     STATE + EPSILON + 2 * ENDS + GAMMA_OUT + 2 * GAMMA, 40 + 3 * 5 * 3 * 2),
    ("order 3", 10, FORWARD + 2 * JUMP + 3 * 5 * 2 * (9 + 15) + 2 * 2 * ENDS * 3 / 10,
     STATE + EPSILON + 2 * ENDS + GAMMA_OUT + 2 * GAMMA, 40 + 3 * 5 * 3 * 2),
    ("bptt", None, FORWARD + JUMP, STATE, 40),
]  # fmt: skip


@pytest.mark.parametrize("name, K, work, carry, kept", COSTS)
def test_cost_of_three_units_by_hand(name, K, work, carry, kept):
    net = ej.Network(ej.cells.lif(2, 3), ej.readouts.leaky(3, 2))
    order_3 = functools.partial(ej.m_order_eprop, order=3)
    make = {"e-prop": ej.eprop, "rtrl": ej.rtrl, "order 3": order_3, "bptt": ej.bptt}[name]
    rule = make(net, LOSS)
    found = ej.cost(rule, shapes(net), (2,), K)
    assert found.multiply_adds == pytest.approx(work, rel=1e-12)
    assert found.trace_bytes == 8 * carry
    assert found.chunk_bytes == 8 * kept * (K or 1)
    held = jax.eval_shape(lambda p: rule.init(p, (2,)), shapes(net))
    assert sum(x.size for x in jax.tree.leaves(held)) == carry


def test_a_gated_unit_keeps_its_gates():
    net = ej.Network(ej.cells.lstm(2, 3), ej.readouts.linear(3, 2))
    # two components, four drives and four co-states of drives, h: 11 a unit
    assert ej.cost(ej.eprop(net, LOSS), shapes(net), (2,), 10).chunk_bytes == 10 * 8 * 2 * (
        3 * 11 + 8
    )


def test_cost_grows_as_the_paper_says():
    def cost(rule, n, chunk=1):
        net = ej.Network(ej.cells.lif(n, n), ej.readouts.leaky(n, 2))
        return ej.cost(rule(net, LOSS), shapes(net), (2,), chunk).multiply_adds

    growth = lambda rule, **k: np.log2(cost(rule, 64, **k) / cost(rule, 32, **k))
    assert growth(ej.eprop) == pytest.approx(2, abs=0.15)  # O(p) = O(n²) a step
    assert growth(ej.rtrl) == pytest.approx(4, abs=0.15)  # O(p²) = O(n⁴)
    cubic = np.log2(cost(ej.rtrl, 64, chunk=128) / cost(ej.rtrl, 32, chunk=64))
    assert cubic == pytest.approx(3, abs=0.15)  # chunks of 2n


def test_a_stream_can_be_fed_by_hand_with_donated_carries():
    net = ej.Network(ej.cells.alif(3, 4, v_th=0.3, gain_in=2.0), ej.readouts.leaky(4, 2))
    params, rule = net.init(jax.random.key(0)), ej.eprop(net, LOSS)
    xs = jax.random.normal(jax.random.key(1), (12, 2, 3))
    ys = jax.random.normal(jax.random.key(2), (12, 2, 2))
    step = jax.jit(lambda carry, x, y: rule.step(params, carry, x, y), donate_argnums=0)
    carry, total = rule.init(params, (2,)), jax.tree.map(jnp.zeros_like, params)
    for x, y in zip(np.split(np.asarray(xs), 4), np.split(np.asarray(ys), 4)):  # from the host
        carry, out = step(carry, x, y)
        total = jax.tree.map(jnp.add, total, out.grads)
    whole = ej.value_and_grad(rule)(params, xs, ys)[1]
    assert float(ej.fidelity(total, whole).relative_error) < 1e-10


@pytest.mark.parametrize("cell", (ej.cells.alif, ej.cells.gru, ej.cells.leaky_rnn))
def test_blocks_that_are_evaluated_once_are_the_same_blocks(cell):
    """Of one example the blocks are joined before the traces read them: shared ones beside others."""
    net = ej.Network(cell(3, 5), ej.readouts.leaky(5, 2))
    params = net.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (7, 2, 3))
    rule = ej.rtrl(net, ej.losses.squared_error)
    together = ej.value_and_grad(rule, chunk=1)(params, xs, jnp.ones((7, 2, 2)))[1]
    alone = [
        ej.value_and_grad(rule, chunk=1)(params, xs[:, b : b + 1], jnp.ones((7, 1, 2)))[1]
        for b in (0, 1)
    ]
    mean = jax.tree.map(lambda x, y: (x + y) / 2, *alone)
    assert ref.distance(mean, together) < 1e-12
