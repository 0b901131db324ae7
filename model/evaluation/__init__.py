"""Metrics, baselines, calibration and comparisons."""
