"""The autoregressive twin: greedy and speculative decoding, fused search, rescoring."""
