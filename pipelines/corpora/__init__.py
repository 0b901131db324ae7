"""Reads corpora as documents: one parser per format, sentence splitting, and chunks of documents."""
