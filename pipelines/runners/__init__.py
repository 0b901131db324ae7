"""Chooses where Beam jobs run, and reports how they end."""
