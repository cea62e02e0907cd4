"""Speech encoders, language models and whole recognisers of transformers behind our protocols."""
