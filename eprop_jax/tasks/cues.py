"""Spiking cues, a delay, and an answer when asked: evidence accumulation, XOR, store and recall.

G. Bellec, F. Scherr, A. Subramoney, E. Hajek, D. Salaj, R. Legenstein, W. Maass, *A solution to the
learning dilemma for recurrent networks of spiking neurons*, Nature Communications 11:3625, 2020.
The defaults are those of the code the authors published with it
(github.com/IGITUGraz/eligibility_propagation), read there; each docstring says what is not.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax import checks
from eprop_jax.network.types import Array
from eprop_jax.tasks.timing import Task, between, spike_probability, spikes, steps


def evidence_accumulation(
    *,
    n_cues: int = 7,
    cue: float = 100.0,
    gap: float = 50.0,
    delay: float = 1050.0,
    recall: float = 150.0,
    group: int = 10,
    rate: float = 40.0,
    noise_rate: float = 10.0,
    p_favoured: float = 0.7,
    dt: float = 1.0,
) -> Task:
    """Count cues on the left and on the right; when asked, name the side that had more.

    A trial is n_cues times (gap, cue), then delay, then recall: 7 · 150 + 1050 + 150 = 2250 ms. One
    side, drawn with probability ½, is favoured; each cue is on it with probability `p_favoured`.
    Four groups of inputs fire: left cue, right cue, recall cue, and background noise throughout.

    Args:
      n_cues: odd, so that there is a majority.
      cue, gap: how long a cue lasts, and the silence before each, in ms.
      delay: from the last cue's end to the recall cue, in ms.
      recall: how long the recall cue lasts, in ms; the answer counts while it does.
      group: input units a group; n_in = 4 · group.
      rate: of an active cue's units, in Hz.
      noise_rate: of the background group, in Hz (the authors take rate / 4).
      p_favoured: ½ to 1.
      dt: step in ms.

    Returns:
      (key, batch) -> (xs [T, batch, 4 · group] of 0 and 1, (side [T, batch], weight [T, batch])),
      for `losses.masked(losses.softmax_cross_entropy)` with two outputs: side 0 is left, 1 right;
      the weight is 1/(recall steps) in the recall window and 0 before, so that the loss is the
      window's mean, as the authors take it.

    Raises:
      TypeError, ValueError: for an even `n_cues`, a time that is no multiple of dt, a rate above
        one spike a step, a probability out of range, `batch` < 1; each by its name.

    >>> import jax
    >>> from eprop_jax import tasks
    >>> small = tasks.evidence_accumulation(n_cues=3, cue=20, gap=10, delay=50, recall=20)
    >>> xs, (side, weight) = small(jax.random.key(0), 8)
    >>> xs.shape, side.shape, round(float(weight[:, 0].sum()), 4)
    ((160, 8, 40), (160, 8), 1.0)
    """
    if checks.size("n_cues", n_cues) % 2 == 0:
        raise ValueError(f"n_cues: got {n_cues}, wanted an odd number, so that one side has more")
    between("p_favoured", p_favoured, 0.5, 1.0)
    show = _trial(n_cues, cue, gap, delay, recall, group, rate, noise_rate, dt)

    def sample(key, batch):
        checks.key("key", key)
        checks.size("batch", batch)
        k_side, k_cues, k_spikes = jax.random.split(key, 3)
        favoured = jax.random.bernoulli(k_side, 0.5, (batch, 1))
        on_it = jax.random.bernoulli(k_cues, p_favoured, (batch, n_cues))
        right = on_it == jnp.broadcast_to(favoured, on_it.shape)
        majority = jnp.sum(right, 1) > n_cues // 2
        return show(k_spikes, right, majority)

    return sample


def delayed_xor(
    *,
    cue: float = 50.0,
    gap: float = 50.0,
    delay: float = 200.0,
    recall: float = 50.0,
    group: int = 10,
    rate: float = 100.0,
    noise_rate: float = 10.0,
    dt: float = 1.0,
) -> Task:
    """Two bits, one after the other; when asked, answer their exclusive or.

    A trial is twice (gap, cue), then delay, then recall. The delay sets how long the bits, or
    their XOR, have to be kept; no part of the answer can be had from either bit alone. The trial is
    that of `evidence_accumulation` with two cues; its times and rates are this library's choice,
    as Bellec et al. (2020) have no such task.

    Args:
      cue, gap, delay, recall, group, rate, noise_rate, dt: as in `evidence_accumulation`; the four
        groups are bit 0, bit 1, recall cue and noise.

    Returns:
      (key, batch) -> (xs [T, batch, 4 · group] of 0 and 1, (xor [T, batch], weight [T, batch])),
      as in `evidence_accumulation`.

    Raises:
      TypeError, ValueError: as `evidence_accumulation`.

    >>> import jax
    >>> from eprop_jax import tasks
    >>> xs, (xor, weight) = tasks.delayed_xor(delay=500)(jax.random.key(0), 4)
    >>> xs.shape, int((weight[:, 0] > 0).sum())
    ((750, 4, 40), 50)
    """
    show = _trial(2, cue, gap, delay, recall, group, rate, noise_rate, dt)

    def sample(key, batch):
        checks.key("key", key)
        checks.size("batch", batch)
        k_bits, k_spikes = jax.random.split(key)
        bits = jax.random.bernoulli(k_bits, 0.5, (batch, 2))
        return show(k_spikes, bits, bits[:, 0] ^ bits[:, 1])

    return sample


def store_recall(
    *,
    n_symbols: int = 12,
    symbol: float = 200.0,
    mean_delay: float = 6.0,
    group: int = 25,
    rate: float = 50.0,
    dt: float = 1.0,
) -> Task:
    """A stream of bits with commands to store and to recall; at a recall, name the bit last stored.

    Four groups of inputs: bit 0, bit 1, store, recall. At each symbol one of the first two fires,
    but at a recall. A store command comes with the bit to keep; each store has one recall, and the
    next store comes after it. As in the authors' code, a command that may come does so with
    probability 1/(1 + mean_delay) a symbol. They draw sequences until one is valid; here, so that
    it can be compiled, what is missing is put in: a first store at the last symbol but one, and at
    the last symbol the recall that is open.

    Args:
      n_symbols: a sequence, ≥ 2.
      symbol: how long each lasts, in ms.
      mean_delay: memory demand, symbols from a store to its recall, on average where the sequence
        does not end before.
      group: input units a group; n_in = 4 · group.
      rate: of an active group's units, in Hz.
      dt: step in ms.

    Returns:
      (key, batch) -> (xs [T, batch, 4 · group] of 0 and 1, (bit [T, batch], weight [T, batch])),
      T = n_symbols · symbol / dt, for `losses.masked(losses.softmax_cross_entropy)` with two
      outputs: the weight is 0 but at recalls, where it is the same for all steps of a sequence and
      sums to 1.

    Raises:
      TypeError, ValueError: for `n_symbols` < 2, a negative `mean_delay`, a time that is no
        multiple of dt, a rate above one spike a step, `batch` < 1; each by its name.

    Source: G. Bellec, D. Salaj, A. Subramoney, R. Legenstein, W. Maass, *Long short-term memory and
    learning-to-learn in networks of spiking neurons*, NeurIPS 2018; parameters as in
    tutorial_store_recall.py of the authors' e-prop code.

    >>> import jax
    >>> from eprop_jax import tasks
    >>> xs, (bit, weight) = tasks.store_recall(symbol=10)(jax.random.key(0), 5)
    >>> xs.shape, weight.sum(0).round(4).tolist()
    ((120, 5, 100), [1.0, 1.0, 1.0, 1.0, 1.0])
    """
    if checks.size("n_symbols", n_symbols) < 2:
        raise ValueError(f"n_symbols: got {n_symbols}, wanted >= 2, a store and a recall")
    each = steps("symbol", symbol, dt, least=1)
    p_command = 1 / (1 + between("mean_delay", mean_delay, 0.0, np.inf))
    p = spike_probability("rate", rate, dt)
    checks.size("group", group)

    def symbol_step(memory, now):
        holds, stored, never = memory
        s, command, bit = now
        store = ~holds & (s < n_symbols - 1) & (command | (never & (s == n_symbols - 2)))
        recall = holds & (command | (s == n_symbols - 1))
        stored = jnp.where(store, bit, stored)
        return ((holds | store) & ~recall, stored, never & ~store), (store, recall, stored)

    def sample(key, batch):
        checks.key("key", key)
        checks.size("batch", batch)
        k_command, k_bit, k_spikes = jax.random.split(key, 3)
        shape = (n_symbols, batch)
        command = jax.random.bernoulli(k_command, p_command, shape)
        bit = jax.random.bernoulli(k_bit, 0.5, shape)
        no = jnp.zeros((batch,), bool)
        _, (store, recall, stored) = jax.lax.scan(
            symbol_step, (no, no, ~no), (jnp.arange(n_symbols), command, bit)
        )
        groups = jnp.stack([~bit & ~recall, bit & ~recall, store, recall], -1)
        recalled = recall.astype(float)
        weight = recalled / (each * jnp.sum(recalled, 0, keepdims=True))
        probability, stored, weight = (
            jnp.repeat(x, each, axis=0)
            for x in (p * groups.astype(float), stored.astype(int), weight)
        )
        return spikes(k_spikes, probability, group), (stored, weight)

    return sample


def _trial(n_cues, cue, gap, delay, recall, group, rate, noise_rate, dt):
    """(key, second [B, n_cues], answer [B]) -> (xs, ys): cues of one of two kinds, then recall."""
    slot = [0] * steps("gap", gap, dt) + [1] * steps("cue", cue, dt, least=1)
    T_recall = steps("recall", recall, dt, least=1)
    T_cues = n_cues * len(slot)
    T = T_cues + steps("delay", delay, dt) + T_recall
    p = spike_probability("rate", rate, dt)
    p_noise = spike_probability("noise_rate", noise_rate, dt)
    checks.size("group", group)
    shown = np.zeros((T, n_cues))  # which cue is on
    shown[:T_cues] = np.kron(np.eye(n_cues), np.array(slot)[:, None])
    asked = np.arange(T) >= T - T_recall

    def show(key: Array, second: Array, answer: Array):
        B = answer.shape[0]
        kinds = jnp.stack([~second, second], -1).astype(float)
        cues = jnp.einsum("tk,bkg->tbg", jnp.asarray(shown, float), kinds)
        steady = np.stack([p * asked, np.full(T, p_noise)], -1)[:, None, :]
        steady = jnp.broadcast_to(jnp.asarray(steady, float), (T, B, 2))
        xs = spikes(key, jnp.concatenate([p * cues, steady], -1), group)
        weight = jnp.asarray(asked / T_recall, float)[:, None]
        ys = jnp.broadcast_to(answer.astype(int), (T, B)), jnp.broadcast_to(weight, (T, B))
        return xs, ys

    return show
