"""Pictures as files, and files as parts of a form."""

from io import BytesIO
from typing import Any

from PIL import Image


def encoded(picture: Image.Image, file_format: str = "PNG") -> bytes:
    """Return the picture as a file."""
    stream = BytesIO()
    picture.save(stream, file_format)
    return stream.getvalue()


def file_part(content: bytes, name: str = "digit.png", kind: str = "image/png") -> Any:
    """Return a file in the field `images`, in httpx's format."""
    return ("images", (name, content, kind))


def text_part(name: str, text: str) -> Any:
    """Return a text field of a form, in httpx's format."""
    return (name, (None, text))
