"""What can be wrong with the data of images: hostile ones, and copies. The numbers are the original's."""

from __future__ import annotations

from dataclasses import dataclass

from vdsm.base.errors import Failed, Rejected


@dataclass(eq=False)
class ImageRefused(Rejected):
    """What is in a volume is not the image that it was to be, or would harm who opens it."""

    name = "image_refused"
    code = 484
    status = 422
    message = "volume {volume_id}: {reason}"
    volume_id: str
    reason: str


@dataclass(eq=False)
class CopyFailed(Failed):
    """An image's data could not be copied; the source is as it was."""

    name = "copy_failed"
    code = 261
    status = 500


@dataclass(eq=False)
class ImageInTheWay(Rejected):
    """The target of a copy is there already."""

    name = "image_in_the_way"
    code = 265
    status = 409
    message = "image {image_id} is in domain {domain_id} already"
    image_id: str
    domain_id: str


@dataclass(eq=False)
class TemplateInUse(Rejected):
    """A template cannot leave its domain while images stand on it."""

    name = "template_in_use"
    code = 266
    status = 409
    message = "images stand on template {image_id}: {images}"
    image_id: str
    images: str


@dataclass(eq=False)
class NoTemplateThere(Rejected):
    """The target domain does not have the template that an image stands on."""

    name = "no_template_there"
    code = 263
    status = 409
    message = "domain {domain_id} does not have template {volume_id}, which the image stands on"
    domain_id: str
    volume_id: str


@dataclass(eq=False)
class SparsifyFailed(Failed):
    """Zeros could not be given back; the volume is as it was."""

    name = "sparsify_failed"
    code = 234
    status = 500
