"""The door between VMs and where their disks are.

A VM names an image, ``Images.prepare`` makes it usable on this host and says where it is, ``teardown`` undoes
that. Images in storage domains will be another implementation; ``PathImages`` takes plain paths, as a person
gives them, and lets nothing through that is not a disk image inside the allowed directories.

    path -> absolute? -> inside? -> exists? -> still inside with links resolved? -> file or block device?
         -> format as said? -> everything that the image refers to inside, too?

The questions to the file system are asked through a narrow interface, because they need root and may hang.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from vdsm.base.errors import BadParameter
from vdsm.virt.spec import check_path

MAX_CHAIN: Final = 200  # images; libvirt itself refuses longer chains


@dataclass(frozen=True, slots=True)
class ImageRef:
    """What a VM says about one of its images.

    ``field`` is how an error names it to the one who asked. ``target`` is the device name ("vda"), or
    "kernel" and "initrd" for files of a direct boot, whose ``format`` is None: they are read as they are.
    """

    field: str
    target: str
    path: str
    format: str | None
    readonly: bool = False
    pool_id: str = ""
    domain_id: str = ""
    image_id: str = ""
    volume_id: str = ""


@dataclass(frozen=True, slots=True)
class Location:
    """Where a prepared image is.

    Attributes:
        path: without links.
        block: it is a block device.
        shared: it belongs to a storage domain: other hosts and the agent read it, so its owner must not be changed,
            and QEMU gets at it through the storage's group.
    """

    path: str
    block: bool = False
    shared: bool = False


class Images(Protocol):
    """Makes images usable on this host."""

    def prepare(self, ref: ImageRef) -> Location:
        """Make the image usable; doing it twice is the same as once.

        Raises:
            BadParameter: there is no such image, or it must not be used; names ``ref.field``.
        """

    def teardown(self, ref: ImageRef) -> None:
        """Give the image back; one that is not prepared is no error."""


class PathReport(Protocol):
    """What a path is."""

    @property
    def exists(self) -> bool:
        """Whether there is anything."""

    @property
    def kind(self) -> str:
        """What it is, links followed: file, block, char, fifo, socket, directory or other."""

    @property
    def real_path(self) -> str:
        """The path with all links resolved."""


class ImageReport(Protocol):
    """What is in an image."""

    @property
    def format(self) -> str:
        """The image's own format."""

    @property
    def backing(self) -> Sequence[str]:
        """The images beneath it, all of them, as absolute paths."""

    @property
    def data_file(self) -> str | None:
        """The external data file, when it has one."""


class Inspector(Protocol):
    """The two questions to the privileged helper."""

    def inspect_path(self, path: str, /) -> PathReport:
        """Look at a path."""

    def inspect_image(self, path: str, image_format: Literal["raw", "qcow2"], /) -> ImageReport:
        """Look into an image of the format."""


class PathImages:
    """Images that are plain paths inside allowed directories.

    Nothing is changed on the host, so ``teardown`` has nothing to undo.
    """

    def __init__(self, inspector: Inspector, allowed_dirs: Sequence[str]) -> None:
        """Allow images inside ``allowed_dirs`` (and below); links in these are resolved once, now."""
        self._inspector = inspector
        self._named = tuple(os.path.normpath(path) for path in allowed_dirs)
        self._allowed = tuple(os.path.realpath(path) for path in allowed_dirs)

    def prepare(self, ref: ImageRef) -> Location:
        """Check the image and everything it refers to; see ``Images.prepare``."""
        location = self._inside(ref.field, ref.path, "")
        if ref.format is None:
            if location.block:
                raise BadParameter(ref.field, f"{ref.path} must be a regular file")
            return location
        self._check_content(ref, location)
        return location

    def teardown(self, ref: ImageRef) -> None:
        """Nothing was changed."""

    def _check_content(self, ref: ImageRef, location: Location) -> None:
        if ref.format == "raw":
            return  # nothing in a raw image is interpreted, and so nothing in it can point anywhere
        if ref.format != "qcow2":
            raise BadParameter(ref.field, f"{ref.path} must be raw or qcow2, not {ref.format}")
        try:
            image = self._inspector.inspect_image(location.path, "qcow2")
        except BadParameter as error:
            raise BadParameter(ref.field, error.reason) from error
        if image.format != ref.format:
            raise BadParameter(ref.field, f"{ref.path} is {image.format}, not {ref.format}")
        if len(image.backing) > MAX_CHAIN:
            raise BadParameter(ref.field, f"{ref.path} has more than {MAX_CHAIN} backing images")
        if image.data_file is not None:
            self._inside(ref.field, image.data_file, f"data file of {ref.path}: ")
        for path in image.backing:
            self._inside(ref.field, path, f"backing image of {ref.path}: ")

    def _inside(self, field: str, path: str, what: str) -> Location:
        try:
            check_path(field, path)
        except BadParameter as error:
            raise BadParameter(field, what + error.reason) from error
        # Before looking: a path outside must not tell by its error whether it exists.
        if not _is_inside(os.path.normpath(path), (*self._named, *self._allowed)):
            raise BadParameter(field, f"{what}{path} is outside of {self._allowed_text()}")
        try:
            report = self._inspector.inspect_path(path)
        except BadParameter as error:
            raise BadParameter(field, what + error.reason) from error
        if not report.exists:
            raise BadParameter(field, f"{what}{path} does not exist")
        if not _is_inside(report.real_path, self._allowed):
            raise BadParameter(field, f"{what}{path} leads outside of {self._allowed_text()}")
        if report.kind not in {"file", "block"}:
            raise BadParameter(field, f"{what}{path} is not a file or a disk but a {report.kind}")
        return Location(path=report.real_path, block=report.kind == "block")

    def _allowed_text(self) -> str:
        return " and ".join(self._named) if self._named else "the allowed directories (there are none)"


def _is_inside(path: str, directories: Sequence[str]) -> bool:
    return any(path.startswith(directory.rstrip("/") + "/") for directory in directories)
