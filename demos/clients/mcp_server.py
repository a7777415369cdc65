"""A server of tools, by the SDK of the Model Context Protocol. Prints its port.

With --stateless it is one of the revision of 2026-07-28, with --json answers are documents instead of events. With --stdio it
serves on standard input and output, and prints nothing else.
"""

import argparse
import socket
import time

from mcp.server.mcpserver import MCPServer

server = MCPServer("weather", log_level="ERROR")


@server.tool()
def look_up(city: str) -> str:
    """What the weather is."""
    time.sleep(0.05)
    return f"CANARY: it rains in {city}"


@server.tool()
def fail(reason: str) -> str:
    """Never works."""
    raise ValueError(f"CANARY {reason}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stateless", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--stdio", action="store_true")
    options = parser.parse_args()
    if options.stdio:
        return server.run("stdio")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    print(port, flush=True)
    server.run("streamable-http", port=port, stateless_http=options.stateless, json_response=options.json)


main()
