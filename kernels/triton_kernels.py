"""The Triton kernels: four, two for the sums over taps and two for the gradients of the candidates.

`depthwise` and `dense` (pointwise and grouped included) compute the convolution and, with TRANSPOSED, its input
gradient: both are sums over taps of an assembled kernel times a shifted frame, and only the shift and the frame
whose kernel is assembled differ. `depthwise_kernel_grad` and `dense_kernel_grad` form G(t), the gradient of one
frame's kernel, in registers and reduce it at once to the gradients of the attention and of the candidates. Each
program owns its slice of the partial buffers that torch then sums, so the result does not depend on scheduling.

Sums are kept in 32 bits whatever the input; offsets between utterances and frames are 64-bit.
"""

import triton
import triton.language as tl

# Where a tap reads, and whether that place exists. Convolution: frame t + i - missing, bin f * stride + j - padding.
# Transposed: the output frame and bin that read this place through the tap; the bin exists where stride divides.


@triton.jit
def _source_frame(frame, i, missing, frames, TRANSPOSED: tl.constexpr):
    source = frame + missing - i if TRANSPOSED else frame + i - missing
    return source, (source >= 0) & (source < frames)


@triton.jit
def _source_bin(bin, j, stride, padding, bins, TRANSPOSED: tl.constexpr):
    if TRANSPOSED:
        shifted = bin + padding - j
        source = shifted // stride
        exists = (shifted >= 0) & (source * stride == shifted)
    else:
        source = bin * stride + j - padding
        exists = source >= 0
    return source, exists & (source < bins)


@triton.jit
def depthwise(
    x, a, w, bias, y,
    xb, xc, xt, xf, ab, at, ak, wk, wc, wi, wj, yb, yc, yt, yf,
    channels, frames_in, bins_in, frames_out, bins_out, missing, stride, padding,
    K: tl.constexpr, KT: tl.constexpr, KF: tl.constexpr,
    HAS_BIAS: tl.constexpr, TRANSPOSED: tl.constexpr,
    BT: tl.constexpr, BF: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """One program: one utterance and channel, BT frames, BF bins. In registers: the mixtures [BT, BK], one tap's
    kernels [BT] at a time, the sums [BT, BF]. Memory-bound: x and y move once, the rest is a few per cent."""
    pid = tl.program_id(0).to(tl.int64)
    blocks_t, blocks_f = tl.cdiv(frames_out, BT), tl.cdiv(bins_out, BF)
    f = (pid % blocks_f).to(tl.int32) * BF + tl.arange(0, BF)
    t = (pid // blocks_f % blocks_t).to(tl.int32) * BT + tl.arange(0, BT)
    c = pid // (blocks_f * blocks_t) % channels
    b = pid // (blocks_f * blocks_t) // channels
    k = tl.arange(0, BK)

    acc = tl.zeros((BT, BF), tl.float32)
    for i in tl.static_range(KT):
        ts, t_ok = _source_frame(t, i, missing, frames_in, TRANSPOSED)
        mixed = ts if TRANSPOSED else t
        mixed_ok = t_ok if TRANSPOSED else t < frames_out
        mixture = tl.load(
            a + b * ab + mixed[:, None].to(tl.int64) * at + k[None, :] * ak,
            mask=mixed_ok[:, None] & (k < K)[None, :], other=0.0,
        ).to(tl.float32)  # fmt: skip
        for j in tl.static_range(KF):
            fs, f_ok = _source_bin(f, j, stride, padding, bins_in, TRANSPOSED)
            tap = tl.load(w + k * wk + c * wc + i * wi + j * wj, mask=k < K, other=0.0).to(tl.float32)
            kernel = tl.sum(mixture * tap[None, :], axis=1)
            frame = tl.load(
                x + b * xb + c * xc + ts[:, None].to(tl.int64) * xt + fs[None, :] * xf,
                mask=t_ok[:, None] & f_ok[None, :], other=0.0,
            ).to(tl.float32)  # fmt: skip
            acc += kernel[:, None] * frame
    if HAS_BIAS:
        acc += tl.load(bias + c).to(tl.float32)
    out = y + b * yb + c * yc + t[:, None].to(tl.int64) * yt + f[None, :] * yf
    tl.store(out, acc.to(y.dtype.element_ty), mask=(t < frames_out)[:, None] & (f < bins_out)[None, :])


@triton.jit
def dense(
    x, a, w, bias, y,
    xb, xc, xt, xf, ab, at, ak, wk, wo, wc, wi, wj, wg, yb, yc, yt, yf,
    groups, c_in, c_out, frames_in, bins_in, frames_out, bins_out, missing, stride, padding,
    K: tl.constexpr, KT: tl.constexpr, KF: tl.constexpr,
    HAS_BIAS: tl.constexpr, TRANSPOSED: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
    BO: tl.constexpr, BC: tl.constexpr, BF: tl.constexpr,
):  # fmt: skip
    """One program: one frame, BO output channels of one group, BF bins. In registers: one tap's kernel for BC input
    channels [BO, BC], summed over the candidates and used for all BF bins by one matrix product, and the sums
    [BO, BF]. c_in and c_out count the channels of a group."""
    pid = tl.program_id(0).to(tl.int64)
    blocks_f, blocks_o = tl.cdiv(bins_out, BF), tl.cdiv(c_out, BO)
    f = (pid % blocks_f).to(tl.int32) * BF + tl.arange(0, BF)
    o = (pid // blocks_f % blocks_o).to(tl.int32) * BO + tl.arange(0, BO)
    rest = pid // (blocks_f * blocks_o)
    g = rest % groups
    t = rest // groups % frames_out
    b = rest // groups // frames_out

    acc = tl.zeros((BO, BF), tl.float32)
    for tap in range(KT * KF):
        i, j = tap // KF, tap % KF
        ts, t_ok = _source_frame(t, i, missing, frames_in, TRANSPOSED)
        fs, f_ok = _source_bin(f, j, stride, padding, bins_in, TRANSPOSED)
        mixture = a + b * ab + (ts if TRANSPOSED else t) * at
        for first in range(0, tl.where(t_ok, c_in, 0), BC):
            c = first + tl.arange(0, BC)
            c_ok = c < c_in
            kernel_ok = (o < c_out)[:, None] & c_ok[None, :]
            taps = w + g * wg + o[:, None] * wo + c[None, :] * wc + i * wi + j * wj
            kernel = tl.zeros((BO, BC), tl.float32)
            for k in tl.static_range(K):
                candidate = tl.load(taps + k * wk, mask=kernel_ok, other=0.0).to(tl.float32)
                kernel += tl.load(mixture + k * ak).to(tl.float32) * candidate
            frame = tl.load(
                x + b * xb + (g * c_in + c)[:, None] * xc + ts * xt + fs[None, :] * xf,
                mask=c_ok[:, None] & f_ok[None, :], other=0.0,
            )  # fmt: skip
            acc = tl.dot(kernel.to(DOT), frame.to(DOT), acc, input_precision=PRECISION)
    o_ok = o < c_out
    if HAS_BIAS:
        acc += tl.load(bias + g * c_out + o, mask=o_ok, other=0.0).to(tl.float32)[:, None]
    out = y + b * yb + (g * c_out + o)[:, None] * yc + t * yt + f[None, :] * yf
    tl.store(out, acc.to(y.dtype.element_ty), mask=o_ok[:, None] & (f < bins_out)[None, :])


@triton.jit
def depthwise_kernel_grad(
    dy, x, a, w, da, dw,
    db, dc, dt, df, xb, xc, xt, xf, ab, at, ak, wk, wc, wi, wj,
    channels, batch, frames_in, bins_in, frames_out, bins_out, missing, stride, padding,
    K: tl.constexpr, KT: tl.constexpr, KF: tl.constexpr, CHANNELS: tl.constexpr,
    BT: tl.constexpr, BF: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """One program: one utterance, BT frames, CHANNELS channels one after another. In registers: the mixtures and
    their gradients [BT, BK] and one tap's G(t) [BT]. Partial sums: da [channel block, B, T, K] and
    dw [utterance and frame block, K, C, KT * KF]."""
    pid = tl.program_id(0).to(tl.int64)
    blocks_t, blocks_c = tl.cdiv(frames_out, BT), tl.cdiv(channels, CHANNELS)
    block_t, block_c = pid % blocks_t, pid // blocks_t % blocks_c
    b = pid // (blocks_t * blocks_c)
    t = block_t.to(tl.int32) * BT + tl.arange(0, BT)
    k = tl.arange(0, BK)
    t_ok, k_ok = t < frames_out, k < K
    mixture_ok = t_ok[:, None] & k_ok[None, :]
    mixture = tl.load(
        a + b * ab + t[:, None].to(tl.int64) * at + k[None, :] * ak, mask=mixture_ok, other=0.0
    ).to(tl.float32)  # fmt: skip

    d_mixture = tl.zeros((BT, BK), tl.float32)
    for c in range(block_c * CHANNELS, min(block_c * CHANNELS + CHANNELS, channels)):
        for i in tl.static_range(KT):
            ts, ts_ok = _source_frame(t, i, missing, frames_in, False)
            for j in tl.static_range(KF):
                grad = tl.zeros((BT,), tl.float32)
                for first in range(0, bins_out, BF):
                    f = first + tl.arange(0, BF)
                    fs, fs_ok = _source_bin(f, j, stride, padding, bins_in, False)
                    out_ok = t_ok[:, None] & (f < bins_out)[None, :]
                    out = tl.load(
                        dy + b * db + c * dc + t[:, None].to(tl.int64) * dt + f[None, :] * df,
                        mask=out_ok, other=0.0,
                    ).to(tl.float32)  # fmt: skip
                    frame = tl.load(
                        x + b * xb + c * xc + ts[:, None].to(tl.int64) * xt + fs[None, :] * xf,
                        mask=out_ok & ts_ok[:, None] & fs_ok[None, :], other=0.0,
                    ).to(tl.float32)  # fmt: skip
                    grad += tl.sum(out * frame, axis=1)
                tap = tl.load(w + k * wk + c * wc + i * wi + j * wj, mask=k_ok, other=0.0).to(tl.float32)
                d_mixture += grad[:, None] * tap[None, :]
                partial = dw + (((b * blocks_t + block_t) * K + k) * channels + c) * (KT * KF) + i * KF + j
                tl.store(partial, tl.sum(mixture * grad[:, None], axis=0), mask=k_ok)
    partial = da + ((block_c * batch + b) * frames_out + t[:, None]) * K + k[None, :]
    tl.store(partial, d_mixture, mask=mixture_ok)


@triton.jit
def dense_kernel_grad(
    dy, x, a, w, da, dw,
    db, dc, dt, df, xb, xc, xt, xf, ab, at, ak, wk, wo, wc, wi, wj, wg,
    groups, c_in, c_out, batch, frames_in, bins_in, frames_out, bins_out, missing, stride, padding, rows_per_program,
    K: tl.constexpr, KT: tl.constexpr, KF: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
    BO: tl.constexpr, BC: tl.constexpr, BF: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """One program: one tap, BO x BC channels of one group, a stretch of frames. In registers: the candidates'
    values [BK, BO, BC] and their gradients, and one frame's G(t) [BO, BC]. Partial sums: da [tile, B * T, K] and
    dw [stretch, K, group * c_out, c_in, KT * KF]."""
    pid = tl.program_id(0).to(tl.int64)
    blocks_o, blocks_c = tl.cdiv(c_out, BO), tl.cdiv(c_in, BC)
    tiles = groups * blocks_o * blocks_c * KT * KF
    tile, stretch = pid % tiles, pid // tiles
    tap = (tile % (KT * KF)).to(tl.int32)
    c = (tile // (KT * KF) % blocks_c).to(tl.int32) * BC + tl.arange(0, BC)
    o = (tile // (KT * KF) // blocks_c % blocks_o).to(tl.int32) * BO + tl.arange(0, BO)
    g = tile // (KT * KF) // blocks_c // blocks_o
    i, j = tap // KF, tap % KF
    k = tl.arange(0, BK)
    k_ok = k < K
    ok = k_ok[:, None, None] & (o < c_out)[None, :, None] & (c < c_in)[None, None, :]
    candidates = tl.load(
        w + k[:, None, None] * wk + g * wg + o[None, :, None] * wo + c[None, None, :] * wc + i * wi + j * wj,
        mask=ok, other=0.0,
    ).to(tl.float32)  # fmt: skip

    d_candidates = tl.zeros((BK, BO, BC), tl.float32)
    rows = batch * frames_out
    for row in range(stretch * rows_per_program, min((stretch + 1) * rows_per_program, rows)):
        b, t = row // frames_out, row % frames_out
        ts, t_ok = _source_frame(t, i, missing, frames_in, False)
        grad = tl.zeros((BO, BC), tl.float32)
        for first in range(0, tl.where(t_ok, bins_out, 0), BF):
            f = first + tl.arange(0, BF)
            fs, fs_ok = _source_bin(f, j, stride, padding, bins_in, False)
            f_ok = f < bins_out
            out = tl.load(
                dy + b * db + (g * c_out + o)[:, None] * dc + t * dt + f[None, :] * df,
                mask=(o < c_out)[:, None] & f_ok[None, :], other=0.0,
            )  # fmt: skip
            frame = tl.load(
                x + b * xb + (g * c_in + c)[None, :] * xc + ts * xt + fs[:, None] * xf,
                mask=(f_ok & fs_ok)[:, None] & (c < c_in)[None, :], other=0.0,
            )  # fmt: skip
            grad = tl.dot(out.to(DOT), frame.to(DOT), grad, input_precision=PRECISION)
        mixture = tl.load(a + b * ab + t * at + k * ak, mask=k_ok, other=0.0).to(tl.float32)
        d_candidates += mixture[:, None, None] * grad[None, :, :]
        d_mixture = tl.sum(tl.sum(candidates * grad[None, :, :], axis=2), axis=1)
        tl.store(da + (tile * rows + row) * K + k, d_mixture, mask=k_ok)
    channel = (stretch * K + k[:, None, None]) * (groups * c_out) + g * c_out + o[None, :, None]
    tl.store(dw + (channel * c_in + c[None, None, :]) * (KT * KF) + tap, d_candidates, mask=ok)
