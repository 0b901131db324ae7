"""Encoders and their pretrained weights."""
