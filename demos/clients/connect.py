"""Connects, and times that itself, with nothing but Python's standard library.

`connect.py --listen HOST` prints {"port": ...} and reads what comes to its end. Without, it prints {"ready": true}, and for
each line `HOST PORT TIMES BYTES` on standard input connects so often, sends so many bytes each time, and prints how long each
connection took to come about and how many segments the kernel says were sent again.
"""

import argparse
import json
import socket
import struct
import sys
import threading
import time

# `struct tcp_info`, tcpi_total_retrans
TOTAL_RETRANSMITS_AT = 100


def family_of(host):
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def tell(value):
    print(json.dumps(value), flush=True)


def listen(host):
    listener = socket.create_server((host, 0), family=family_of(host), backlog=128)
    tell({"port": listener.getsockname()[1]})
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    sys.stdin.read()


def serve(listener):
    while True:
        connection, _ = listener.accept()
        while connection.recv(1 << 16):
            pass
        connection.close()


def connect(host, port, times, size):
    seconds, retransmits = [], 0
    for _ in range(times):
        connection = socket.socket(family_of(host))
        before = time.monotonic()
        connection.connect((host, port))
        seconds.append(time.monotonic() - before)
        connection.sendall(bytes(size))
        connection.shutdown(socket.SHUT_WR)
        # The other side has all of it when it ends, too.
        assert connection.recv(1) == b""
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        retransmits += struct.unpack_from("I", info, TOTAL_RETRANSMITS_AT)[0]
        connection.close()
    return {"seconds": seconds, "retransmits": retransmits}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--listen", metavar="HOST")
    options = parser.parse_args()
    if options.listen:
        return listen(options.listen)
    tell({"ready": True})
    for line in sys.stdin:
        host, *numbers = line.split()
        tell(connect(host, *map(int, numbers)))


main()
