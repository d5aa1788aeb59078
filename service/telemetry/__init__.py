"""Telemetry: request contexts, metrics, statistics, traces and the log."""
