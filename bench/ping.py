"""Host.ping over STOMP and TLS: rate, latency, and what it costs the server.

    python bench/ping.py                          the transport alone, in a server of its own
    python bench/ping.py --port 54321 --pid PID --pki /etc/pki/vdsm     a running daemon

Each connection is a process with one request outstanding, as the Engine's threads are. The figures: requests per
second, milliseconds of server CPU per request (from /proc/PID/stat, kernel time included), median and 99th percentile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
TICKS = os.sysconf("SC_CLK_TCK")


def frame(command: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    lines = [command, *(f"{name}:{value}" for name, value in headers.items())]
    return "\n".join(lines).encode() + b"\n\n" + body + b"\0"


def connect(port: int, pki: dict[str, str]) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # as an Engine does
    context.load_verify_locations(pki["ca"])
    context.load_cert_chain(pki["certificate"], pki["key"])
    raw = socket.create_connection(("127.0.0.1", port), timeout=10)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(raw)


def client(port: int, pki: dict[str, str], method: str, seconds: float, start: float, results) -> None:
    connection = connect(port, pki)
    connection.sendall(frame("CONNECT", {"accept-version": "1.2", "heart-beat": "0,15000"}))
    connection.sendall(frame("SUBSCRIBE", {"destination": "jms.topic.vdsm_responses", "id": "s", "ack": "auto"}))
    connection.recv(4096)
    body = json.dumps({"jsonrpc": "2.0", "method": method, "params": {}, "id": "6b3e6b4e-0000-4000-8000-123456789abc"})
    headers = {
        "destination": "jms.topic.vdsm_requests",
        "reply-to": "jms.topic.vdsm_responses",
        "content-length": str(len(body)),
    }
    request = frame("SEND", headers, body.encode())
    buffer = bytearray(1 << 20)
    took = []
    time.sleep(max(0.0, start - time.monotonic()))
    size = 0
    until = start + seconds
    while (began := time.monotonic()) < until:
        connection.sendall(request)
        while True:
            size = connection.recv_into(buffer)
            if not size:
                raise SystemExit("the server closed the connection")
            if buffer[size - 1] == 0:
                break
        took.append(time.monotonic() - began)
    connection.close()
    results.put((took, size))


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def measure(port: int, pid: int, pki: dict[str, str], method: str, connections: int, seconds: float) -> dict:
    results: multiprocessing.Queue = multiprocessing.Queue()
    start = time.monotonic() + 0.7
    clients = [
        multiprocessing.Process(target=client, args=(port, pki, method, seconds, start, results))
        for _ in range(connections)
    ]
    for process in clients:
        process.start()
    time.sleep(max(0.0, start + 0.1 - time.monotonic()))
    before, before_s = cpu_s(pid), time.monotonic()
    time.sleep(seconds - 0.3)
    used, elapsed = cpu_s(pid) - before, time.monotonic() - before_s
    took = []
    for _ in clients:
        took += results.get(timeout=60)[0]
    for process in clients:
        process.join(10)
    rate = len(took) / seconds
    took.sort()
    return {
        "method": method,
        "connections": connections,
        "rate": round(rate),
        "cpu_ms": round(used / (rate * elapsed) * 1000, 4),
        "p50_ms": round(statistics.median(took) * 1000, 3),
        "p99_ms": round(took[int(len(took) * 0.99)] * 1000, 3),
        "max_ms": round(took[-1] * 1000, 1),
    }


def serve(directory: str) -> None:
    """The transport with a few verbs that do nothing, on a free port."""
    import uvloop

    sys.path.insert(0, str(HERE.parent / "tests"))
    import wire

    uvloop.run(wire.serve_forever(Path(directory)))


def own_server(directory: str) -> tuple[subprocess.Popen, int, dict[str, str]]:
    sys.path.insert(0, str(HERE.parent / "tests"))
    import certificates

    made = certificates.make(Path(directory))
    server = subprocess.Popen([sys.executable, __file__, "--serve", directory], stdout=subprocess.PIPE)
    assert server.stdout is not None
    port = int(server.stdout.readline())
    pki = {
        "ca": str(made.authority.certificate),
        "certificate": str(made.manager.certificate),
        "key": str(made.manager.key),
    }
    return server, port, pki


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int)
    parser.add_argument("--pid", type=int)
    parser.add_argument("--pki", default="/etc/pki/vdsm")
    parser.add_argument("--method", default="Host.ping")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    with tempfile.TemporaryDirectory() as directory:
        server = None
        if options.port is None:
            server, port, pki = own_server(directory)
            pid = server.pid
        else:
            port, pid, place = options.port, options.pid, Path(options.pki)
            pki = {
                "ca": str(place / "certs/cacert.pem"),
                "certificate": str(place / "certs/vdsmcert.pem"),
                "key": str(place / "keys/vdsmkey.pem"),
            }
        try:
            for connections in options.connections:
                print(json.dumps(measure(port, pid, pki, options.method, connections, options.seconds)), flush=True)
        finally:
            if server is not None:
                server.terminate()
                server.wait(10)


if __name__ == "__main__":
    main()
