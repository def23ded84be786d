"""slow_clients.py ADDRESS PORT CLIENTS SECONDS: TLS clients that each send a header's line every few seconds, for ever.

One that is cut off connects again. Prints `N connections` once all have connected, and at the end how many there were.
"""

import asyncio
import contextlib
import resource
import ssl
import sys
import time

PAUSE_S = 5
ADDRESS, PORT, CLIENTS, SECONDS = sys.argv[1], *(int(argument) for argument in sys.argv[2:5])
TLS = ssl.create_default_context()
TLS.check_hostname, TLS.verify_mode = False, ssl.CERT_NONE


class Client:
    connections = 0
    connected = 0  # clients that have been let in at least once

    async def stall(self, end):
        first = True
        while time.monotonic() < end:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(end - time.monotonic()):
                    reader, writer = await asyncio.open_connection(
                        ADDRESS, PORT, ssl=TLS, server_hostname="bedplate.test"
                    )
                    Client.connections += 1
                    Client.connected += first
                    first = False
                    await self._drip(reader, writer)
            await asyncio.sleep(0.1)

    async def _drip(self, reader, writer):
        try:
            writer.write(b"POST /v1/models/digits/predict HTTP/1.1\r\nHost: bedplate.test\r\n")
            while not reader.at_eof():
                await writer.drain()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1), PAUSE_S)
                writer.write(b"X-Slow: 1\r\n")
        finally:
            writer.transport.abort()


async def main():
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    end = time.monotonic() + SECONDS
    clients = [asyncio.create_task(Client().stall(end)) for _ in range(CLIENTS)]
    while Client.connected < CLIENTS and time.monotonic() < end:
        await asyncio.sleep(0.1)
    print(f"{Client.connected} connections", flush=True)
    await asyncio.gather(*clients)
    print(Client.connections, flush=True)


asyncio.run(main())
