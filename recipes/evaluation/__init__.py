"""Scoring of recognisers and enhancers, and tuning on a development set."""
