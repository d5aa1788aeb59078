"""The checks of a network that is added: each compares outputs with expected ones."""
