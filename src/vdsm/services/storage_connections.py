"""The verbs of ways to storage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from vdsm.api import storage_types as api
from vdsm.storage.connection.connections import Connection, Connections, Status
from vdsm.storage.kinds import StorageType


class StorageConnectionService:
    """Implements ``api.storage_pool.StorageConnections``."""

    def __init__(self, connections: Connections, connected: Callable[[], None]) -> None:
        """``connected`` is called after storage was connected: work that waited for it can go on."""
        self._connections: Final = connections
        self._connected: Final = connected

    def connect_storage_server(
        self,
        domain_type: api.StorageType,
        connections: tuple[api.StorageConnection, ...],
        *,
        pool_id: str = api.BLANK,
    ) -> list[api.ConnectionStatus]:
        """Mount or link."""
        del pool_id
        statuses = _each(self._connections.connect, domain_type, connections)
        self._connected()
        return statuses

    def disconnect_storage_server(
        self,
        domain_type: api.StorageType,
        connections: tuple[api.StorageConnection, ...],
        *,
        pool_id: str = api.BLANK,
    ) -> list[api.ConnectionStatus]:
        """Unmount or unlink."""
        del pool_id
        return _each(self._connections.disconnect, domain_type, connections)

    def validate_storage_server_connection(
        self,
        domain_type: api.StorageType,
        connections: tuple[api.StorageConnection, ...],
        *,
        pool_id: str = api.BLANK,
    ) -> list[api.ConnectionStatus]:
        """Try, and keep nothing."""
        del pool_id
        return _each(self._connections.validate, domain_type, connections)


def _each(
    call: Callable[[Sequence[Connection]], Sequence[Status]],
    domain_type: api.StorageType,
    connections: tuple[api.StorageConnection, ...],
) -> list[api.ConnectionStatus]:
    asked = [_connection(StorageType.of_word(domain_type, "domainType"), item) for item in connections]
    return [api.ConnectionStatus(id=status.id, status=status.code) for status in call(asked)]


def _connection(kind: StorageType, given: api.StorageConnection) -> Connection:
    return Connection(
        id=given.id,
        type=kind,
        spec=given.connection,
        vfs_type=given.vfs_type,
        options=given.mnt_options,
        protocol_version=given.protocol_version,
        timeout=given.timeout,
        retrans=given.retrans,
    )
