"""What the service tells its operator: metrics, statistics, traces, the log."""
