"""Answers OpenAI Responses and Realtime over WebSocket, plain and over TLS, and counts what it has said.

Prints {"ready": ..., "plain": port, "tls": port}, then what it has counted for each line that arrives on standard input, and
ends when that is closed.

A model's name may say how its answers are, such as `demo-64tok`: parts between dashes, a number and then what it is (tok, in,
cached, think, err).
"""

import argparse
import asyncio
import json
import os
import re
import ssl
import sys

from websockets.asyncio.server import serve

WORDS = ["honey", "bees", "keep", "the", "hive", "warm", "all", "winter"]

# So many pieces of sound are a question.
PIECES_OF_A_QUESTION = 3

totals = {"answers": 0, "errors": 0, "input": 0, "output": 0, "cached": 0, "reasoning": 0}


class Behaviour:
    """How one answer is: as its model's name says, and else by its number."""

    def __init__(self, model, number):
        said = {unit: int(count) for count, unit in re.findall(r"-(\d+)([a-z]+)", model)}
        self.model = model
        self.id = f"resp_demo{number}"
        self.output = said.get("tok", 5 + number * 7 % 40)
        self.input = said.get("in", 100 + number * 13 % 900)
        self.cached = min(said.get("cached", number % 90), self.input)
        self.reasoning = min(said.get("think", number % 5), self.output)
        self.fails = "err" in said

    def count(self):
        if self.fails:
            totals["errors"] += 1
            return
        totals["answers"] += 1
        for name in ("input", "output", "cached", "reasoning"):
            totals[name] += getattr(self, name)

    def response(self, status, usage=None, **more):
        return {"id": self.id, "object": "response", "status": status, "usage": usage, "error": None, **more}


def number():
    return totals["answers"] + totals["errors"]


async def responses(connection, pace):
    sequence = 0
    async for message in connection:
        asked = json.loads(message)
        if asked["type"] != "response.create":
            continue
        lane = {"stream_id": asked["stream_id"]} if "stream_id" in asked else {}

        async def send(kind, **more):
            nonlocal sequence
            await connection.send(json.dumps({"type": kind, "sequence_number": sequence, **lane, **more}))
            sequence += 1

        behaviour = Behaviour(asked.get("model", "demo"), number())
        about = {"model": behaviour.model + "-2026", "instructions": asked.get("instructions")}
        # Counted before the client can know of it.
        behaviour.count()
        await send("response.created", response=behaviour.response("in_progress", **about))
        await send("response.in_progress", response=behaviour.response("in_progress", **about))
        if behaviour.fails:
            error = {"code": "server_error", "message": "The stand-in server was told to fail."}
            await send("response.failed", response={**behaviour.response("failed", **about), "error": error})
            continue
        await send("response.output_item.added", output_index=0, item={"id": "msg_1", "type": "message"})
        said = []
        for index in range(behaviour.output):
            await asyncio.sleep(pace)
            thinks = index < behaviour.reasoning
            kind = "response.reasoning_summary_text.delta" if thinks else "response.output_text.delta"
            said.append(WORDS[index % len(WORDS)] + " ")
            await send(kind, item_id="msg_1", output_index=0, content_index=0, delta=said[-1])
        usage = {
            "input_tokens": behaviour.input,
            "input_tokens_details": {"cached_tokens": behaviour.cached, "cache_write_tokens": 0},
            "output_tokens": behaviour.output,
            "output_tokens_details": {"reasoning_tokens": behaviour.reasoning},
            "total_tokens": behaviour.input + behaviour.output,
        }
        output = [{"type": "message", "content": [{"type": "output_text", "text": "".join(said)}]}]
        await send("response.completed", response=behaviour.response("completed", usage, output=output, **about))


async def realtime(connection, pace, model):
    async def send(kind, **more):
        await connection.send(json.dumps({"type": kind, "event_id": "event_demo", **more}))

    async def answer():
        behaviour = Behaviour(model, number())
        # There is no place for it.
        behaviour.reasoning = 0
        behaviour.count()
        await send("response.created", response=behaviour.response("in_progress"))
        for index in range(behaviour.output):
            await asyncio.sleep(pace)
            kind = "response.output_audio_transcript.delta" if index % 2 else "response.output_audio.delta"
            await send(kind, response_id=behaviour.id, item_id="item_1", delta=WORDS[index % len(WORDS)])
        usage = {
            "total_tokens": behaviour.input + behaviour.output,
            "input_tokens": behaviour.input,
            "input_token_details": {"cached_tokens": behaviour.cached, "text_tokens": 0, "audio_tokens": behaviour.input},
            "output_tokens": behaviour.output,
            "output_token_details": {"text_tokens": 0, "audio_tokens": behaviour.output},
        }
        await send("response.done", response=behaviour.response("completed", usage))

    await send("session.created", session={"type": "realtime", "model": model})
    pieces = 0
    async for message in connection:
        asked = json.loads(message)
        if asked["type"] == "response.create":
            await answer()
        elif asked["type"] == "input_audio_buffer.append":
            pieces += 1
            if pieces % PIECES_OF_A_QUESTION == 0:
                # Somebody has stopped speaking.
                await send("input_audio_buffer.committed", item_id="item_0")
                await answer()


async def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--pace", type=float, default=0.001, metavar="SECONDS", help="between two tokens")
    options = parser.parse_args()

    async def handler(connection):
        path, _, query = connection.request.path.partition("?")
        if path.endswith("/v1/realtime"):
            model = re.search(r"(?:^|&)model=([^&]*)", query)
            await realtime(connection, options.pace, model.group(1) if model else "demo")
        elif path.endswith("/v1/responses"):
            await responses(connection, options.pace)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.certificate, options.key)
    limits = {"open_timeout": 60, "max_size": None}
    async with serve(handler, "127.0.0.1", 0, **limits) as plain, serve(handler, "127.0.0.1", 0, ssl=context, **limits) as tls:
        ports = [server.sockets[0].getsockname()[1] for server in (plain, tls)]
        print(json.dumps({"ready": os.getpid(), "plain": ports[0], "tls": ports[1]}), flush=True)
        loop = asyncio.get_running_loop()
        while await loop.run_in_executor(None, sys.stdin.readline):
            print(json.dumps(totals), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
