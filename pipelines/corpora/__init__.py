"""Corpora in, documents out: one parser a format, sentence splitting, and chunks of documents."""
