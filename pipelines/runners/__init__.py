"""Where Beam jobs run, and how they end."""
