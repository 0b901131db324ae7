"""The Beam side of sepline: corpora in, training records and scored Parquet out, and the command line."""
