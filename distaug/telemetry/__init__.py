"""What a run tells the outside while it runs: log and metrics."""
