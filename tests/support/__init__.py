"""What several tests start or make."""
