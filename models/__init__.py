"""Model packages: the one thing that training and serving have in common."""
