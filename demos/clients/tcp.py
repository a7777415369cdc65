"""Calls a model over sockets that are used as few HTTP clients use them, with nothing but Python's standard library.

Prints {"ready": ...} once everything is loaded, begins when a line arrives on standard input, prints how many events it
has read, and stays until standard input is closed.
"""

import argparse
import json
import os
import socket
import struct
import sys


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--how", choices=["half-close", "reset", "reuse"], required=True)
    return parser.parse_args()


def connect(options, port=0):
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    connection.bind(("", port))
    connection.connect((options.host, options.port))
    return connection


def send(connection, options):
    body = json.dumps({
        "model": options.model,
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": "Say something about bees."}],
    })
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {options.host}\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())


def read(connection, events=None):
    """Reads so many events, or to the last chunk: who goes before that has left, in the server's eyes."""
    seen = b""
    while not seen.endswith(b"\r\n0\r\n\r\n") and (events is None or seen.count(b"data: ") < events):
        piece = connection.recv(4096)
        if not piece:
            break
        seen += piece
    return seen.count(b"data: ")


def reset(connection):
    """Closes it without a farewell."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def run(options):
    connection = connect(options)
    send(connection, options)
    if options.how == "half-close":
        connection.shutdown(socket.SHUT_WR)
        return [read(connection)]
    if options.how == "reset":
        events = read(connection, 5)
        reset(connection)
        return [events]
    # The same two addresses and ports again, at once.
    port = connection.getsockname()[1]
    counts = []
    for _ in range(3):
        counts.append(read(connection))
        reset(connection)
        connection = connect(options, port)
        send(connection, options)
    counts.append(read(connection))
    return counts


def main():
    options = arguments()
    print(json.dumps({"ready": os.getpid()}), flush=True)
    if sys.stdin.readline():
        print(json.dumps({"events": run(options)}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
