"""Calls a model over WebSocket through OpenAI's own SDK: Responses or Realtime, several calls to a connection.

Prints {"ready": ...} once everything is loaded, begins when a line arrives on standard input, prints what it counted,
and stays until standard input is closed, so that whoever watches it can look at it as long as needed.
"""

import argparse
import asyncio
import base64
import json
import os
import ssl
import sys

import openai

PROMPT = os.environ.get("HBPF_DEMO_PROMPT", "Say something about bees.")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--api", choices=["responses", "realtime"], default="responses")
    parser.add_argument("--base-url", required=True, help="such as https://localhost:8443")
    parser.add_argument("--ca", help="certificate authority to verify the server with")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--compress", action="store_true", help="permessage-deflate")
    parser.add_argument("--connections", type=int, default=4, metavar="N", help="at a time")
    parser.add_argument("--calls", type=int, default=5, metavar="N", help="of each connection, one after the other")
    parser.add_argument("--spoken", type=int, default=0, metavar="N", help="as many besides that the server answers unasked")
    parser.add_argument("--prompt-bytes", type=int, default=0, metavar="N", help="of each question, which do not compress")
    return parser.parse_args()


class Counts:
    """What the SDK itself reported."""

    def __init__(self):
        self.totals = {"answers": 0, "errors": 0, "input": 0, "output": 0, "cached": 0, "events": 0}

    def add(self, **numbers):
        for name, number in numbers.items():
            self.totals[name] += number


async def answer(connection, counts):
    """Reads an answer to its end."""
    async for event in connection:
        if event.type.endswith(".delta"):
            counts.add(events=1)
        elif event.type in ("response.completed", "response.done"):
            usage = event.response.usage
            details = getattr(usage, "input_tokens_details", None) or usage.input_token_details
            counts.add(answers=1, input=usage.input_tokens, output=usage.output_tokens, cached=details.cached_tokens)
            return
        elif event.type in ("response.failed", "error"):
            counts.add(errors=1)
            return
    raise RuntimeError("the connection ended before the answer")


def prompt(options):
    return PROMPT + base64.b64encode(os.urandom(options.prompt_bytes * 3 // 4)).decode()


async def responses(client, options, ways, counts):
    async with client.responses.connect(websocket_connection_options=ways) as connection:
        for _ in range(options.calls):
            await connection.response.create(model=options.model, input=prompt(options))
            await answer(connection, counts)


async def realtime(client, options, ways, counts):
    async with client.realtime.connect(model=options.model, websocket_connection_options=ways) as connection:
        for _ in range(options.calls):
            await connection.response.create()
            await answer(connection, counts)
        for _ in range(options.spoken):
            for _ in range(3):
                await connection.input_audio_buffer.append(audio=prompt(options))
            await answer(connection, counts)


async def connections(options, ways, counts):
    # (Its client for threads reads and writes one TLS connection from two of them at once, which OpenSSL does not allow: with
    # Python 3.11 handshakes hung now and then.)
    client = openai.AsyncOpenAI(api_key="demo-key", base_url=options.base_url + "/v1")
    call = responses if options.api == "responses" else realtime
    await asyncio.gather(*(call(client, options, ways, counts) for _ in range(options.connections)))


def main():
    options = arguments()
    # A loaded machine is no failure.
    ways = {"compression": "deflate" if options.compress else None, "open_timeout": 60, "ping_timeout": 60}
    if options.base_url.startswith("https"):
        ways["ssl"] = ssl.create_default_context(cafile=options.ca)
    counts = Counts()
    print(json.dumps({"ready": os.getpid(), "sdk": f"openai {openai.__version__}"}), flush=True)
    if not sys.stdin.readline():
        return
    asyncio.run(connections(options, ways, counts))
    print(json.dumps(counts.totals), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
