"""The one training engine and what it needs."""
