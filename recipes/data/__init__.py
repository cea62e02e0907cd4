"""Preparation of data and the sets that training reads."""
