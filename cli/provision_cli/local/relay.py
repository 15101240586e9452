"""Hands on what containers send to servers that listen on the loopback address only.

Run as a process: `python -m provision_cli.local.relay ADDRESS NETWORK PORT...` listens on each port
of an address of this machine, and hands on to the same port of 127.0.0.1. It takes connections of
that network alone: a machine beside this one may be able to send to the address, too.
"""

import asyncio
import contextlib
import ipaddress
import sys
from collections.abc import Sequence

_LOOPBACK = "127.0.0.1"
_CHUNK_BYTES = 65_536


async def _hand_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await source.read(_CHUNK_BYTES):
            target.write(chunk)
            await target.drain()
    # The other side may still have something to say.
    with contextlib.suppress(OSError):
        target.write_eof()


async def serve(address: str, network: str, ports: Sequence[int]) -> None:
    """Hand on until the process is ended."""
    allowed = ipaddress.ip_network(network)

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer, port = writer.get_extra_info("peername")[0], writer.get_extra_info("sockname")[1]
        with contextlib.suppress(OSError):
            if ipaddress.ip_address(peer) in allowed:
                there, back = await asyncio.open_connection(_LOOPBACK, port)
                try:
                    await asyncio.gather(_hand_on(reader, back), _hand_on(there, writer))
                finally:
                    back.close()
        writer.close()

    servers = [await asyncio.start_server(connect, address, port) for port in ports]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], [int(port) for port in sys.argv[3:]]))
