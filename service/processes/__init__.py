"""Functions in other processes, for work that is too long for the event loop."""
