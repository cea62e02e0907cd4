"""Loops compiled to machine code by numba, for work on a CPU that torch's operators would take apart too finely.

This module imports numba, which takes a second, so it is imported where a compiled loop is first called.
Functions are compiled when first called for a precision, and kept beside the source or in the user's cache. A kept
function is made again when its own file changes, not when this one does: then delete `kernels/__pycache__`.

The arrays that a compiled function is given must not overlap where it writes: the compiler counts on it, and can so
vectorise loops whose last index runs through contiguous memory.
"""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numba
import numpy as np
import torch
from numba.core.caching import FunctionCache
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.extending import intrinsic, overload
from torch import Tensor

VECTOR = 16  # numbers of the widest registers; rows are best filled up to a multiple

# tanh(x) = x P(x^2) / Q(x^2) for |x| < 8, fitted with the least largest relative error (6e-9 before rounding).
P0, P1, P2, P3, P4 = np.float32([9.9999999361e-1, 1.3444489712e-1, 3.5715880295e-3, 2.1894490330e-5, 1.5230162936e-8])
Q1, Q2, Q3, Q4 = np.float32([4.6777817044e-1, 2.6164405353e-2, 3.4112753757e-4, 8.5223462041e-7])
ONE, HALF, TOP = np.float32([1, 0.5, 8])

# exp(x) = 2^n exp(r), n the whole number next to x / ln 2.
LOG2E, LN2, LOWEST = np.float32([1.442695041, 0.6931471806, -87])
E2, E3, E4, E5, E6 = np.float32([1 / 2, 1 / 6, 1 / 24, 1 / 120, 1 / 720])


class _Separate(CompilerBase):
    """numba's own steps, told that the arguments do not overlap."""

    def define_pipelines(self) -> list:
        self.state.flags.noalias = True
        return [DefaultPassBuilder.define_nopython_pipeline(self.state)]


class _Kept(FunctionCache):
    """numba's store of machine code, without which everything works: a full disk must not stop a program."""

    def save_overload(self, sig, data) -> None:
        with suppress(OSError):
            super().save_overload(sig, data)


def compiled(function: Callable) -> Callable:
    """The function as machine code that releases the interpreter; not kept where no folder can be written."""
    options = dict(nogil=True, fastmath=True, error_model="numpy", pipeline_class=_Separate)
    dispatcher = numba.njit(function, **options)
    with suppress(RuntimeError):  # no folder for the cache
        dispatcher._cache = _Kept(function)  # what `cache=True` does with a FunctionCache
    return dispatcher


def in_threads(task: Callable[[int, int], object], count: int, grain: int = 1) -> list:
    """Results of task(first, last) on even stretches of `count` things, multiples of `grain`, one a thread of torch."""
    units = -(-count // grain)
    shares = max(1, min(torch.get_num_threads(), units))
    edges = [min(units * i // shares * grain, count) for i in range(shares + 1)]
    if shares == 1:
        return [task(0, count)]
    return list(_threads(shares).map(task, edges[:-1], edges[1:]))


@functools.cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="kernels")


def array(x: Tensor) -> np.ndarray:
    """A tensor's memory as a contiguous array; a copy if it is not contiguous."""
    return x.detach().contiguous().numpy()


def tanh(x: float) -> float:
    """Hyperbolic tangent inside compiled loops: in single precision a vectorised quotient, within 3e-7."""
    raise NotImplementedError("only compiled loops call it")


@overload(tanh, inline="always")
def _tanh(x):
    if x != numba.float32:
        return lambda x: np.tanh(x)

    def quotient(x):
        x = min(max(x, -TOP), TOP)
        y = x * x
        p = (((P4 * y + P3) * y + P2) * y + P1) * y + P0
        return x * p / ((((Q4 * y + Q3) * y + Q2) * y + Q1) * y + ONE)

    return quotient


@intrinsic
def _float_of(context, bits):
    """The number in single precision whose 32 bits those of a whole number are."""

    def bitcast(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(numba.float32))

    return numba.float32(numba.int32), bitcast


def exp(x: float) -> float:
    """The exponential of x <= 0 inside compiled loops, vectorised; as near as x itself is known."""
    raise NotImplementedError("only compiled loops call it")


@overload(exp, inline="always")
def _exp(x):
    def power(x):
        x = max(x, LOWEST)
        n = numba.int32(x * LOG2E - HALF)
        r = x - numba.float32(n) * LN2
        p = ((((E6 * r + E5) * r + E4) * r + E3) * r + E2) * r * r + r + ONE
        return p * _float_of((n + numba.int32(127)) << numba.int32(23))

    return power


@compiled
def add_product(out, a, b):
    """out [I, J] += a [I, K] @ b [K, J]; J, the vectorised side, is best long and a multiple of 16, I and K of 4."""
    rows, depth, width = a.shape[0] // 4 * 4, a.shape[1] // 4 * 4, b.shape[1]
    for i in range(0, rows, 4):
        for k in range(0, depth, 4):
            p0, p1, p2, p3 = a[i, k], a[i, k + 1], a[i, k + 2], a[i, k + 3]
            q0, q1, q2, q3 = a[i + 1, k], a[i + 1, k + 1], a[i + 1, k + 2], a[i + 1, k + 3]
            r0, r1, r2, r3 = a[i + 2, k], a[i + 2, k + 1], a[i + 2, k + 2], a[i + 2, k + 3]
            s0, s1, s2, s3 = a[i + 3, k], a[i + 3, k + 1], a[i + 3, k + 2], a[i + 3, k + 3]
            for j in range(width):
                b0, b1, b2, b3 = b[k, j], b[k + 1, j], b[k + 2, j], b[k + 3, j]
                out[i, j] += p0 * b0 + p1 * b1 + p2 * b2 + p3 * b3
                out[i + 1, j] += q0 * b0 + q1 * b1 + q2 * b2 + q3 * b3
                out[i + 2, j] += r0 * b0 + r1 * b1 + r2 * b2 + r3 * b3
                out[i + 3, j] += s0 * b0 + s1 * b1 + s2 * b2 + s3 * b3
        for k in range(depth, a.shape[1]):
            p0, q0, r0, s0 = a[i, k], a[i + 1, k], a[i + 2, k], a[i + 3, k]
            for j in range(width):
                out[i, j] += p0 * b[k, j]
                out[i + 1, j] += q0 * b[k, j]
                out[i + 2, j] += r0 * b[k, j]
                out[i + 3, j] += s0 * b[k, j]
    for i in range(rows, a.shape[0]):
        for k in range(a.shape[1]):
            p0 = a[i, k]
            for j in range(width):
                out[i, j] += p0 * b[k, j]


@compiled
def add_inner_products(out, a, b):
    """out [I, K] += a [I, J] @ b [K, J]^T."""
    rows, depth, width = a.shape[0], b.shape[0], a.shape[1]
    for i in range(0, rows - 1, 2):
        for k in range(0, depth - 3, 4):
            s0 = s1 = s2 = s3 = t0 = t1 = t2 = t3 = a.dtype.type(0)
            for j in range(width):
                p, q = a[i, j], a[i + 1, j]
                b0, b1, b2, b3 = b[k, j], b[k + 1, j], b[k + 2, j], b[k + 3, j]
                s0, s1, s2, s3 = s0 + p * b0, s1 + p * b1, s2 + p * b2, s3 + p * b3
                t0, t1, t2, t3 = t0 + q * b0, t1 + q * b1, t2 + q * b2, t3 + q * b3
            out[i, k] += s0
            out[i, k + 1] += s1
            out[i, k + 2] += s2
            out[i, k + 3] += s3
            out[i + 1, k] += t0
            out[i + 1, k + 1] += t1
            out[i + 1, k + 2] += t2
            out[i + 1, k + 3] += t3
    for i in range(rows):
        paired = i < rows // 2 * 2
        for k in range(depth // 4 * 4 if paired else 0, depth):
            s0 = a.dtype.type(0)
            for j in range(width):
                s0 += a[i, j] * b[k, j]
            out[i, k] += s0
