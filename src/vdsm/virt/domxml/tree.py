"""Parsing and writing domain XML as element trees: hardened for XML from outside, fast for libvirt's own.

The trees are namespace-aware ("{uri}name"); ``to_text`` gives the well-known namespaces their usual prefixes, which
``xml.etree`` would do only through a table that is global to the process.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import Final
from xml.parsers import expat

import defusedxml
from defusedxml.ElementTree import DefusedXMLParser

from vdsm.base.errors import BadParameter

OVIRT_VM: Final = "http://ovirt.org/vm/1.0"
OVIRT_TUNE: Final = "http://ovirt.org/vm/tune/1.0"
AGENT: Final = "urn:vdsm:agent:1"

MAX_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 40  # elements; libvirt's own documents stay below 15

_PREFIXES: Final = {OVIRT_VM: "ovirt-vm", OVIRT_TUNE: "ovirt-tune", AGENT: "vdsm"}

# libvirt's units of memory ("scaled integers"), as bytes; without a unit it is KiB.
_UNITS: Final = {
    "b": 1,
    "bytes": 1,
    "kb": 1000,
    "k": 1024,
    "kib": 1024,
    "mb": 1000**2,
    "m": 1024**2,
    "mib": 1024**2,
    "gb": 1000**3,
    "g": 1024**3,
    "gib": 1024**3,
    "tb": 1000**4,
    "t": 1024**4,
    "tib": 1024**4,
}


class _TooDeep(ValueError):
    pass


class _Builder(ET.TreeBuilder):
    """A tree builder that refuses nesting which would exhaust the stack of whoever walks the tree."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0

    def start(self, tag: str, attrs: dict[str, str], /) -> ET.Element:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _TooDeep
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> ET.Element:
        self._depth -= 1
        return super().end(tag)


def parse_outside(text: str, field: str = "xml") -> ET.Element:
    """Parse XML from outside: bounded, without document types and so without any entities of its own.

    Raises:
        BadParameter: it is too large, not well-formed or not plain; names ``field``.
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise BadParameter(field, "is not valid Unicode") from error
    if size > MAX_BYTES:
        raise BadParameter(field, f"must be at most {MAX_BYTES} bytes, has {size}")
    parser = DefusedXMLParser(target=_Builder(), forbid_dtd=True)
    try:
        parser.feed(text)
        root = parser.close()
    except defusedxml.DefusedXmlException as error:
        raise BadParameter(field, "must have no document type and no entities") from error
    except _TooDeep as error:
        raise BadParameter(field, f"must not be nested deeper than {MAX_DEPTH}") from error
    except (ET.ParseError, expat.ExpatError, ValueError) as error:
        raise BadParameter(field, f"is not well-formed XML: {error}") from error
    if not isinstance(root, ET.Element):
        raise BadParameter(field, "is empty")
    return root


def parse_own(text: str) -> ET.Element:
    """Parse XML that libvirt or this agent wrote."""
    return ET.fromstring(text)  # noqa: S314 - not from outside; hardened parsing is ten times slower


def to_text(root: ET.Element) -> str:
    """Write a tree as text; ``root`` itself is not to be used afterwards.

    Namespaces are allowed in metadata only, and are declared on its children: libvirt takes these out one by one.
    """
    metadata = root.find("metadata")
    for index, child in enumerate(metadata if metadata is not None else ()):
        uris = sorted({uri for element in child.iter() for uri in _uris(element)})
        prefixes = {uri: _PREFIXES.get(uri, f"n{index}-{number}") for number, uri in enumerate(uris)}
        for element in child.iter():
            element.tag = _prefixed(element.tag, prefixes)
            for name in [name for name in element.attrib if name.startswith("{")]:
                element.attrib[_prefixed(name, prefixes)] = element.attrib.pop(name)
        for uri, prefix in prefixes.items():
            child.set(f"xmlns:{prefix}", uri)
    return ET.tostring(root, encoding="unicode")


def _uris(element: ET.Element) -> Iterator[str]:
    for name in (element.tag, *element.attrib):
        if name.startswith("{"):
            yield name[1:].partition("}")[0]


def _prefixed(name: str, prefixes: dict[str, str]) -> str:
    if not name.startswith("{"):
        return name
    uri, _, local_name = name[1:].partition("}")
    return f"{prefixes[uri]}:{local_name}"


def local(element: ET.Element) -> str:
    """The element's name without its namespace: the Engine writes some of its own with, some without."""
    return element.tag.rpartition("}")[2]


def text_of(parent: ET.Element, path: str) -> str:
    """The stripped text of the child, "" when there is none."""
    return (parent.findtext(path) or "").strip()


def attribute(parent: ET.Element, path: str, name: str) -> str:
    """The attribute of the child, "" when there is none."""
    child = parent.find(path)
    return "" if child is None else child.get(name, "")


def integer(text: str) -> int | None:
    """A plain decimal number of sane length, None for everything else."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None


def kib(element: ET.Element | None) -> int | None:
    """An amount of memory in KiB, rounded down; None when it is missing or no amount."""
    if element is None:
        return None
    amount = integer(element.text or "")
    unit = _UNITS.get(element.get("unit", "KiB").lower())
    return None if amount is None or unit is None else amount * unit // 1024


def add(parent: ET.Element, tag: str, text: str | None = None, /, **attributes: str) -> ET.Element:
    """Append a child; a trailing "_" of an attribute's name is cut off."""
    child = ET.SubElement(parent, tag, {name.rstrip("_"): value for name, value in attributes.items()})
    child.text = text
    return child
