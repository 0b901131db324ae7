"""The Beam side of sepline: reads corpora, writes training records and predictions, retrains; and the command line."""
