"""The charsets that are accepted in the text fields of a form."""

from python_multipart.multipart import parse_options_header

from service.errors import UnsupportedMediaError

CHARSETS = frozenset(
    {
        *("utf-8", "utf8"),
        *("us-ascii", "ascii", "iso-ir-6", "ansi_x3.4-1968", "ansi_x3.4-1986", "iso_646.irv:1991"),
        *("iso646-us", "us", "ibm367", "cp367", "csascii"),
        *("iso-8859-1", "iso_8859-1", "iso_8859-1:1987", "iso-ir-100", "latin-1", "latin1", "l1"),
        *("ibm819", "cp819", "csisolatin1"),
    }
)
"""UTF-8, US-ASCII and ISO-8859-1 by their registered and common names, in lower case."""


def require_charset(content_type: bytes) -> None:
    """Refuse a form in another charset before the parser asks Python for its codec.

    Python caches every codec name it is asked for, known or not, until the process ends.

    Args:
        content_type: of the form; its parser must get the same value.

    Raises:
        UnsupportedMediaError: the form names another charset.
    """
    charset = parse_options_header(content_type)[1].get(b"charset", b"utf-8").decode("latin-1")
    if charset.lower() not in CHARSETS:
        raise UnsupportedMediaError(
            f"Send the form in UTF-8, US-ASCII or ISO-8859-1, not {charset[:100]!r}.",
            ("Accept", "multipart/form-data"),
        )
