"""Written and normalised text, tokenizers, the reading of transcripts."""
