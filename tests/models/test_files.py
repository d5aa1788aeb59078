"""What is no regular file of its size is refused before a byte of it is read, and nothing hangs."""

import os
import re
import socket
import sys
from collections.abc import Callable
from io import BufferedReader, FileIO
from pathlib import Path

import pytest

import models.package
from models.files import FileError, names_inside, read_all
from models.package import MAX_CARD_BYTES, ModelPackage, PackageError

unix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has none of these")


def make_link(path: Path) -> None:
    """To the very content: only that it is a link is wrong."""
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
        os.mknod(path, 0o20666, os.makedev(1, 5))  # /dev/zero, which has no end
    except PermissionError:
        pytest.skip("only root makes devices")


def make_socket(path: Path) -> None:
    path.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listener:  # a name of more than 108 bytes is no address
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
def test_what_is_no_regular_file_of_the_package_is_refused(
    file: str, make: Callable[[Path], None], reason: str, blot: ModelPackage
) -> None:
    make(blot.path / file)
    with pytest.raises(PackageError, match=f"^package blot/1: {re.escape(file)}: {reason}$"):
        ModelPackage.read(blot.path).load(file)


@unix
def test_a_hard_link_is_a_file(blot: ModelPackage) -> None:
    for file in ("card.json", "model.onnx"):
        make_hard_link(blot.path / file)
    ModelPackage.read(blot.path).load("model.onnx")


@unix
def test_a_report_that_is_a_link_to_another_folder_is_refused(blot: ModelPackage) -> None:
    (blot.path / "report").rename(blot.path.parent / "elsewhere")
    (blot.path / "report").symlink_to("../elsewhere")
    with pytest.raises(PackageError, match="its folder report is a link: put the folder there"):
        blot.load("report/loss-curves.png")


@unix
@pytest.mark.parametrize("linked", ["blot/1", "blot", "."])
def test_a_package_and_what_holds_it_may_be_a_link(linked: str, blot: ModelPackage) -> None:
    """So do orchestrators mount folders, and operators choose among them."""
    root = blot.path.parent.parent
    place = root / linked
    place.rename(root.parent / "elsewhere")
    place.symlink_to(root.parent / "elsewhere")
    ModelPackage.read(blot.path).verify()


@pytest.mark.parametrize("size", [1, 2**40])
def test_a_file_of_another_size_than_the_card_says_is_refused_before_it_is_read(
    size: int, blot: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> bytes:
        raise AssertionError("it was read")

    os.truncate(blot.path / "model.onnx", size)  # a file of a terabyte that takes no room
    monkeypatch.setattr(models.package, "read_all", never)
    with pytest.raises(PackageError, match=rf"model\.onnx: it holds {size:,} bytes where the card"):
        blot.load("model.onnx")


def test_a_card_of_more_than_its_bound_is_refused_before_it_is_read(blot: ModelPackage) -> None:
    os.truncate(blot.path / "card.json", 2**40)
    reason = rf"card\.json: it holds {2**40:,} bytes, more than the {MAX_CARD_BYTES:,}"
    with pytest.raises(PackageError, match=reason):
        ModelPackage.read(blot.path)


def test_a_file_that_the_memory_does_not_hold_is_refused(tmp_path: Path) -> None:
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
def test_what_takes_the_file_s_place_as_it_is_opened_is_not_read(
    blot: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the file and its opening."""
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
def test_the_files_of_a_folder_are_named_and_a_link_among_them_is_not_followed(
    blot: ModelPackage,
) -> None:
    assert names_inside(blot.path) == {*blot.card.files, "card.json"}
    (blot.path / "report" / "more").symlink_to("/")
    with pytest.raises(FileError, match="'report/more' is a link"):
        names_inside(blot.path)
