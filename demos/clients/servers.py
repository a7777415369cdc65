"""A model server in one of the ways that servers come by their connections: `servers.py WAY [ADDRESS]`.

It says in JSON where it listens, answers each request with the id of the process that answers, and ends with its input.
"""

import array
import itertools
import json
import os
import socket
import sys
import threading

WORKERS = 3
ADDRESS = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1"


def listen(**options):
    listener = socket.socket(socket.AF_INET6 if ":" in ADDRESS else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for option in options.get("sockets", []):
        listener.setsockopt(socket.SOL_SOCKET, option, 1)
    if options.get("deferred"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
    if options.get("fast_open"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
    listener.bind((ADDRESS, options.get("port", 0)))
    listener.listen(64)
    return listener


def serve(connection, once=False):
    """Answers the requests of a connection, or one of them, and closes it where the client wants that."""
    stream = connection.makefile("rwb")
    while line := stream.readline():
        headers = {}
        while (header := stream.readline().strip()) and b":" in header:
            name, value = header.split(b":", 1)
            headers[name.lower()] = value.strip()
        stream.read(int(headers.get(b"content-length", 0)))
        body = json.dumps(
            {
                "object": "chat.completion",
                "model": "demo",
                "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "x"}}],
                "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
            }
        ).encode()
        stream.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Pid: %d\r\n" % os.getpid())
        stream.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        stream.flush()
        if once or headers.get(b"connection") == b"close":
            break
    stream.close()
    connection.close()


def serve_long(connection):
    """Answers one request with more than the client takes at a time, and lets go of the connection at once."""
    stream = connection.makefile("rb")
    while b":" in (line := stream.readline()) or line.startswith(b"POST"):
        pass
    answer = {"object": "chat.completion", "model": "demo"}
    answer["choices"] = [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "x" * 1_000_000}}]
    answer["usage"] = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    body = json.dumps(answer).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    connection.sendall(head + body)
    connection.shutdown(socket.SHUT_WR)
    stream.close()
    connection.close()


def long():
    listener = listen()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_000_000)

    def accept():
        while True:
            serve_long(listener.accept()[0])

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def serve_by_two(connection):
    """Answers one request; another process writes the second half."""
    stream = connection.makefile("rb")
    while b":" in (line := stream.readline()) or line.startswith(b"POST"):
        pass
    events = [b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'] * 8
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\ndata: [DONE]\n\n'
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + b"".join(events[:4]))
    if os.fork() == 0:
        connection.sendall(b"".join(events[4:]) + usage)
        connection.shutdown(socket.SHUT_RDWR)
        os._exit(0)
    stream.close()
    connection.close()


def halves():
    listener = listen()

    def accept():
        while True:
            serve_by_two(listener.accept()[0])

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def accept_for_ever(listener):
    while True:
        connection, _ = listener.accept()
        serve(connection)


def accept_with_threads(listener):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


def workers(work):
    """Forks processes that work and end with this one."""
    for _ in range(WORKERS):
        if os.fork() == 0:
            work()
            os._exit(0)


def prefork():
    listener = listen()
    workers(lambda: accept_for_ever(listener))
    return listener.getsockname()[1]


def reuseport():
    first = listen(sockets=[socket.SO_REUSEPORT])
    port = first.getsockname()[1]
    workers(lambda: accept_for_ever(listen(sockets=[socket.SO_REUSEPORT], port=port)))
    threading.Thread(target=accept_with_threads, args=(first,), daemon=True).start()
    return port


def receivers(listener, work):
    """Forks processes that work with each socket they are sent and the way it came, and gives the ways' other ends."""
    ways = [socket.socketpair() for _ in range(WORKERS)]
    for _, inner in ways:
        if os.fork() == 0:
            listener.close()
            while True:
                _, ancillary, _, _ = inner.recvmsg(1, socket.CMSG_SPACE(4))
                work(socket.socket(fileno=array.array("i", ancillary[0][2][:4])[0]), inner)
    return [outer for outer, _ in ways]


def send(way, connection):
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [connection.fileno()]))]
    way.sendmsg([b"x"], rights)


def passed():
    """One process accepts and passes the connections on to others."""
    listener = listen()
    ways = receivers(listener, lambda connection, _: serve(connection))

    def accept():
        for way in itertools.cycle(ways):
            connection, _ = listener.accept()
            send(way, connection)
            connection.close()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def rotated():
    """One process has the connections, and passes them on to another for each request."""
    listener = listen()

    def answer(connection, way):
        serve(connection, once=True)
        way.send(b"x")

    ways = itertools.cycle(receivers(listener, answer))

    def accept():
        while True:
            connection, _ = listener.accept()
            while connection.recv(1, socket.MSG_PEEK):
                way = next(ways)
                send(way, connection)
                way.recv(1)
            connection.close()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def forking():
    """A process for each connection."""
    listener = listen()

    def accept():
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                serve(connection)
                os._exit(0)
            connection.close()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def executed():
    """Another program is given the listening socket."""
    listener = listen()
    if os.fork() == 0:
        os.set_inheritable(listener.fileno(), True)
        os.execv(sys.executable, [sys.executable, __file__, "inherited", str(listener.fileno())])
    return listener.getsockname()[1]


def inherited(descriptor):
    accept_with_threads(socket.socket(fileno=int(descriptor)))


def alone(**options):
    listener = listen(**options)
    threading.Thread(target=accept_with_threads, args=(listener,), daemon=True).start()
    return listener.getsockname()[1]


def main():
    if sys.argv[1] == "inherited":
        return inherited(sys.argv[2])
    ways = {
        "alone": alone,
        "deferred": lambda: alone(deferred=True),
        "fast-open": lambda: alone(fast_open=True),
        "prefork": prefork,
        "reuseport": reuseport,
        "passed": passed,
        "rotated": rotated,
        "forking": forking,
        "executed": executed,
        "halves": halves,
        "long": long,
    }
    # All in one group, so that workers end with the one that started them.
    os.setpgid(0, 0)
    print(json.dumps({"port": ways[sys.argv[1]](), "pid": os.getpid()}), flush=True)
    sys.stdin.read()
    os.killpg(0, 9)


main()
