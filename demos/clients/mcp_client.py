"""Calls tools through the SDK of the Model Context Protocol, at an address or of a server that it starts.

Prints {"ready": ...}, begins when a line arrives on standard input, prints how many calls of each tool came back and how many
failed, and stays until standard input is closed. With --early it is connected before it is ready.
"""

import argparse
import asyncio
import json
import os
import sys

from mcp.client import Client
from mcp.client.stdio import StdioServerParameters


async def begins():
    print(json.dumps({"ready": os.getpid()}), flush=True)
    if not await asyncio.to_thread(sys.stdin.readline):
        sys.exit()


async def calls(options, place):
    done = {"tools": 0, "look_up": 0, "fail": 0, "errors": 0}
    if not options.early:
        await begins()
    async with Client(place) as client:
        if options.early:
            await begins()
        done["tools"] = len((await client.list_tools()).tools)
        for tool, arguments in [("look_up", {"city": "CANARY"})] * options.count + [("fail", {"reason": "CANARY"})] * 2:
            result = await client.call_tool(tool, arguments)
            done[tool] += 1
            done["errors"] += bool(result.is_error)
        print(json.dumps(done), flush=True)
        await asyncio.to_thread(sys.stdin.read)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=5, metavar="N")
    parser.add_argument("--early", action="store_true")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--url")
    place.add_argument("--stdio", nargs=argparse.REMAINDER, metavar="COMMAND")
    options = parser.parse_args()
    started = options.stdio and StdioServerParameters(command=options.stdio[0], args=options.stdio[1:])
    asyncio.run(calls(options, options.url or started))


main()
