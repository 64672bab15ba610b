"""Ids as types, and their validation.

A VM id is a lower-case RFC 4122 text ("8-4-4-4-12"): what libvirt, the Engine and the file names use.
"""

from __future__ import annotations

import uuid
from typing import NewType

from vdsm.base.errors import BadParameter

VmId = NewType("VmId", str)


def parse_vm_id(text: str, field: str = "vmID") -> VmId:
    """Return the canonical form of a VM id.

    Raises:
        BadParameter: it is not a UUID; names ``field``.
    """
    try:
        ident = uuid.UUID(text)
    except (ValueError, AttributeError, TypeError) as error:
        raise BadParameter(field, f"must be a UUID, is {text!r:.80}") from error
    if str(ident) != text.lower():
        raise BadParameter(field, f"must be a UUID in its 8-4-4-4-12 form, is {text!r:.80}")
    return VmId(str(ident))


def new_vm_id() -> VmId:
    """A fresh random VM id."""
    return VmId(str(uuid.uuid4()))
