"""Where the data of volumes is, for those who move it: NBD servers and the store of OVF files."""

from __future__ import annotations

from collections.abc import Callable

from vdsm.storage.domains.domain import Domain
from vdsm.storage.errors import NoSuchVolume, WrongChain
from vdsm.storage.ids import DomainId, VolumeId, VolumeRef, parse_domain_id, parse_image_id, parse_volume_id
from vdsm.storage.kinds import VolumeKind
from vdsm.system.qemu_nbd import Layer
from vdsm.transfers.nbd_servers import ServedVolume


class DomainVolumes:
    """Finds volumes in the storage domains of this host.

    Args:
        find: the handle on a domain.
    """

    def __init__(self, find: Callable[[DomainId], Domain]) -> None:
        self._find = find

    def size(self, domain_id: str, image_id: str, volume_id: str) -> int:
        """The bytes of a volume that a guest sees.

        Raises:
            InvalidParameter: an id is none.
            NoSuchDomain, NoSuchImage, NoSuchVolume: it is not there.
        """
        domain = self._find(parse_domain_id(domain_id))
        ref = VolumeRef(domain.id, parse_image_id(image_id), parse_volume_id(volume_id))
        return domain.backend.volume(ref).capacity

    def paths(self, domain_id: str, image_id: str, volume_id: str) -> ServedVolume:
        """A volume's file and those underneath, as the metadata says, made usable.

        Raises:
            InvalidParameter: an id is none.
            NoSuchDomain, NoSuchImage, NoSuchVolume: it is not there.
            WrongChain: what it stands on is not there.
        """
        domain = self._find(parse_domain_id(domain_id, "sd_id"))
        image = domain.backend.image(parse_image_id(image_id, "img_id"))
        leaf = parse_volume_id(volume_id, "vol_id")
        top = image.below(leaf)
        if top is None:
            raise NoSuchVolume(leaf)
        places = domain.backend.prepare(image.image_id)
        layers: list[Layer] = []
        ident: VolumeId | None = leaf
        while ident is not None:
            volume = image.below(ident)
            if volume is None or len(layers) > len(places):
                raise WrongChain(image.image_id, f"volume {ident} is not there, or stands on itself")
            layers.append(Layer(places[ident], volume.format.qemu, domain.kind.is_block))
            ident = volume.parent
        return ServedVolume(tuple(layers), shared=top.kind is VolumeKind.SHARED)
