"""Turns labelled corpora into training records."""
