"""Scores document collections."""
