"""What lies on disk between the steps: training records, bundles, registries."""
