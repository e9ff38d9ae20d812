# SPDX-License-Identifier: GPL-2.0-only
"""A QUIC server that echoes streams, or a client that sends one and compares, by aioquic.

quic_peer.py server ADDRESS PORT CERTIFICATE KEY
quic_peer.py client ADDRESS PORT BYTES             exit code 0: all of it came back
"""

import asyncio
import os
import ssl
import sys

from aioquic.asyncio.client import connect
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration

PROTOCOLS = ["echo"]
PIECE_BYTES = 65536
WITHIN_S = 60.0


def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async def copy() -> None:
        while piece := await reader.read(PIECE_BYTES):
            writer.write(piece)
        writer.write_eof()

    tasks.add(asyncio.get_running_loop().create_task(copy()))


tasks: set["asyncio.Task[None]"] = set()


async def run_server(address: str, port: int, certificate: str, key: str) -> None:
    configuration = QuicConfiguration(is_client=False, alpn_protocols=PROTOCOLS)
    configuration.load_cert_chain(certificate, key)
    await serve(address, port, configuration=configuration, stream_handler=echo)
    print("listening", flush=True)
    await asyncio.Event().wait()


async def run_client(address: str, port: int, size: int) -> bool:
    configuration = QuicConfiguration(is_client=True, alpn_protocols=PROTOCOLS)
    configuration.verify_mode = ssl.CERT_NONE
    payload = os.urandom(size)
    async with asyncio.timeout(WITHIN_S):
        async with connect(address, port, configuration=configuration) as client:
            reader, writer = await client.create_stream()
            writer.write(payload)
            writer.write_eof()
            return bool(await reader.read() == payload)


def main() -> int:
    role, address, port, *rest = sys.argv[1:]
    if role == "server":
        asyncio.run(run_server(address, int(port), *rest))
        return 0
    return 0 if asyncio.run(run_client(address, int(port), int(rest[0]))) else 1


if __name__ == "__main__":
    sys.exit(main())
