"""Large recognisers: a pretrained speech encoder, a projector and a pretrained language model (dLLM-ASR at scale)."""
