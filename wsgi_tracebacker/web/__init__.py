"""What is served over HTTP from outside the workers: the metrics."""
