"""The error of a network that cannot be added."""


class AddError(Exception):
    """A network that cannot become a package. The message is one sentence with advice."""
