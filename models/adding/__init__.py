"""A network of any origin becomes a package."""
