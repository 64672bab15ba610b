"""What can be typed after ``vdscli image``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vdscli.parser import count

if TYPE_CHECKING:
    from vdscli.parser import CommandParser


def fill(parser: CommandParser) -> None:
    """Add the commands."""
    parser.command("list", "List the images in storage", _list, "image_commands:show_all")
    parser.command("show", "Show one image and its volumes", _show, "image_commands:show")
    parser.command("create", "Make an image", _create, "image_commands:create")
    parser.command("delete", "Delete images with all their volumes", _delete, "image_commands:delete")
    parser.command("copy", "Copy what a guest sees of an image into a new one", _copy, "image_commands:copy")
    parser.command("move", "Move an image to another storage", _move, "image_commands:move")
    parser.command("resize", "Make an image larger", _resize, "image_commands:resize")
    parser.command("rename", "Give an image another name", _rename, "image_commands:rename")
    parser.command("snapshot", "Keep an image as it is, and go on in a new volume", _show, "image_commands:snapshot")
    parser.command("upload", "Fill an image of a storage domain from a file", _upload, "image_upload:upload")
    parser.command("download", "Copy an image of a storage domain into a file", _download, "image_download:download")


def _within(parser: CommandParser) -> None:
    parser.arg("--storage", metavar="STORAGE", complete="storage", help="only in this storage")


def _one(parser: CommandParser) -> None:
    parser.arg("image", metavar="IMAGE", complete="image", help="name, id, or the first characters of the id")


def _list(parser: CommandParser) -> None:
    parser.description = "List the images in storage. --quiet prints only the names."
    _within(parser)
    parser.arg("--full", action="store_true", help="whole ids")


def _show(parser: CommandParser) -> None:
    _one(parser)
    _within(parser)


def _create(parser: CommandParser) -> None:
    parser.description = (
        "Make an empty image, or one from another: a thin clone of a template of the same storage, else a copy."
    )
    parser.arg("name", metavar="NAME", help="to know it by; it is kept as the image's description")
    parser.arg("--size", metavar="SIZE", help="what a guest sees: 512M, 10G, ...")
    parser.arg("--storage", metavar="STORAGE", complete="storage", help="where (the only one)")
    parser.arg("--format", choices=("qcow2", "raw"), default="qcow2", help="its format (qcow2)")
    parser.arg("--preallocated", action="store_true", help="take all of its space at once")
    parser.arg("--from", dest="source", metavar="IMAGE", complete="image", help="the image that it begins as")


def _copy(parser: CommandParser) -> None:
    _one(parser)
    parser.arg("name", metavar="NAME", help="the copy's name")
    parser.arg("--to", metavar="STORAGE", complete="storage", help="where (the same storage)")
    parser.arg("--format", choices=("qcow2", "raw"), help="the copy's format (the same)")
    parser.arg("--preallocated", action="store_true", help="take all of its space at once")
    _within(parser)


def _move(parser: CommandParser) -> None:
    _one(parser)
    parser.arg("to", metavar="STORAGE", complete="storage", help="where to")
    _within(parser)


def _resize(parser: CommandParser) -> None:
    _one(parser)
    parser.arg("size", metavar="SIZE", help="the new size, 512M, 10G, ...; images only grow")
    _within(parser)


def _rename(parser: CommandParser) -> None:
    _one(parser)
    parser.arg("name", metavar="NAME", help="the new name")
    _within(parser)


def _delete(parser: CommandParser) -> None:
    parser.arg(
        "image", nargs="+", metavar="IMAGE", complete="image", help="name, id, or the first characters of the id"
    )
    _within(parser)
    parser.arg("--force", action="store_true", help="also a template that others stand on")


def _upload(parser: CommandParser) -> None:
    parser.description = (
        "Fill an image of a storage domain from a file. What is cut off goes on where it was when the same command is "
        "given again. The volume is ILLEGAL until all is there and its checksum is right."
    )
    parser.arg("file", metavar="FILE", complete="file", help="a raw or qcow2 image")
    parser.arg("domain", metavar="STORAGE", complete="storage", help="the storage, by name or id")
    parser.arg("--image", metavar="ID", help="the image's id (a new one)")
    parser.arg("--volume", metavar="ID", help="the volume's id (a new one); one that is there is overwritten")
    parser.arg("--volume-format", choices=("raw", "qcow2"), help="the new volume's format (the file's)")
    parser.arg("--preallocated", action="store_true", help="take all of the new volume's space at once")
    parser.arg("--description", default="", metavar="TEXT", help="the new volume's description")
    _common(parser)


def _download(parser: CommandParser) -> None:
    parser.description = (
        "Copy what a guest sees of an image into a file. What is cut off goes on where it was when the same command "
        "is given again."
    )
    parser.arg("domain", metavar="STORAGE", complete="storage", help="the storage, by name or id")
    parser.arg("image", metavar="IMAGE", complete="image", help="the image, by name or id")
    parser.arg("file", metavar="FILE", complete="file", help="the file to be made")
    parser.arg("--volume", metavar="ID", help="the volume's id (the image's top)")
    parser.arg("--format", choices=("raw", "qcow2"), default="raw", help="the file's format (raw)")
    parser.arg("--overwrite", action="store_true", help="replace a file that is there")
    _common(parser)


def _common(parser: CommandParser) -> None:
    parser.arg("-c", "--connections", type=count, default=4, metavar="N", help="connections at a time, 1 to 8 (4)")
    parser.arg("--no-checksum", action="store_true", help="do not compare checksums at the end")
