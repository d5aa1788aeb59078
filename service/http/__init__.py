"""HTTP: the app around every request, authentication, bodies, responses."""
