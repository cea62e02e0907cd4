"""L3-SE: enhancement by a token language model that is conditioned on noise-invariant representations.

    noisy speech -> NI-Encoder -> language model -> acoustic tokens -> codec decoder -> clean speech

Source: "Reducing Linguistic Hallucination in LM-Based Speech Enhancement via Noise-Invariant Acoustic-Semantic
Distillation" (arXiv 2605.08608). No code of it is public; what the paper leaves open is decided here.
"""
