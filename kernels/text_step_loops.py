"""The compiled loops of `kernels.text_step`, which says what they compute."""

import numpy as np

from kernels.compiled import compiled, exp

EPSILON = np.float32(1e-5)
ZERO, HALF, ONE, ROOT_HALF, LEAST = np.float32([0, 0.5, 1, 0.5**0.5, -1e30])
# erf(x) = 1 - t P(t) exp(-x^2), t = 1 / (1 + A x), for x >= 0, within 1.5e-7 (Abramowitz and Stegun 1964, 7.1.26).
A, B1, B2, B3, B4, B5 = np.float32([0.3275911, 0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429])


@compiled
def attend_to_text(own, keys, values, first, positions):
    """What each position [texts * positions, width] finds in its text up to itself.

    `own` has queries, keys and values side by side [texts * positions, 3 * width]; the last two are put behind what
    [texts, heads, room, size] holds of `first` positions.
    """
    heads, size, width = keys.shape[1], keys.shape[3], own.shape[1] // 3
    found = np.empty((len(own), width), np.float32)
    for n in range(len(own)):
        text, place = n // positions, first + n % positions
        for h in range(heads):
            for j in range(size):
                keys[text, h, place, j] = own[n, width + h * size + j]
                values[text, h, place, j] = own[n, 2 * width + h * size + j]
        attend(found[n], own[n], keys[text], values[text], place + 1)
    return found


@compiled
def attend_to_speech(queries, keys, values, frames, positions):
    """What each position [texts * positions, width] finds in the speech [texts or 1, heads, frames, size]."""
    found = np.empty_like(queries)
    for n in range(len(queries)):
        speech = min(n // positions, len(keys) - 1)
        attend(found[n], queries[n], keys[speech], values[speech], frames[speech])
    return found


@compiled
def normed(x, weight, bias):
    """LayerNorm of each row of x [rows, width]."""
    y = np.empty_like(x)
    for r in range(len(x)):
        total = ZERO
        for j in range(x.shape[1]):
            total += x[r, j]
        mean, power = total / np.float32(x.shape[1]), ZERO
        for j in range(x.shape[1]):
            power += (x[r, j] - mean) * (x[r, j] - mean)
        factor = ONE / np.sqrt(power / np.float32(x.shape[1]) + EPSILON)
        for j in range(x.shape[1]):
            y[r, j] = (x[r, j] - mean) * factor * weight[j] + bias[j]
    return y


@compiled
def linear(x, weight, scale, bias, levels):
    """x [rows, inputs] -> [rows, outputs]; each row is rounded to whole numbers, their products are exact."""
    rows, inputs = x.shape
    whole, loudest = np.empty((rows, inputs), np.int16), np.empty(rows, np.float32)
    for r in range(rows):
        loudest[r] = ZERO
        for j in range(inputs):
            loudest[r] = max(loudest[r], abs(x[r, j]))
        factor = levels / loudest[r] if loudest[r] > ZERO else ZERO
        for j in range(inputs):
            value = x[r, j] * factor
            whole[r, j] = np.int16(value + (HALF if value >= ZERO else -HALF))
    y = np.empty((rows, len(weight)), np.float32)
    for i in range(len(weight)):
        for r in range(rows):
            total = np.int32(0)
            for j in range(inputs):  # a sum that numba would make 64 bits wide
                total = np.int32(total + np.int32(weight[i, j]) * np.int32(whole[r, j]))
            y[r, i] = np.float32(total) * scale[i] * loudest[r] + bias[i]
    return y


@compiled
def attend(out, query, keys, values, count):
    """Attention of one position, whose query's heads follow one another, to the first `count` of [heads, n, size]."""
    heads, _, size = keys.shape
    scale, seen = ONE / np.sqrt(np.float32(size)), np.empty(count, np.float32)
    for h in range(heads):
        loudest = LEAST
        for t in range(count):
            total = ZERO
            for j in range(size):
                total += query[h * size + j] * keys[h, t, j]
            seen[t] = total * scale
            loudest = max(loudest, seen[t])
        total = ZERO
        for t in range(count):
            seen[t] = exp(seen[t] - loudest)
            total += seen[t]
        mixed = out[h * size : (h + 1) * size]
        mixed[:] = ZERO
        for t in range(count):
            share = seen[t] / total
            for j in range(size):
                mixed[j] += share * values[h, t, j]


@compiled
def gelu(x):
    """x times the probability that a normal variable is below it, in place."""
    for r in range(len(x)):
        for j in range(x.shape[1]):
            value = x[r, j]
            z = abs(value) * ROOT_HALF
            t = ONE / (ONE + A * z)
            rest = HALF * t * (B1 + t * (B2 + t * (B3 + t * (B4 + t * B5)))) * exp(-z * z)
            x[r, j] = value * (ONE - rest if value >= ZERO else rest)


@compiled
def add(x, y):
    """x += y, both [rows, width]."""
    for r in range(len(x)):
        for j in range(x.shape[1]):
            x[r, j] += y[r, j]


@compiled
def likeliest(logits, never):
    rows, outputs = logits.shape
    best, sure = np.empty(rows, np.int64), np.empty(rows, np.float32)
    for r in range(rows):
        for token in never:
            logits[r, token] = LEAST
        loudest = LEAST
        for i in range(outputs):
            loudest = max(loudest, logits[r, i])
        total = ZERO
        for i in range(outputs):
            total += exp(logits[r, i] - loudest)
        sure[r] = ONE / total
        for i in range(outputs):
            if logits[r, i] == loudest:
                best[r] = i
                break
    return best, sure
