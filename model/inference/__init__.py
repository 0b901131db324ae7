"""A trained model applied to windows and documents."""
