"""WebSocket peers that check the whole handshake of RFC 6455: `server`, which echoes, or `client PORT WORD`.

The server says its port, and what it was asked with for each connection, each as one line of JSON. The client says what came back.
"""

import asyncio
import contextlib
import json
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosedError

# Seconds for a handshake or an answer.
PATIENCE = 20


def tell(what):
    print(json.dumps(what), flush=True)


async def echo(connection):
    tell({"path": connection.request.path, "subprotocol": connection.subprotocol})
    with contextlib.suppress(ConnectionClosedError):
        async for message in connection:
            await connection.send(message)


async def server():
    async with serve(echo, "127.0.0.1", 0, subprotocols=["chat"], compression=None) as running:
        tell(running.sockets[0].getsockname()[1])
        await running.serve_forever()


async def client(port, word):
    target = f"ws://127.0.0.1:{port}/talk"
    async with connect(target, subprotocols=["chat"], compression=None, proxy=None, open_timeout=PATIENCE) as connection:
        await connection.send(word)
        answer = await asyncio.wait_for(connection.recv(), PATIENCE)
        tell({"answer": answer, "subprotocol": connection.subprotocol})


if __name__ == "__main__":
    asyncio.run(server() if sys.argv[1] == "server" else client(int(sys.argv[2]), sys.argv[3]))
