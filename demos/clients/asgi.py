"""A model server on one of Python's ASGI servers: `asgi.py uvicorn|uvloop|hypercorn PORT CERTIFICATE KEY`.

Streams three tokens to each request. Ends when it is told to.
"""

import asyncio
import json
import sys

SERVER, PORT, CERTIFICATE, KEY = sys.argv[1:]


def event(**fields):
    document = {"object": "chat.completion.chunk", "model": "demo", **fields}
    return f"data: {json.dumps(document)}\n\n".encode()


async def application(scope, receive, send):
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for _ in range(3):
        chunk = event(choices=[{"index": 0, "delta": {"content": "bee "}}])
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    body = event(choices=[], usage=usage) + b"data: [DONE]\n\n"
    await send({"type": "http.response.body", "body": body})


if SERVER == "hypercorn":
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"127.0.0.1:{PORT}"]
    config.certfile, config.keyfile = CERTIFICATE, KEY
    asyncio.run(serve(application, config))
else:
    import uvicorn

    loop = "uvloop" if SERVER == "uvloop" else "asyncio"
    uvicorn.run(
        application, port=int(PORT), loop=loop, ssl_certfile=CERTIFICATE, ssl_keyfile=KEY, log_level="error"
    )
