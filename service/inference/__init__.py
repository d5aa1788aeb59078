"""The models that serve: loading, placement, prediction, monitoring."""
