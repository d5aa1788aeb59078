"""Small requests in, few large batches through one compute function; begin with `batcher.py`."""
