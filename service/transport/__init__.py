"""Sockets and processes: connections, the fast path, the workers and their supervisor."""
