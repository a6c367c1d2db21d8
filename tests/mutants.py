"""Would the tests notice? One-line mutations of the library, one at a time, each in a copy of the tree.

    python -m tests.mutants            # all of them: `make mutants`
    python -m tests.mutants cost.py    # those whose group, file or line holds this

A mutant is caught where a test of its group fails. Before any, each group must pass as it is. The
exit code is not 0 if fewer than 95 % are caught, or a line to be changed does not stand in its file
exactly once: then the list is to be mended.
"""

import concurrent.futures
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
TIMEOUT = 600  # seconds a mutant; one that hangs is caught
WANTED = 0.95

GROUPS = {
    "e-prop": "test_chunks.py -k definition and e-prop",
    "order": "test_chunks.py -k definition and order",
    "rtrl": "test_chunks.py -k definition and rtrl",
    "bptt": "test_chunks.py -k truncated",
    "other cells": "test_chunks.py -k other_cells and e-prop",
    "state": "test_cells.py -k voltage or state_loss",
    "activity": "test_cells.py -k activity",
    "absent": "test_cells.py -k absent",
    "by hand": "test_cells.py -k by_hand or leaks or keep_what or scales or bellec or refractory_unit",
    "more cells": "test_more_cells.py -k spikes_when or published or ring or scale_of or counted",
    "noise": "test_more_cells.py -k white or names or own or mean or goes_on",
    "traced": "test_traced.py",
    "stored": "test_cells.py -k stored_form",
    "numbers": "test_documented_numbers.py",
    "kept": "test_engine.py -k always_zero or shared_voltage",
    "heard": "test_synapses.py -k held_by_the_unit_that_is_heard",
    "cost": "test_cost.py test_engine.py -k cost or auto or rates or gates",
    "program": "test_precision.py -k another_process",
    "refusals": "test_refusals.py -k shared or theta or step or OrderedDict or loss",
    "contract": "test_contract.py -k two_futures",
    "masks": "test_masks.py -k (alone and BPTT) or singular or masked_is_safe",
    "derivative": "test_derivative.py -k e-prop-None or refused or autodiff",
    "layer": "test_layer.py -k masked or activity or (afresh or across) and alif or beside",
    "site": "test_site.py",
    "dependence": "test_dependence.py",
    "columns": "test_columns.py",
    "losses": "test_losses.py test_compare.py",
    "training": "test_training.py -k loop_one or batches or random_feedback or fit_pauses or accuracy",
    "own data": "test_own_data.py -k masks or turn or order or loop_one or short or compares or event",
    "online": "test_online.py",
    "checkpoints": "test_checkpoints.py test_folders.py",
    "influence": "test_influence.py -k feedback4 or feedback6 or start_afresh or activity",
    "beyond": "test_beyond_paths.py -k entries or mean or snap_1 or chunks",
    "layers": "test_layers.py -k step_calls",
    "graph": "test_graph.py",
    "commands": "test_runs.py -k of_a_stack and not resumed",
    "predictions": "test_commands.py -k (where_the_task or each_step or your_own) and not vowels",
    "reports": "test_commands.py -k costs or losses or minutes or to_go or pauses",
    "pictures": "test_plotting.py -k frozen or panel or many",
    "synapses": "test_synapses.py -k kind_is or absent or fan_in or layer_is",
    "nir": "test_nir.py test_nir_refused.py -k numpy or kind_is or node_by_node or the_nodes_name",
    "initial": "test_initial.py -k autodiff or afresh or truncated",
    "delays": "test_delays.py",
    "at once": "test_affine.py -k jaxpr or (gated and e-prop-True)",
    "blocks": "test_blocks.py",
    "weights": "test_interop_weights.py -k carry and nnx and GRU or forget or fit or saturated",
    "three factors": "test_three_factor.py -k RTRL or behind or not_count or differentiates or wide",
    "resets": "test_resets.py -k (stacks and 7) or shared_traces or where_the_resets or narrow",
}
"""The tests that a mutant of each kind is given: few and quick ones."""


class Mutant(NamedTuple):
    group: str
    file: str
    """in eprop_jax/"""
    old: str
    new: str


MUTANTS = [
    # rules by their own equations, and those beyond paths
    Mutant("influence", "engine/influence.py", "S = begun(influence, at, S, resets_t)", "pass"),
    Mutant("influence", "engine/influence.py", "jax.tree.map(jnp.add, grads, found)", "found"),
    Mutant("influence", "engine/operators.py", "b, w: b * along(w, b, 0)", "b, w: along(w, b, 0)"),
    Mutant("beyond", "engine/operators.py", "there[:, None] & there[None]", "there[:, None]"),
    Mutant("beyond", "rules/snap.py", "range(min(hops, n - 1))", "range(min(hops + 1, n - 1))"),
    Mutant("beyond", "rules/uoro.py", "x_h = x_h + d.dy_dh.T @ x_y", "x_h = x_h"),
    Mutant("beyond", "rules/uoro.py", "(scaled(along, w) + direct).summed()", "direct.summed()"),
    Mutant("beyond", "rules/uoro.py", "scaled(1 / rho_1, nuF)", "scaled(rho_1, nuF)"),
    # eligibility that waits for a third factor
    Mutant("three factors", "transforms/three_factor.py", "kept = like(decay, x) * x", "kept = x"),
    Mutant("three factors", "transforms/three_factor.py", ", 0, kept)", ", kept, kept)"),
    Mutant("three factors", "transforms/three_factor.py", "_decayed(z, decay, at[-1].resets), out",
           "_decayed(z, decay, None), out"),
    Mutant("three factors", "transforms/three_factor.py", " / max(1, jnp.size(third))", ""),
    Mutant("three factors", "transforms/three_factor.py", "weights = jax.tree.map(wide, params)",
           "weights = params"),
    # affine units, all steps at once
    Mutant("at once", "network/affine.py", 'kind == "div" and given[1] == FREE', 'kind == "div"'),
    Mutant("at once", "network/affine.py", "jnp.where(starts, 0, d)", "d"),
    Mutant("at once", "engine/at_once.py", "goes_on & ~_beside(resets[..., None], here)", "goes_on"),
    Mutant("at once", "engine/at_once.py", "jnp.where(starts, x, 0).sum(0)", "x.sum(0)"),
    # the graph of a rule, and its picture
    Mutant("graph", "paper/kept.py", "or automaton.accepting[q] else None", "else None"),
    Mutant("graph", "paper/kept.py", "if r in live}", "}"),
    Mutant("graph", "paper/kept.py", "found[edge].add(edge in moves)",
           "found[edge].add(bool(moves))"),
    Mutant("graph", "paper/kept.py", "if not landed", "if jumps > 0"),
    Mutant("graph", "paper/kept.py", "return (heard and automaton.accepting[q],)",
           "return (automaton.accepting[q],)"),
    Mutant("graph", "paper/graph.py", "in_any_length[_at_any_time(edge)]", "in_steps[edge]"),
    Mutant("graph", "paper/graph.py", '("s" if i == j else "e")', '"e"'),
    Mutant("graph", "plotting/computation.py", "else 0.2", "else 0.0"),
    Mutant("graph", "plotting/automata.py", 'if accepts else ()', ""),
    # long sequences in blocks
    Mutant("blocks", "engine/blocks.py", "blocks, reverse=True", "blocks"),
    Mutant("blocks", "engine/blocks.py", "jax.tree.map(jnp.add, sums, more)", "more"),
    Mutant("blocks", "engine/blocks.py", "if K % k == 0", ""),
    Mutant("blocks", "engine/chunks.py", "first(far, h_tm1)", "h_tm1"),
    Mutant("blocks", "engine/chunks.py", "first(h_t, h_tm1)", "h_tm1"),
    # the adjoint sweep and chunks
    Mutant("state", "engine/adjoint.py", "dc = L.dc + d.dh_dc.T @ dh", "dc = d.dh_dc.T @ dh"),
    Mutant("order", "engine/adjoint.py", "after = lambda q: q + 1 if", "after = lambda q: q if"),
    Mutant("rtrl", "engine/adjoint.py", "dc_0 = d.dh_dc.T @ dh_0 + CoState", "dc_0 = CoState"),
    Mutant("order", "engine/adjoint.py", "d.dh_dtheta.T @ at(part.starts, dh_0) + CoState",
           "CoState"),
    Mutant("order", "engine/seeds.py", ".at[-1].set(x)", ".at[0].set(x)"),
    Mutant("e-prop", "engine/adjoint.py", "return d.dh_dtheta.T @ dh + d", "return d"),
    Mutant("e-prop", "engine/adjoint.py", "d.dc_dc.T @ dc)", "d.dc_dc @ dc)"),
    Mutant("e-prop", "engine/over.py",
           "add(grads_out, tied(unitwise.as_cell(net.readout), p_out, by_y))", "grads_out"),
    Mutant("e-prop", "engine/over.py", "@ S.gamma.cell + within",
           "@ S.gamma.cell"),
    Mutant("order", "engine/over.py", "if first + jumps < size", "if first + jumps < size - 1"),
    Mutant("other cells", "engine/together.py", "lambda b: b * after_t", "lambda b: b"),
    Mutant("e-prop", "engine/over.py", "older.meet(s_loss))",
           "[None] * len(grads))"),
    Mutant("e-prop", "engine/jacobians.py", "if r in shared else row for r, row in enumerate(J.D))",
           "for r, row in enumerate(J.D))"),
    Mutant("refusals", "engine/jacobians.py", "if checks.same_for_all(v)}", "}"),
    # the recursions at K = 1, traces, the forward pass
    Mutant("rtrl", "engine/operators.py", "brk,bk...->br...", "bkr,bk...->br..."),
    Mutant("rtrl", "engine/operators.py", "b[..., None] * w[None]", "b[:, None] * w[None]"),
    Mutant("rtrl", "engine/operators.py", "jnp.eye(n, dtype=S.dtype)",
           "jnp.ones((n, n), S.dtype)"),
    Mutant("e-prop", "rules/eprop.py", "d.dh_dc @ epsilon + d.dh_dw",
           "d.dh_dc @ epsilon"),
    Mutant("activity", "rules/eprop.py", "d.dL_dh @ e + ",
           ""),
    Mutant("e-prop", "rules/eprop.py", "d.dy_dy @ S.gamma.cell +",
           "S.gamma.cell +"),
    Mutant("kept", "engine/traces.py", '"w_rec" in params and jumps)',
           '"w_rec" in params)'),
    Mutant("kept", "engine/traces.py", "set() if jumps else jac.shared_positions(cell, c)",
           "set()"),
    Mutant("e-prop", "network/forward.py", "a_out + along(p_out", "a_out - along(p_out"),
    Mutant("e-prop", "network/forward.py",
           "start = (state.c, unitwise.output(cell, p_cell, state.c),",
           "start = (state.c, jnp.zeros_like(unitwise.output(cell, p_cell, state.c)),"),
    Mutant("program", "network/unitwise.py", "return sorted(set().union", "return list(set().union"),
    Mutant("traced", "network/traced.py", "if of() is not function:", "if of() is None:"),
    Mutant("traced", "network/traced.py", "_KNOWN.pop(function, None)", "hash(function)"),
    Mutant("traced", "network/traced.py", "weakref.ref(function), {}", "(lambda: function), {}"),
    # the rules
    Mutant("state", "rules/eprop.py", " + d.dL_dc @ epsilon",
           ""),
    Mutant("order", "rules/m_order.py", "zip(S.beta, b_tm1)",
           "zip(S.beta, b_tm1[:1] * len(S.beta))"),
    Mutant("rtrl", "rules/rtrl.py", "d.dh_dc_tm1 @ S.alpha + d.dh_dw_tm1",
           "d.dh_dc_tm1 @ S.alpha"),
    Mutant("bptt", "rules/bptt.py", "spec._replace(moves=EVERY)",
           "spec._replace(moves=(EVERY[0]._replace(e=None, s=None),))"),
    Mutant("e-prop", "engine/signals.py", 'return lambda x: x @ params["feedback"].T',
           'return lambda x: x @ params["readout"]["w_out"].T'),
    Mutant("e-prop", "engine/signals.py", 'jnp.zeros_like(params["feedback"])',
           'params["feedback"]'),
    Mutant("numbers", "rules/feedback.py", "gain / cell.n_units**0.5", "gain"),
    Mutant("absent", "engine/objective.py",
           "forward.existing(spec.network, grads)", "grads"),
    Mutant("activity", "engine/objective.py", "each(lambda x: x / B, dL_dh)", "dL_dh"),
    Mutant("masks", "engine/objective.py", "over(only(data.mask, h))", "over(h)"),
    Mutant("masks", "engine/objective.py", "share = 1 / jnp.maximum(number, 1)",
           "share = 1 / (0 * number + K)"),
    Mutant("masks", "engine/objective.py", "jax.tree.map(counts, (losses, dL_dy, dL_dc))",
           "(losses, dL_dy, dL_dc)"),
    # cells, read-outs, surrogates: what they do, and the numbers that they document
    Mutant("numbers", "network/cells/custom.py", '"w_rec": gain_rec',
           '"w_rec": 1.3 * gain_rec'),
    Mutant("numbers", "network/synapses/masked.py", "there.sum(0)", "n_pre"),
    Mutant("heard", "engine/heard.py", "Heard(self.x + other.x, self.view)",
           "Heard(self.x, self.view)"),
    Mutant("heard", "engine/heard.py", "Heard(along(block, S.x, at) * S.x, S.view)",
           "Heard(S.x, S.view)"),
    Mutant("heard", "network/synapses/use.py", "return _product(heard, da)",
           "return _product(heard, 0.9 * da)"),
    Mutant("other cells", "network/cells/gated.py", '(1 - z) * jnp.tanh(a["n"]',
           'z * jnp.tanh(a["n"]'),
    Mutant("numbers", "network/cells/gated.py", "forget_bias: float = 1.0",
           "forget_bias: float = 0.0"),
    Mutant("by hand", "network/cells/currents.py", "onward(v + z * (reset_of(theta) - v))",
           "onward(v)"),
    Mutant("by hand", "network/cells/currents.py", "alpha_of(theta) * (v - leak_of(theta))",
           "alpha_of(theta) * v"),
    Mutant("by hand", "network/cells/currents.py", "a if rest_of is None else rest_of(theta) * a",
           "a"),
    Mutant("more cells", "network/cells/physical.py", "(peak(theta) - back(theta)) * C(theta)",
           "0.01 * C(theta)"),
    Mutant("more cells", "network/cells/physical.py", "w = c.w + of_spike(theta) * z",
           "w = c.w"),
    Mutant("more cells", "network/cells/physical.py", "v = jnp.where(v < peak(theta), v",
           "v = jnp.where(v < peak(theta), v + 0.1"),
    Mutant("more cells", "network/cells/physical.py", '{"v": unit.values["e_l"]}', "{}"),
    Mutant("more cells", "network/cells/rate.py", "(d.rest * (1.0 + d.factor)) ** 0.5",
           "d.rest**0.5"),
    Mutant("noise", "network/cells/noise.py", "s.count * jnp.uint32(hashes)",
           "s.key[0] * jnp.uint32(hashes)"),
    Mutant("noise", "network/cells/noise.py", "jax.random.fold_in(key, b)",
           "jax.random.fold_in(key, 0 * b)"),
    Mutant("noise", "network/cells/noise.py", '"" if name == "unit" else f', "f"),
    Mutant("noise", "network/cells/noise.py", "jnp.where(begun, s.kept, kept)", "kept"),
    Mutant("noise", "network/forward.py", "None if name in cell.lasting else x", "x"),
    Mutant("numbers", "network/cells/spiking.py", "return 1.7 * slow", "return 1.6 * slow"),
    Mutant("by hand", "network/cells/spiking.py", "n_ref, c.r) - 1, 0)", "n_ref, c.r), 0)"),
    Mutant("numbers", "network/cells/spiking.py", "piecewise_linear(0.3 / v, v)",
           "piecewise_linear(0.4 / v, v)"),
    Mutant("numbers", "network/units.py", "default=20.0", "default=30.0"),
    Mutant("numbers", "network/cells/spiking.py", '"rho", 200.0)', '"rho", 100.0)'),
    Mutant("numbers", "network/cells/rate.py", "np.linspace(0.5, 0.99, n)",
           "np.linspace(0.6, 0.99, n)"),
    Mutant("stored", "network/units.py", "np.exp(-dt / tau), -np", "np.exp(-1.0 / tau), -np"),
    Mutant("stored", "network/units.py", "-m.log(-m.log1p(-d.rest))", "m.log(-m.log1p(-d.rest))"),
    Mutant("by hand", "network/surrogates.py", "jnp.abs(x) / w) ** 2", "jnp.abs(x) / w) ** 3"),
    Mutant("by hand", "network/surrogates.py", "jnp.where(x >= 0,", "jnp.where(x > 0,"),
    Mutant("numbers", "network/synapses/dense.py", "np.full(n_post, n_pre), gain", "1, gain"),
    # synapses, a trained initial state, delays
    Mutant("synapses", "network/synapses/sparse.py", ".add(w[..., None]", ".set(w[..., None]"),
    Mutant("synapses", "network/synapses/sparse.py", "(take(heard, line) * rows).sum(-1)",
           "take(heard, line).sum(-1)"),
    Mutant("synapses", "network/synapses/sparse.py", "jnp.where(there, w, 0.0)", "w"),
    Mutant("synapses", "network/synapses/conv.py", "(t // 2, t - t // 2)", "(t - t // 2, t // 2)"),
    Mutant("synapses", "network/synapses/grouped.py", "apart(x, n).sum(-2)", "apart(x, n).mean(-2)"),
    Mutant("synapses", "network/synapses/masked.py", "init=init, exists=there", "init=init"),
    Mutant("synapses", "network/synapses/use.py", "return x + s.view(heard_t)",
           "return s.view(heard_t)"),
    Mutant("synapses", "engine/traces.py", "return use.tie(cell.synapses[path[0].key], x)",
           "return 2 * use.tie(cell.synapses[path[0].key], x)"),
    Mutant("initial", "engine/adjoint.py", "dinitial = dinitial + at(part.starts, dc_0)", "pass"),
    Mutant("initial", "engine/traces.py", "if r == entry.start else jnp", "if False else jnp"),
    Mutant("initial", "engine/influence.py", "kind.opened(at, kind.zeros(at)), trace)",
           "jax.tree.map(jnp.zeros_like, trace), trace)"),
    Mutant("initial", "engine/products.py", "(first[:, None] * dc).sum(0)", "dc.sum(0)"),
    Mutant("delays", "network/synapses/use.py", "(since == then)", "(since >= 0)"),
    Mutant("delays", "engine/adjoint.py", "(*later.dh[1:], None)", "(*later.dh[:-1], None)"),
    Mutant("delays", "network/forward.py", "jnp.where(resets_t[:, None], 0, past)", "past"),
    Mutant("by hand", "network/readouts.py", "(rest_of(phi) * a if", "(k * a if"),
    # the command line
    Mutant("commands", "cli/experiments.py", "path[1].idx in s.freeze", "False"),
    Mutant("commands", "cli/experiments.py", "below = (p.n_in, *sizes[:-1])", "below = sizes"),
    Mutant("commands", "cli/naming.py", "removeprefix(PATHS)", 'removeprefix(PATHS + "i")'),
    Mutant("commands", "cli/runs.py", "e.rule.init(experiments.start(e).params, (1,))", "0"),
    Mutant("predictions", "cli/predictions.py", "(own * weight[..., None]).sum(1)", "own.mean(1)"),
    Mutant("predictions", "cli/predictions.py", "np.where(there, found.outputs.argmax(-1), NEVER)",
           "found.outputs.argmax(-1)"),
    Mutant("reports", "cli/reports.py", "whole.chunk_bytes * T", "whole.chunk_bytes"),
    Mutant("reports", "cli/reports.py", "of.trace_bytes + of.chunk_bytes", "of.chunk_bytes"),
    Mutant("reports", "cli/reports.py", 'if rule.spec.name == "BPTT":', "if False:"),
    Mutant("reports", "cli/terminal.py", "if done else None", "if True else None"),
    Mutant("reports", "cli/catalogue.py", "row[name] == getattr(s, name)", "True"),
    Mutant("pictures", "plotting/figures.py", 'label="test error (%)", yscale="log"',
           'label="test error (%)"'),
    Mutant("pictures", "plotting/figures.py", "results[cell][0].name", "cell"),
    Mutant("pictures", "cli/runs.py", "np.reshape(filled, (-1, size)).T",
           "np.reshape(filled, (size, -1))"),
    # stacks, and examples that start afresh
    Mutant("layers", "engine/layers/chunk.py", "add(g, tied(*chunk.layer(l), x))", "g"),
    Mutant("layers", "engine/layers/chunk.py", "x = total(path, new.get(first + k))",
           "x = path"),
    Mutant("layers", "engine/layers/descend.py",
           "(*ends, *(hops[r] for _, r in nodes[q].f if r in hops))", "ends"),
    Mutant("layers", "engine/layers/meets.py",
           "w = use.matrix(s, use.existing(s, grads[line]))",
           "w = 0 * use.matrix(s, use.existing(s, grads[line]))"),
    Mutant("resets", "engine/adjoint.py", "(c_tm1, cut(cell, p, c_tm1, resets_t, parts, laters))",
           "(c_tm1, laters)"),
    Mutant("resets", "engine/adjoint.py", "Later(keep(later.dc, False)", "Later(later.dc"),
    Mutant("resets", "engine/adjoint.py", "keep(later.dh, False)", "later.dh"),
    Mutant("resets", "engine/adjoint.py", "fresh = CoState((keep(later.dh[0], True),))",
           "fresh = CoState((None,))"),
    Mutant("resets", "engine/together.py", "else jnp.where(path.resets[..., None], 0, x)",
           "else x"),
    Mutant("resets", "network/forward.py", "jnp.where(resets[..., None], fresh, y_tm1)", "y_tm1"),
    # losses and comparisons
    Mutant("losses", "losses.py", "return 0.5 * jnp.sum((y - target", "return jnp.sum((y - target"),
    Mutant("losses", "losses.py", "log_p, 0.0)), jnp.nan)", "log_p, 0.0)), 0.0)"),
    Mutant("masks", "losses.py", "jnp.where(counts, g, jnp.zeros_like(g))", "g"),
    Mutant("losses", "losses.py", "return 0.5 * like(strength, f)", "return like(strength, f)"),
    Mutant("losses", "run/compare.py", "dot / jnp.maximum(norm * ref, tiny)",
           "dot / jnp.maximum(norm * norm, tiny)"),
    Mutant("losses", "run/compare.py", "(b != 0) & (jnp.sign(a)", "(b == b) & (jnp.sign(a)"),
    # what it costs, sequences
    Mutant("cost", "run/cost.py", "kept = B * (n * (d", "kept = 0 * (n * (d"),
    Mutant("cost", "run/cost.py", "trace=3 * local / K", "trace=local / K"),
    Mutant("cost", "run/cost.py", "key=lambda K: at(K).seconds", "key=lambda K: -at(K).seconds"),
    Mutant("cost", "run/cost.py", "max(times * of_a_step.trace_bytes, least)", "3e7"),
    Mutant("cost", "run/cost.py", "number=unit * (1 + states)", "number=unit * 2"),
    Mutant("cost", "run/rates.py", "fixed + (sum(by_kind) - fixed) * width / 4", "sum(by_kind)"),
    Mutant("cost", "run/rates.py", "Kinds(loop, loop, passing", "Kinds(loop, loop, loop"),
    Mutant("e-prop", "run/sequence.py", "if full < T:", "if False:"),
    Mutant("e-prop", "run/sequence.py", "(carry, start + size), out", "(carry, start), out"),
    # graphs of other simulators
    Mutant("nir", "interop/nir/steps.py", "(rest - P)", "rest"),
    Mutant("nir", "interop/nir/steps.py", "rest * keep, p", "rest, p"),
    Mutant("nir", "interop/nir/units.py", "z * (t[\"v_reset\"] - v), 0.0)", "z * t[\"v_reset\"], 0.0)"),
    Mutant("nir", "interop/nir/units.py", "1.0 - surrogates.heaviside(-x", "surrogates.heaviside(x"),
    Mutant("nir", "interop/nir/maps.py", "steps = steps + np", "steps = np"),
    Mutant("nir", "interop/nir/maps.py", "s.tie(x[..., back_again])", "s.tie(x)"),
    Mutant("nir", "interop/nir/writing.py", ".dtype), at + size", ".dtype), at"),
    Mutant("nir", "interop/nir/graph.py", "if name != sink and not", "if False and not"),
    # refusals
    Mutant("refusals", "checks/given.py", "    _plain_dicts(\"params\", params)", "    pass"),
    Mutant("refusals", "network/functions.py", "if _ours(error):", "if True:"),
    # training, online
    Mutant("training", "run/training/batches.py", "jax.random.fold_in(key, u)", "key"),
    Mutant("training", "run/training/batches.py", "u % N", "0 * u"),
    Mutant("training", "rules/feedback.py", '"feedback" in changes', "False"),
    Mutant("training", "run/training/loop.py", "every - done % every", "every"),
    Mutant("training", "run/training/looks.py", "jnp.where(weight > 0, label, 0)", "label"),
    Mutant("own data", "tasks/arrays.py", "order, at * batch, batch", "order, 0, batch"),
    Mutant("own data", "tasks/arrays.py", "fold_in(key, epoch)", "fold_in(key, 0)"),
    Mutant("own data", "tasks/arrays.py", "t == ends - 1", "t == T - 1"),
    Mutant("own data", "run/predict.py", "np.arange(T) == ends[:, None] - 1", "np.arange(T) == T - 1"),
    Mutant("own data", "run/predict.py", "part)[:N]", "part)"),
    Mutant("own data", "run/training/batches.py", "x.shape != like.shape", "False"),
    Mutant("own data", "run/training/updates.py", "jnp.where(counts, activity, 0)", "activity"),
    Mutant("own data", "run/training/updates.py", "xs, ys, batch.steps)", "xs, ys)"),
    Mutant("own data", "encodings.py", " + 4 * np.finfo(float).eps)", ")"),
    Mutant("online", "run/online.py", "total, (xs, ys, steps), every", "total, (xs, ys, steps), 1"),
    Mutant("online", "run/online.py", "jax.tree.map(jnp.add, summed, out.grads)", "out.grads"),
    Mutant("contract", "run/online.py", "@jax.jit", "@(lambda f: jax.jit(f, donate_argnums=0))"),
    # checkpoints
    Mutant("checkpoints", "run/folders.py", "if wanted.get(name) != found.get(name):", "if False:"),
    Mutant("checkpoints", "run/folders.py", "        os.rename(final, aside(folder, step))",
           "        shutil.rmtree(final)"),
    Mutant("checkpoints", "run/checkpoints.py", "if a != b and not scalar:", "if False:"),
    Mutant("checkpoints", "run/checkpoints.py", "len(before) - keep + 1)", "len(before) - keep)"),
    # the loss by its rule; what depends on what
    # a network as a function
    Mutant("layer", "engine/layers/pullback.py", "objective.only(mask, ct.reshape(T, B, ct.shape[-1]))",
           "ct.reshape(T, B, ct.shape[-1])"),
    Mutant("layer", "engine/layers/pullback.py", "tuple(map(there, dL_dh))",
           "tuple(True for _ in dL_dh)"),
    Mutant("layer", "engine/layers/pullback.py", "sources[l] +=", "sources[l] ="),
    Mutant("layer", "engine/pulled.py", "return told(*held, path), (*held, path)",
           "return shown(*held[2:], path), (*held, path)"),
    Mutant("layer", "engine/pulled.py", "jax.tree.map(alone, pull(*held, cts))", "pull(*held, cts)"),
    Mutant("layer", "engine/pulled.py", "        refuse(cts)\n", ""),
    Mutant("derivative", "engine/derivative.py", "inner(out.grads, params_dot, out.loss)",
           "2 * inner(out.grads, params_dot, out.loss)"),
    Mutant("derivative", "engine/derivative.py", "jax.tree.map(refused, out_dot.rest)",
           "out_dot.rest"),
    Mutant("derivative", "engine/products.py", "lambda x: use.unlagged(",
           "lambda x: -use.unlagged("),
    Mutant("columns", "engine/columns.py", "if all(reach) and not arrived", "if not arrived"),
    Mutant("columns", "engine/columns.py", "if of and of.isdisjoint(arrives)", "if False"),
    Mutant("columns", "engine/columns.py", "if not read.isdisjoint(eqn.outvars)", "if True"),
    Mutant("columns", "engine/columns.py", "frozenset({j} & dots.keys())", "frozenset({j})"),
    Mutant("dependence", "engine/dependence.py", "[which.union(*each)",
           "[frozenset().union(*each)"),
    # weights of other libraries
    Mutant("weights", "interop/flax_nnx.py", '"w_in", ("r", "z", "n"), IN',
           '"w_in", ("z", "r", "n"), IN'),
    Mutant("weights", "interop/carries.py", "h / jnp.where(nothing, 1, jnp.tanh(c))",
           "h"),
    Mutant("weights", "interop/carries.py", "jnp.clip(h, -most, most)", "h"),
    Mutant("weights", "interop/weights.py", "forget_bias=0.0, biases", "biases"),
    Mutant("weights", "interop/weights.py", '"f": b["f"] + like(inside, b["f"])', '"f": b["f"]'),
    Mutant("weights", "interop/weights.py", "sorted(arrays.keys() - known)", "()"),
    Mutant("weights", "interop/weights.py", "activation(part) is phi(module)", "True"),
    Mutant("dependence", "engine/dependence.py", "return [again | x for x", "return [x for x"),
    # what the site is made with
    Mutant("site", "../docs/tools/check.py", "not target.exists() or", "False or"),
    Mutant("site", "../docs/tools/check.py", "place not in known", "False"),
    Mutant("site", "../docs/tools/docstrings.py", 'first == "Returns:"', "False"),
    Mutant("site", "../docs/tools/docstrings.py", "EQUATION.match(block[0])", "False"),
]  # fmt: skip


def copy(to: Path) -> Path:
    for part in ("eprop_jax", "tests", "benchmarks", "notebooks", "docs"):
        shutil.copytree(ROOT / part, to / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ROOT.glob("*.*"):
        shutil.copy(file, to) if file.is_file() else None
    return to


def run(tree: Path, group: str) -> tuple[bool, str]:
    """Do the group's tests pass here? And the first that does not."""
    files, _, chosen = GROUPS[group].partition(" -k ")
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider"]
    command += [f"tests/{file}" for file in files.split()] + (["-k", chosen] if chosen else [])
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, timeout=TIMEOUT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False, f"no end within {TIMEOUT} s"
    if done.returncode not in (0, 1, 2):  # 2: what is imported fails
        raise RuntimeError(f"pytest ended with {done.returncode}:\n{done.stdout[-2000:]}")
    failed = [x for x in done.stdout.splitlines() if x.startswith(("FAILED ", "ERROR "))]
    return done.returncode == 0, failed[0].split(" - ")[0] if failed else ""


def misfit(m: Mutant) -> str | None:
    """Why it cannot be tried: its line must stand in its file exactly once, and its tests be there."""
    path = ROOT / "eprop_jax" / m.file
    count = path.read_text().count(m.old) if path.exists() else 0
    if count != 1:
        return f"{m.file}: {m.old!r} stands there {count} times, wanted once"
    for file in GROUPS[m.group].split(" -k ")[0].split():
        if not (ROOT / "tests" / file).exists():
            return f"{m.file}: {m.old!r} is to be caught by tests/{file}, which is not there"
    return None


def main(chosen: str = "") -> int:
    named = [m for m in MUTANTS if chosen in f"{m.group} {m.file} {m.old}"]
    stale = [why for why in map(misfit, named) if why]
    mutants = [m for m in named if not misfit(m)]
    print(*stale, sep="\n", end="\n" if stale else "")
    jobs = min(2, os.cpu_count() or 1)
    trees = queue.Queue()
    with tempfile.TemporaryDirectory() as folder:
        for i in range(jobs):
            trees.put(copy(Path(folder) / str(i)))

        def tried(mutant: Mutant | None, group: str):
            tree, start = trees.get(), time.monotonic()
            try:
                if mutant is None:
                    return *run(tree, group), time.monotonic() - start
                path = tree / "eprop_jax" / mutant.file
                was = path.read_text()
                path.write_text(was.replace(mutant.old, mutant.new))
                try:
                    return *run(tree, group), time.monotonic() - start
                finally:
                    path.write_text(was)
            finally:
                trees.put(tree)

        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            groups = sorted({m.group for m in mutants})
            for group, found in zip(groups, pool.map(lambda g: tried(None, g), groups)):
                passes, failed, seconds = found
                print(
                    f"unchanged {seconds:4.0f} s  {group}: {'passes' if passes else failed}",
                    flush=True,
                )
                if not passes:
                    return 2
            caught = 0
            for m, found in zip(mutants, pool.map(lambda m: tried(m, m.group), mutants)):
                passes, failed, seconds = found
                caught += not passes
                word = "SURVIVED" if passes else "caught"
                print(
                    f"{word:9} {seconds:4.0f} s  {m.file}: {m.old} -> {m.new}   {failed}",
                    flush=True,
                )
    print(f"{caught} of {len(mutants)} mutants caught; {len(stale)} could not be tried")
    return int(bool(stale) or caught < WANTED * len(mutants))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
