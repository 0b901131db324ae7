"""Fine-tuning, from training records to a bundle."""
