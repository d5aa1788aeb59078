"""Files of the wrong type or size are refused before they are read, and no opening blocks."""

import os
import re
import socket
import sys
from collections.abc import Callable
from io import BufferedReader, FileIO
from pathlib import Path

import pytest

import models.package.model_package
from models.package.files import FileError, names_inside, read_all
from models.package.model_package import MAX_CARD_BYTES, ModelPackage, PackageError

unix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has none of these")


def make_link(path: Path) -> None:
    """Replace a file by a link to its content."""
    path.rename(path.with_name("aside"))
    path.symlink_to(path.with_name("aside"))


def make_hard_link(path: Path) -> None:
    path.rename(path.with_name("aside"))
    path.hardlink_to(path.with_name("aside"))


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_device(path: Path) -> None:
    path.unlink()
    try:
        os.mknod(path, 0o20666, os.makedev(1, 5))  # /dev/zero, an endless file
    except PermissionError:
        pytest.skip("only root makes devices")


def make_socket(path: Path) -> None:
    path.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listener:  # an address has at most 108 bytes
        listener.bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)


def make_dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


SPECIAL: dict[str, tuple[Callable[[Path], None], str]] = {
    "link": (make_link, "it is a link: put the file itself there"),
    "dangling link": (make_dangling_link, "it is a link: put the file itself there"),
    "pipe": (make_pipe, "it is a pipe: put the file itself there"),
    "folder": (make_folder, "it is a folder: put the file itself there"),
    "device": (make_device, "it is a device: put the file itself there"),
    "socket": (make_socket, "it is a socket: put the file itself there"),
}


@unix
@pytest.mark.parametrize(("make", "reason"), SPECIAL.values(), ids=list(SPECIAL))
@pytest.mark.parametrize("file", ["card.json", "model.onnx", "report/loss-curves.png"])
def test_anything_but_a_regular_file_in_a_package_is_refused(
    file: str, make: Callable[[Path], None], reason: str, blot: ModelPackage
) -> None:
    make(blot.path / file)
    with pytest.raises(PackageError, match=f"^package blot/1: {re.escape(file)}: {reason}$"):
        ModelPackage.read(blot.path).load(file)


@unix
def test_a_hard_link_is_a_regular_file(blot: ModelPackage) -> None:
    for file in ("card.json", "model.onnx"):
        make_hard_link(blot.path / file)
    ModelPackage.read(blot.path).load("model.onnx")


@unix
def test_a_subfolder_that_is_a_link_is_refused(blot: ModelPackage) -> None:
    (blot.path / "report").rename(blot.path.parent / "elsewhere")
    (blot.path / "report").symlink_to("../elsewhere")
    with pytest.raises(PackageError, match="its folder report is a link: put the folder there"):
        blot.load("report/loss-curves.png")


@unix
@pytest.mark.parametrize("linked", ["blot/1", "blot", "."])
def test_a_package_folder_and_its_parents_may_be_links(linked: str, blot: ModelPackage) -> None:
    """Orchestrators mount folders as links, and operators select folders by links."""
    root = blot.path.parent.parent
    link = root / linked
    link.rename(root.parent / "elsewhere")
    link.symlink_to(root.parent / "elsewhere")
    ModelPackage.read(blot.path).verify()


@pytest.mark.parametrize("size", [1, 2**40])
def test_a_file_whose_size_differs_from_the_card_is_refused_unread(
    size: int, blot: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> bytes:
        raise AssertionError("it was read")

    os.truncate(blot.path / "model.onnx", size)  # a sparse file, up to 1 TiB
    monkeypatch.setattr(models.package.model_package, "read_all", never)
    with pytest.raises(PackageError, match=rf"model\.onnx: it holds {size:,} bytes where the card"):
        blot.load("model.onnx")


def test_a_card_above_the_size_limit_is_refused_unread(blot: ModelPackage) -> None:
    os.truncate(blot.path / "card.json", 2**40)
    reason = rf"card\.json: it holds {2**40:,} bytes, more than the {MAX_CARD_BYTES:,}"
    with pytest.raises(PackageError, match=reason):
        ModelPackage.read(blot.path)


def test_a_file_that_does_not_fit_into_memory_is_refused(tmp_path: Path) -> None:
    class Full(BufferedReader):
        def read(self, size: int | None = -1, /) -> bytes:
            raise MemoryError

    (tmp_path / "large").write_bytes(b"large")
    with (
        Full(FileIO(tmp_path / "large")) as stream,
        pytest.raises(FileError, match="its 5 bytes do not fit into the memory"),
    ):
        read_all(stream, 10)


@unix
def test_a_file_replaced_during_opening_is_not_read(
    blot: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is replaced between the check of its type and its opening."""
    path, opened = blot.path / "model.onnx", os.open
    for make in (make_link, make_pipe):

        def swap(name: Path, flags: int, make: Callable[[Path], None] = make) -> int:
            make(path)
            return opened(name, flags)

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", swap)
            with pytest.raises(PackageError, match=r"model\.onnx: it (is a pipe|cannot be read)"):
                blot.load("model.onnx")
        path.unlink()
        path.write_bytes(b"")


@unix
def test_names_inside_lists_files_and_refuses_links(
    blot: ModelPackage,
) -> None:
    assert names_inside(blot.path) == {*blot.card.files, "card.json"}
    (blot.path / "report" / "more").symlink_to("/")
    with pytest.raises(FileError, match="'report/more' is a link"):
        names_inside(blot.path)
