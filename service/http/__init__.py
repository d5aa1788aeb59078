"""How a request comes in and its answer goes out; begin with `front.py`."""
