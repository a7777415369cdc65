"""Does what is counted, so often as it is told on standard input, and says what came of it."""

import mmap
import os
import socket
import struct
import sys
import time


def read(path, times, size):
    """From the disk itself, at places of which none is next to another."""
    buffer = mmap.mmap(-1, size)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    took = 0
    for place in range(times):
        before = time.monotonic_ns()
        assert os.preadv(descriptor, [buffer], place * 4 * size) == size
        took += time.monotonic_ns() - before
    os.close(descriptor)
    return took


def family_of(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def connect(address, port, times):
    """How often it worked, and how often it was refused."""
    refused = 0
    for _ in range(times):
        connection = socket.socket(family_of(address))
        try:
            connection.connect((address, port))
            # Ends as it should on both sides.
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b""
        except ConnectionRefusedError:
            refused += 1
        connection.close()
    return times - refused, refused


def main():
    listener = None
    opened, copies = [], []
    print("ready")
    for line in sys.stdin:
        word, *rest = line.split()
        if word == "read":
            print("read", read(rest[0], int(rest[1]), int(rest[2])))
        elif word == "connect":
            family = "6" if ":" in rest[0] else "4"
            connected, refused = connect(rest[0], int(rest[1]), int(rest[2]))
            print("connected" if connected else "refused", connected or refused, family)
        elif word == "reset":
            connection = socket.create_connection((rest[0], int(rest[1])))
            connection.sendall(b"wait for the reset")
            try:
                while connection.recv(1):
                    pass
                print("was not reset")
            except ConnectionResetError:
                print("was reset")
        elif word == "listen":
            listener = socket.create_server((rest[0], 0), family=family_of(rest[0]), backlog=200)
            print("port", listener.getsockname()[1])
            serve(listener)
        elif word == "open":
            opened += [os.open(rest[0], os.O_RDONLY) for _ in range(int(rest[1]))]
            print("open", len(opened))
        elif word == "copy":
            copies = [os.dup(opened[-1]) for _ in range(int(rest[0]))]
            print("copy")
        elif word == "fork":
            in_child(lambda: None)
            print("fork")
        elif word == "close-copies":
            while copies:
                os.close(copies.pop())
            print("close-copies")
        elif word == "close" and rest:
            os.close(opened.pop())
            print("close")
        elif word == "child-opens":
            in_child(lambda: os.open(rest[0], os.O_RDONLY))
            print("child-opens")
        elif word == "close":
            listener.close()
            print("closed")


def in_child(do):
    child = os.fork()
    if child == 0:
        do()
        os._exit(0)
    os.waitpid(child, 0)


def serve(listener):
    """Until a client says something: that one is reset."""
    while True:
        connection, _ = listener.accept()
        if connection.recv(1):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
            return
        connection.close()


main()
