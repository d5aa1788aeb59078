"""Model packages: the only code that training and serving share."""
