"""Pictures as files, and files as parts of a form."""

from io import BytesIO
from typing import Any

from PIL import Image


def encoded(picture: Image.Image, file_format: str = "PNG") -> bytes:
    """The picture as a file."""
    stream = BytesIO()
    picture.save(stream, file_format)
    return stream.getvalue()


def file_part(content: bytes, name: str = "digit.png", kind: str = "image/png") -> Any:
    """A file in the field `images`, as httpx takes it."""
    return ("images", (name, content, kind))


def text_part(name: str, text: str) -> Any:
    """A text in a field of a form, as httpx takes it."""
    return (name, (None, text))
