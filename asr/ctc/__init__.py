"""The CTC branch: encoder, model, prefix beam, n-gram, alignment and word times."""
