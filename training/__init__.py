"""Training: trains, evaluates, exports and verifies the networks, and writes model packages."""
