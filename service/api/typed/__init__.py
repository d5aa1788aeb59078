"""The typed endpoints: digits, pictures, curves and points."""
