"""The first number that is not finite is named: step, example, unit or parameter."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import checkify

import eprop_jax as ej
from eprop_jax import training

N_IN, N, N_OUT, T, BATCH = 3, 5, 2, 12, 4
KEY = jax.random.key(0)
NET = ej.Network(ej.cells.gru(N_IN, N), ej.readouts.leaky(N, N_OUT))
PARAMS = NET.init(KEY)
XS = jax.random.normal(jax.random.key(1), (T, BATCH, N_IN))
YS = jax.random.normal(jax.random.key(2), (T, BATCH, N_OUT))
RULE = ej.eprop(NET, ej.losses.squared_error)
CHECK = ej.check_finite(RULE)
SGD = optax.sgd(0.1)
INF, NAN = jnp.inf, jnp.nan


def message(check, *args):
    with pytest.raises(FloatingPointError) as found:
        check(*args)
    return str(found.value)


def with_w_rec(params, gate, index, value):
    w_rec = {**params["cell"]["w_rec"]}
    w_rec[gate] = w_rec[gate].at[index].set(value)
    return {**params, "cell": {**params["cell"], "w_rec": w_rec}}


def unit(dynamics=lambda theta, c, a: 0.5 * c + a, output=lambda theta, c: c, **more):
    cell = ej.cells.custom(N_IN, N, dynamics, output, 0.0, gain_rec=0.0, **more)
    return ej.Network(cell, ej.readouts.linear(N, N_OUT))


def only(net, j):
    """Parameters by which unit j alone hears the input, as it is."""
    params = net.init(KEY)
    cell = jax.tree.map(jnp.zeros_like, params["cell"])
    return {**params, "cell": {**cell, "w_in": cell["w_in"].at[0, j].set(1.0)}}


def test_where_all_is_finite_it_is_value_and_grad():
    loss, grads = CHECK(PARAMS, XS, YS)
    expected, g = ej.value_and_grad(RULE)(PARAMS, XS, YS)
    assert float(loss) == float(expected)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), grads, g))


def test_what_was_given_comes_first():
    xs = XS.at[7, 2, 1].set(NAN).at[9, 0, 0].set(INF)
    at = "at step 7, example 2, input 1, wanted finite numbers"
    assert message(CHECK, PARAMS, xs, YS) == f"xs: got nan {at}"
    assert message(CHECK, PARAMS, -xs.at[7, 2, 1].set(INF), YS) == f"xs: got -inf {at}"
    params = with_w_rec(PARAMS, "z", (3, 2), INF)
    expected = "params['cell']['w_rec']['z']: got inf at [3, 2], wanted finite numbers"
    assert message(CHECK, params, xs, YS) == expected


@pytest.mark.parametrize("shape, where", [((), ""), ((2, 3), "example (1, 2), ")])
def test_batches_of_any_shape(shape, where):
    index = (5, *(() if shape == () else (1, 2)), 1)
    xs = jnp.ones((T, *shape, N_IN)).at[index].set(NAN)
    found = message(CHECK, PARAMS, xs, jnp.ones((T, *shape, N_OUT)))
    assert found.startswith(f"xs: got nan at step 5, {where}input 1")


def test_the_first_in_time_and_in_a_step_the_state_before_what_follows_from_it():
    net = unit(lambda theta, c, a: 1.0 / (3.0 - a) + 0.0 * c)  # a pole at 3
    check = ej.check_finite(ej.eprop(net, ej.losses.squared_error))
    xs = jnp.zeros((T, BATCH, N_IN)).at[4, 1, 0].set(3.0).at[2, 3, 0].set(3.0)
    expected = "c: got inf at step 2, example 3, unit 4, wanted finite numbers"
    assert message(check, only(net, 4), xs, YS) == expected

    net = unit(output=lambda theta, c: 1.0 / (3.0 - c))
    check = ej.check_finite(ej.bptt(net, ej.losses.squared_error))
    expected = "h: got inf at step 2, example 3, unit 4, wanted finite numbers"
    assert message(check, only(net, 4), xs, YS) == expected

    pole = ej.readouts.custom(N, N_OUT, lambda phi, y, a: 1.0 / (phi["at"] - a),
                              constants={"at": [3.0, 100.0]}, bias=False)  # fmt: skip
    net = ej.Network(unit(dynamics=lambda theta, c, a: a).cell, pole)
    params = only(net, 4)
    params["readout"]["w_out"] = jnp.zeros((N, N_OUT)).at[4].set(1.0)
    check = ej.check_finite(ej.rtrl(net, ej.losses.squared_error))
    expected = "y: got inf at step 2, example 3, read-out 0, wanted finite numbers"
    assert message(check, params, xs, YS) == expected


def test_a_component_of_the_state_has_its_name():
    net = ej.Network(ej.cells.lif(N_IN, N, dt=1.0), ej.readouts.linear(N, N_OUT))
    params = jax.tree.map(lambda x: x.astype("float32"), only(net, 3))
    params["cell"]["w_in"] = params["cell"]["w_in"] * 2
    xs = jnp.zeros((T, BATCH, N_IN), "float32").at[6, 1, 0].set(3e38)
    found = message(ej.check_finite(ej.eprop(net, ej.losses.squared_error)), params, xs, YS)
    assert found == "c.v: got inf at step 6, example 1, unit 3, wanted finite numbers"


def test_a_target_is_named_where_the_loss_meets_it():
    ys = YS.at[6, 3, 1].set(INF)
    expected = "ys: got inf at step 6, example 3, value 1, wanted finite numbers"
    assert message(CHECK, PARAMS, XS, ys) == expected
    masked = ej.check_finite(ej.eprop(NET, ej.losses.masked(ej.losses.squared_error)))
    mask = jnp.ones((T, BATCH)).at[6, 3].set(0.0)
    masked(PARAMS, XS, (ys, mask))  # it does not count
    found = message(masked, PARAMS, XS, (ys.at[8, 0, 0].set(NAN), mask))
    assert found.startswith("ys[0]: got nan at step 8, example 0, value 0")


def test_a_loss_is_named_where_all_that_it_reads_is_finite():
    check = ej.check_finite(ej.eprop(NET, ej.losses.softmax_cross_entropy))
    classes = jnp.zeros((T, BATCH), int).at[5, 2].set(N_OUT)  # there is no such class
    expected = "loss: got nan at step 5, example 2, wanted finite numbers"
    assert message(check, PARAMS, XS, classes) == expected
    rule = ej.eprop(NET, ej.losses.squared_error, activity_loss=lambda f: jnp.sum(f) / 0.0)
    assert message(ej.check_finite(rule), PARAMS, XS, YS).startswith("loss: got ")


@pytest.mark.parametrize("make", [ej.bptt, ej.eprop])
def test_a_gradient_is_named_by_its_parameter_and_by_the_derivative_it_comes_from(make):
    net = unit(output=lambda theta, c: jnp.sqrt(jnp.abs(c)))  # its slope at 0 is infinite
    params = only(net, 4)
    params["cell"]["bias"] = jnp.ones(N)
    xs = jnp.zeros((T, BATCH, N_IN)).at[0, 3, 0].set(-1.0)
    found = message(ej.check_finite(make(net, ej.losses.squared_error)), params, xs, YS)
    grads, origin = found.split("; first, ")
    assert grads == "grads['cell']['bias']: got inf at [4], wanted finite numbers"
    expected = "∂h^t/∂c^t: got inf at step 0, example 3, unit 4, wanted finite numbers"
    assert origin == expected


def test_the_slope_of_the_loss_is_named():
    rule = ej.bptt(NET, lambda y, target: jnp.sum(jnp.sqrt(jnp.abs(y - target))))
    outputs = ej.value_and_grad(rule, has_aux=True)(PARAMS, XS, YS)[0][1].outputs
    ys = YS.at[3, 1, 1].set(outputs[3, 1, 1])  # hit exactly
    found = message(ej.check_finite(rule), PARAMS, XS, ys)
    assert (
        found.startswith("grads[")
        and "; first, ∂L/∂y^t: got inf at step 3, example 1, read-out 1" in found
    )


def test_a_gradient_that_grows_too_large_is_named_by_the_step_whose_loss_does_it():
    net = unit(dynamics=lambda theta, c, a: jnp.sin(1e6 * c) + a)  # ∂c^t/∂c^{t-1} about 1e6
    params, xs, ys = jax.tree.map(lambda x: x.astype("float32"), (net.init(KEY), XS, YS))
    rule = ej.bptt(net, ej.losses.squared_error)
    found = message(ej.check_finite(rule), params, xs, ys)
    step = int(found.rsplit(" ", 1)[1])
    assert found.endswith(f"losses before step {step}, but not with that of step {step}")
    assert 0 < step < T
    finite = lambda t: all(
        np.isfinite(g).all()
        for g in jax.tree.leaves(ej.value_and_grad(rule)(params, xs[:t], ys[:t])[1])
    )
    assert finite(step) and not finite(step + 1)


def test_inside_what_is_compiled_the_checks_are_checkifys():
    check = checkify.checkify(jax.jit(lambda xs: CHECK(PARAMS, xs, YS)[0]))
    error, loss = check(XS)
    assert error.get() is None
    assert float(loss) == pytest.approx(float(CHECK(PARAMS, XS, YS)[0]), rel=1e-12)
    error, _ = check(XS.at[7, 2, 1].set(NAN))
    assert error.get().startswith("xs: got nan at step 7, example 2, input 1")


def test_a_rule_of_ones_own_and_a_rule_over_devices():
    bare = RULE._replace(spec=None)
    xs = XS.at[7, 2, 1].set(NAN)
    assert message(ej.check_finite(bare, chunk=4), PARAMS, xs, YS).startswith(
        "xs: got nan at step 7"
    )
    mesh = ej.sharding.mesh(batch=1, units=1)
    over = ej.sharding.parallel(RULE, mesh, batch="batch", units="units")
    assert message(ej.check_finite(over), PARAMS, xs, YS).startswith("xs: got nan at step 7")


# -- training stops with that message --------------------------------------------------------------


def fit(data, tmp_path, optimizer=SGD):
    t = training.trainer(RULE, optimizer, data)
    state = t.init(PARAMS, jax.random.key(3))
    found = message(
        lambda: training.fit(t, state, 9, every=3, checkpoints=tmp_path, progress=False)
    )
    return found, ej.checkpoints.restore(tmp_path, state)


def test_training_stops_with_the_update_and_the_first_number_of_its_batch(tmp_path):
    """Batch 5, the last of the second segment."""
    xs = jnp.stack([XS] * 9).at[5, 7, 2, 1].set(NAN)
    found, good = fit((xs, jnp.stack([YS] * 9)), tmp_path)
    assert found == (
        "loss: got nan at update 5, wanted a finite number; there, xs: got nan at step 7, "
        "example 2, input 1, wanted finite numbers"
    )
    assert ej.checkpoints.steps(tmp_path) == [3] and int(good.step) == 3
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(good.params))


def test_training_names_the_optimiser_where_the_gradient_was_finite(tmp_path):
    data = (jnp.stack([XS] * 9), jnp.stack([YS] * 9))
    rate = lambda count: jnp.where(count == 5, jnp.inf, 0.1)
    found, good = fit(data, tmp_path, optax.sgd(rate))
    assert found.startswith("params['cell']['bias']") and "after update 5" in found
    assert found.endswith("its loss and gradient are finite: the optimiser made them so")
    assert int(good.step) == 3
