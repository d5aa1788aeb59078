"""What one caller of the service does to the waits of the others; start with `attacks.py`."""
