"""Benchmark of `training.loop.train` against plain loops of PyTorch with a DataLoader."""
