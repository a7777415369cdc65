"""Bulk TLS of a process that has nothing to do with models: a file server and its client, both ends in this process.

For each line with a number of seconds on standard input it moves a file that long, and prints what that came to:
{"mb_per_second", "write_ns", "read_ns"}, the last two per call of 16 KiB. The ends are joined by memory, so that the
cost of TLS and of what is hooked into it is not hidden behind a network's.

usage: tls_bulk.py CERTIFICATE KEY CA
"""

import json
import os
import ssl
import sys
import time

RECORD = 16 * 1024
# Calls between two looks at the clock: a batch is written, and then read.
BATCH = 16


def ends(certificate, key, ca):
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = context.wrap_bio(to_server, to_client, server_side=True)
    client = ssl.create_default_context(cafile=ca).wrap_bio(to_client, to_server, server_hostname="localhost")
    waiting = [client, server]
    while waiting:
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                pass
    return server, client


def download(server, client):
    """A request for a file, and the beginning of an answer that goes on for ever."""
    client.write(b"GET /files/bulk.bin HTTP/1.1\r\nHost: files.example\r\n\r\n")
    server.read(RECORD)
    server.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: 999999999999\r\n\r\n")
    client.read(RECORD)


def move(server, client, seconds):
    data = b"." * RECORD
    calls = write_ns = read_ns = 0
    started = now = time.perf_counter_ns()
    until = started + seconds * 1e9
    while now < until:
        before = time.perf_counter_ns()
        for _ in range(BATCH):
            server.write(data)
        between = time.perf_counter_ns()
        for _ in range(BATCH):
            client.read(RECORD)
        now = time.perf_counter_ns()
        write_ns += between - before
        read_ns += now - between
        calls += BATCH
    megabytes = calls * RECORD / 1e6
    return {
        "mb_per_second": megabytes / ((now - started) / 1e9),
        "write_ns": write_ns / calls,
        "read_ns": read_ns / calls,
    }


def main():
    server, client = ends(*sys.argv[1:4])
    download(server, client)
    print(json.dumps({"ready": os.getpid()}), flush=True)
    for line in sys.stdin:
        print(json.dumps(move(server, client, float(line))), flush=True)


if __name__ == "__main__":
    main()
