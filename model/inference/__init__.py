"""Runs a trained model on windows and documents."""
