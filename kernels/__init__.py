"""Adaptive convolution: a convolution whose kernel is another mixture of K candidates in every frame.

The equation
    An ordinary convolution over spectra uses one kernel for all frames. Here frame t has its own,

        W(t) = sum_k A_k(t) W_k                                        A(t): mixture weights, usually a softmax
        Y[o, t, f] = bias[o] + sum_{c,i,j} W(t)[o, c, i, j] X[c, t - kt + 1 + i, f * stride + j - padding]

    causal in time (kt taps ending at frame t), strided and padded along frequency only. The mixture belongs to the
    output frame. So for kt > 1 it is wrong to scale the input by A_k and convolve: the frames of one window would
    be weighted by different mixtures.

Shapes
    x [B, C_in, T, F], attention [B, T, K], weight [K, C_out, C_in / groups, kt, kf], y [B, C_out, T, F_out].

Three ways that cost too much
    All W(t) at once are B * T * C_out * C_in * kt * kf numbers: for 64 -> 32 channels, 3 x 3 taps and 32 clips of
    10 s in 16 ms hops that is 1.5 GB in single precision, more than input and output together. K convolutions
    mixed afterwards cost K times the work and K outputs. Folding frames into groups of one convolution needs all
    W(t) again. But a mixture is cheap, K multiplications per tap, and its result serves all F_out bins of the
    frame; so every path here assembles W(t) next to its use and forgets it.

The backward equations
    With dY the gradient of Y, let G(t) be the gradient of the frame's own kernel,

        G(t)[o, c, i, j] = sum_f dY[o, t, f] X[c, t - kt + 1 + i, f * stride + j - padding]
        dW_k  = sum_{b,t} A_k(t) G(t)                                  candidates: G weighted by the mixture
        dA_k(t) = <G(t), W_k>                                          mixture: how well G points along W_k
        dX[c, t'] gathers from the output frames t = t' + kt - 1 - i, from each with that frame's kernel W(t)
        dbias[o] = sum_{b,t,f} dY[o, t, f]

    dX is itself the adaptive convolution transposed along frequency. So `adaptive_conv_transpose2d` is the input
    gradient of `adaptive_conv2d`, and its own input gradient is `adaptive_conv2d`: one family of kernels. The
    softmax and the network behind A stay in torch.

What stays in registers (`kernels.triton_backend`), and why
    depthwise   one program has one channel, a block of frames and of bins. Per tap it forms w[frames] from the
                mixtures [frames, K] and K numbers, and accumulates w[:, None] * x[frames, bins]. A few operations
                per byte: memory is the limit, so x and y move once and W(t) never does.
    others      one program has one frame and a block of output channels. Per tap and block of input channels it
                sums the K candidates to W[C_out, C_in] (they come from the L2 cache, being shared by all frames)
                and multiplies it with x[C_in, bins] on the tensor cores. The alternative, K products with scaled
                inputs, would be K times the arithmetic of a plain convolution; here the overhead is K / F_out.
    gradients   G(t) of one frame and tap is formed and reduced on the spot: to dA by a product with the
                candidates, to dW_k by accumulation over the program's frames. Programs write to their own slices
                of partial sums, added by torch: the same result in every run, which atomics would not give.
    Sums are in single precision whatever the inputs are.

The CPU path (`kernels.cpu`) does the same on blocks of frames that fit the cache, with torch's own convolutions and
batched products; while it trains, `kernels.compiled_conv` has compiled loops for depthwise kernels.
`kernels.naive` is the definition in a few lines, in any precision; all tests compare with it.

Streaming: `past` carries the kt - 1 last input frames from call to call; nothing is hidden in the op.
"""

from kernels.op import adaptive_conv2d, adaptive_conv_transpose2d

__all__ = ["adaptive_conv2d", "adaptive_conv_transpose2d"]
