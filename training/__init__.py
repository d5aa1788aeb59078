"""Fits, evaluates, exports and proves the networks, and writes each as a model package."""
