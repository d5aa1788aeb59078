"""The benchmarks: the measurements in the README, and the servers for comparison."""
