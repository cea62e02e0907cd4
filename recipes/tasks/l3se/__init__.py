"""The four stages of L3-SE, one task each: codec, semantic teacher, NI-Encoder, language model."""
