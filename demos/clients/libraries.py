"""Calls a model with one of Python's HTTP libraries: `libraries.py LIBRARY BASE_URL MODEL COUNT CA_FILE`.

Prints {"ready": ...}, begins when a line arrives on standard input, and stays until standard input is closed.
"""

import asyncio
import json
import os
import ssl
import sys

LIBRARY, BASE_URL, MODEL, COUNT, CA = sys.argv[1:]
URL = f"{BASE_URL}/v1/chat/completions"
BODY = {
    "model": MODEL,
    "stream": True,
    "stream_options": {"include_usage": True},
    "messages": [{"role": "user", "content": "Say something about bees."}],
}


def trusted():
    return ssl.create_default_context(cafile=CA)


def urllib():
    import urllib.request

    request = urllib.request.Request(URL, json.dumps(BODY).encode(), {"Content-Type": "application/json"})
    context = trusted()
    for _ in range(int(COUNT)):
        with urllib.request.urlopen(request, context=context) as answer:
            answer.read()


def requests():
    import requests

    with requests.Session() as session:
        for _ in range(int(COUNT)):
            with session.post(URL, json=BODY, verify=CA, stream=True) as answer:
                for _ in answer.iter_lines():
                    pass


async def asyncio_streams():
    """Plain asyncio: TLS over memory buffers."""
    host, port = URL.split("/")[2].split(":")
    body = json.dumps(BODY).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    for _ in range(int(COUNT)):
        reader, writer = await asyncio.open_connection(host, int(port), ssl=trusted())
        writer.write(head.encode() + body)
        await reader.read()
        writer.close()
        await writer.wait_closed()


async def aiohttp():
    import aiohttp

    connector = aiohttp.TCPConnector(ssl=trusted())
    async with aiohttp.ClientSession(connector=connector) as session:
        for _ in range(int(COUNT)):
            async with session.post(URL, json=BODY) as answer:
                await answer.read()


async def httpx(http2):
    import httpx

    async def call(client):
        async with client.stream("POST", URL, json=BODY) as answer:
            await answer.aread()

    async with httpx.AsyncClient(http2=http2, verify=trusted()) as client:
        # The first opens the connection that the others share.
        await call(client)
        await asyncio.gather(*(call(client) for _ in range(int(COUNT) - 1)))


LIBRARIES = {
    "urllib": urllib,
    "requests": requests,
    "asyncio": lambda: asyncio.run(asyncio_streams()),
    "aiohttp": lambda: asyncio.run(aiohttp()),
    "httpx": lambda: asyncio.run(httpx(False)),
    "httpx-h2": lambda: asyncio.run(httpx(True)),
}

print(json.dumps({"ready": os.getpid()}), flush=True)
if sys.stdin.readline():
    LIBRARIES[LIBRARY]()
    print(json.dumps({"answers": int(COUNT)}), flush=True)
    sys.stdin.read()
