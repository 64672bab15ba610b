"""The server's TLS: 1.2 or newer, certificates of the host's CA."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from vdsm.base.errors import Failed


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where certificate, key and CA certificate are (PEM)."""

    certificate: Path
    key: Path
    ca: Path

    @classmethod
    def below(cls, pki_dir: Path) -> TlsFiles:
        """The places that hosts of oVirt use, below /etc/pki/vdsm."""
        return cls(pki_dir / "certs/vdsmcert.pem", pki_dir / "keys/vdsmkey.pem", pki_dir / "certs/cacert.pem")


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """Build the context of the network port from files.

    A client's certificate is optional here, because REST may come with a bearer token instead; one that the CA did
    not sign fails the handshake, and a STOMP connection without one is closed by the listener.

    Raises:
        Failed: a file is missing or unusable; says which.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    # Session tickets of TLS 1.3 would be records of their own right before the first frame, and save little on
    # connections that live for weeks.
    context.num_tickets = 0
    try:
        context.load_cert_chain(files.certificate, files.key)
    except (OSError, ssl.SSLError) as error:
        raise Failed("loading TLS", f"{files.certificate} with {files.key}: {error}") from error
    try:
        context.load_verify_locations(cafile=files.ca)
    except (OSError, ssl.SSLError) as error:
        raise Failed("loading TLS", f"{files.ca}: {error}") from error
    context.verify_mode = ssl.CERT_OPTIONAL
    return context
