"""Calls tools through the SDK of the Model Context Protocol.

Prints {"ready": ...}, begins when a line arrives on standard input, prints how many calls of each tool came back and how many
failed, and stays until standard input is closed.
"""

import argparse
import asyncio
import json
import os
import sys

from mcp.client import Client


async def calls(options):
    done = {"tools": 0, "look_up": 0, "fail": 0, "errors": 0}
    async with Client(options.url) as client:
        done["tools"] = len((await client.list_tools()).tools)
        for tool, arguments in [("look_up", {"city": "CANARY"})] * options.count + [("fail", {"reason": "CANARY"})] * 2:
            result = await client.call_tool(tool, arguments)
            done[tool] += 1
            done["errors"] += bool(result.is_error)
    return done


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--count", type=int, default=5, metavar="N")
    options = parser.parse_args()
    print(json.dumps({"ready": os.getpid()}), flush=True)
    if not sys.stdin.readline():
        return
    print(json.dumps(asyncio.run(calls(options))), flush=True)
    sys.stdin.read()


main()
