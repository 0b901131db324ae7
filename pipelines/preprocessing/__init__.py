"""Labelled corpora to training records."""
