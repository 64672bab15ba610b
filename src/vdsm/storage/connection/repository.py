"""The tree on a host through which storage is reached: names, the links of the connected pool, links of images.

    <root>/                              /rhev/data-center, owned by vdsm:kvm
      hsm-tasks/                         reserved
      mnt/<connection>                   a mount point, or (LOCALFS) a link to the directory
      mnt/glusterSD/<connection>         mount points of Gluster
      <pool>/<domain>, <pool>/mastersd   links to the domains of the pool that is connected
    <run>/<domain>/<image>               what a VM's disk is opened through

Nothing here follows a link or looks into a mount point, so a dead server hinders nobody: only names are made, read and
removed. Mounts and the links of LOCALFS outlive the agent; the links of pools do not (``clean``).

Source: storage format, sections 1.1, 1.2 and 1.9.
"""

from __future__ import annotations

import errno
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vdsm.storage.errors import StorageFailed
from vdsm.storage.formats import mounts, tree
from vdsm.storage.ids import DomainId, ImageId, PoolId, is_uuid, new_id
from vdsm.storage.kinds import StorageType

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

_MNT: Final = "mnt"
_RESERVED: Final = frozenset({_MNT, "hsm-tasks"})
_MODE: Final = 0o755


class Repository:
    """Names and links; it has no state of its own, and may be used by many threads.

    Args:
        root: where the tree is.
        run: where links of images are; gone after a reboot.
    """

    def __init__(self, root: str = tree.DATA_CENTER, run: str = tree.RUN) -> None:
        self.root: Final = root
        self.run: Final = run

    @property
    def mounts(self) -> str:
        """The directory of mount points."""
        return f"{self.root}/{_MNT}"

    @property
    def gluster_mounts(self) -> str:
        """The directory of Gluster's mount points."""
        return f"{self.mounts}/{tree.GLUSTER}"

    def mount_of(self, spec: str, storage_type: StorageType) -> str:
        """Where a connection is mounted or linked.

        Raises:
            InvalidParameter: ``spec`` is no address of storage.
        """
        parent = self.gluster_mounts if storage_type is StorageType.GLUSTERFS else self.mounts
        return f"{parent}/{mounts.directory_name(spec)}"

    def pool_dir(self, pool_id: PoolId) -> str:
        """The directory of a pool's links."""
        return f"{self.root}/{pool_id}"

    def domain_link(self, pool_id: PoolId, domain_id: DomainId) -> str:
        """The link to a domain of a pool."""
        return f"{self.root}/{pool_id}/{domain_id}"

    def link_pool(self, pool_id: PoolId, domains: Mapping[DomainId, str], master: str | None) -> None:
        """Make a pool's links be these and no others.

        Args:
            pool_id: the pool.
            domains: the directories of its active domains.
            master: the directory of its master domain; None leaves no such link.

        Raises:
            StorageFailed: the tree is not there, or cannot be written.
        """
        folder = self.pool_dir(pool_id)
        wanted: dict[str, str] = {str(domain): path for domain, path in domains.items()}
        if master is not None:
            wanted[tree.MASTER_LINK] = master
        try:
            _make(folder)
            for name in _links(folder).keys() - wanted.keys():
                if is_uuid(name) or name == tree.MASTER_LINK:
                    _unlink(f"{folder}/{name}")
            for name, target in wanted.items():
                self._link(f"{folder}/{name}", target)
        except OSError as error:
            raise _failed(folder, error) from error

    def unlink_pool(self, pool_id: PoolId) -> None:
        """Remove a pool's links and directory; nothing if they are gone.

        Raises:
            StorageFailed: it cannot be written, or holds something else than links.
        """
        folder = self.pool_dir(pool_id)
        try:
            _remove_links(folder)
        except OSError as error:
            raise _failed(folder, error) from error

    def image_link(self, domain_id: DomainId, image_id: ImageId) -> str:
        """What the disk of a VM is opened through: on files a link to the image's directory."""
        return f"{self.run}/{domain_id}/{image_id}"

    def link_image(self, domain_id: DomainId, image_id: ImageId, target: str) -> str:
        """Make the link to an image's directory, ``target``; returns the link. Twice is once.

        Raises:
            StorageFailed: the run directory cannot be written.
        """
        path = self.image_link(domain_id, image_id)
        try:
            _make(self.run)
            _make(f"{self.run}/{domain_id}")
            _relink(f"{self.run}/{domain_id}/.{new_id()}", path, target)
        except OSError as error:
            raise _failed(path, error) from error
        return path

    def unlink_image(self, domain_id: DomainId, image_id: ImageId) -> None:
        """Remove the link of an image, and the domain's directory with the last; nothing if it is gone.

        Raises:
            StorageFailed: the run directory cannot be written.
        """
        path = self.image_link(domain_id, image_id)
        try:
            _unlink(path)
            _rmdir(f"{self.run}/{domain_id}")
        except OSError as error:
            raise _failed(path, error) from error

    def link_directory(self, path: str, target: str) -> None:
        """Make ``path``, below ``mounts``, a link to a local directory; a link to another one is replaced.

        Raises:
            StorageFailed: the tree cannot be written, or something else than a link is in the way.
        """
        try:
            self._link(path, target)
        except OSError as error:
            raise _failed(path, error) from error

    def unlink_directory(self, path: str) -> None:
        """Remove such a link; nothing if it is gone.

        Raises:
            StorageFailed: the tree cannot be written, or it is no link.
        """
        try:
            _unlink(path)
        except OSError as error:
            raise _failed(path, error) from error

    def linked_directories(self) -> dict[str, str]:
        """The links of LOCALFS connections: path below ``mounts`` -> directory."""
        try:
            found = _links(self.mounts)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise _failed(self.mounts, error) from error
        return {f"{self.mounts}/{name}": target for name, target in found.items()}

    def make_mount_point(self, path: str) -> None:
        """Make a directory to mount on; nothing if it is there, mounted or not.

        Raises:
            StorageFailed: the tree is not there, or something else than a directory has the name.
        """
        try:
            if path.startswith(f"{self.gluster_mounts}/"):
                _make(self.gluster_mounts)
            _make(path)
        except OSError as error:
            raise _failed(path, error) from error

    def remove_mount_point(self, path: str) -> None:
        """Remove a mount point that nothing is mounted on; one that is in use, or is no empty directory, stays."""
        try:
            _rmdir(path)
        except OSError as error:
            log.warning("the mount point %s stays: %s", path, error.strerror)

    def clean(self, mounted: frozenset[str]) -> None:
        """Remove what a former run of the agent left in the root: links of pools, and links that were being made.

        The original removes everything but ``mnt``, ``hsm-tasks`` and mount points. What nobody makes here (files,
        directories with anything but links) is named in the log and stays.

        Args:
            mounted: paths of mount points, which are left alone.

        Raises:
            StorageFailed: the tree cannot be read.
        """
        try:
            folders = _folders(self.root)
            for name in _links(self.root):
                _unlink(f"{self.root}/{name}")
        except FileNotFoundError:
            return
        except OSError as error:
            raise _failed(self.root, error) from error
        for name in folders:
            path = f"{self.root}/{name}"
            if name in _RESERVED or path in mounted:
                continue
            try:
                _remove_links(path)
            except OSError as error:
                log.warning("%s stays: %s", path, error.strerror)

    def _link(self, path: str, target: str) -> None:
        _relink(f"{self.root}/{new_id()}", path, target)


def _relink(fresh: str, path: str, target: str) -> None:
    """Make ``path`` a link to ``target`` by renaming ``fresh``: there is no moment without a link."""
    folder, _, name = path.rpartition("/")
    # A look at the name itself could touch what is mounted there; the directory's listing does not.
    if _links(folder).get(name) == target:
        return
    made = Path(fresh)
    made.symlink_to(target)
    try:
        made.rename(path)
    except OSError:
        made.unlink()
        raise


def _links(folder: str) -> dict[str, str]:
    """Name -> target of the symbolic links in a directory."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_symlink()]
    found = {}
    for name in names:
        with suppress(FileNotFoundError):
            found[name] = str(Path(folder, name).readlink())
    return found


def _folders(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))


def _remove_links(folder: str) -> None:
    try:
        names = _links(folder)
    except FileNotFoundError:
        return
    for name in names:
        _unlink(f"{folder}/{name}")
    _rmdir(folder)


def _make(path: str) -> None:
    made = Path(path)
    try:
        made.mkdir()
    except FileExistsError:
        if made.name not in _folders(str(made.parent)):
            raise
    else:
        # QEMU walks through it, whatever the agent's umask.
        made.chmod(_MODE)


def _unlink(path: str) -> None:
    Path(path).unlink(missing_ok=True)


def _rmdir(path: str) -> None:
    try:
        Path(path).rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise


def _failed(path: str, error: OSError) -> StorageFailed:
    return StorageFailed(f"the repository tree at {path}", error.strerror or str(error))
