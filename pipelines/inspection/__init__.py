"""A look at corpora before a run: `sepline inspect`."""
