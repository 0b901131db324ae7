"""Measures models: metrics, baselines, calibration, and comparing two models."""
