"""Fine-tunes a model: from training records to a bundle."""
