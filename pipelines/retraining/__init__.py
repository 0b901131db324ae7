"""Scheduled retraining: from new files to a published model."""
