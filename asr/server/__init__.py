"""The server behind `python -m asr.serve`: requests in OpenAI's format, live text, metrics and a page."""
