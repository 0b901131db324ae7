"""What is on disk between the steps: training records, bundles, registries."""
