"""Text of unknown origin, made fit for a terminal and for one line of a log."""


def escaped(text: str) -> str:
    """The text, with an escape in place of each character that is not printable."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
