"""Document collections to predictions."""
