"""Benchmark of the service and other servers, in one run on one machine: `make bench`."""
