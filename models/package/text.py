"""The escaping of text of unknown origin for terminals and log lines."""


def escaped(text: str) -> str:
    """Return the text with each character that is not printable escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
