"""Servers and clients for the tests: `peer.py server|client [CERT KEY]`. Lines on standard input say what to do."""

import hashlib
import socket
import sys
import threading


def answer(connection):
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return
        data += piece
    head, body = data.split(b"\r\n\r\n", 1)
    length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0)
    digest = hashlib.sha256(body)
    got = len(body)
    while got < length:
        piece = connection.recv(65536)
        if not piece:
            return
        digest.update(piece)
        got += len(piece)
    text = ("answer-to-client " + digest.hexdigest()).encode()
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))
    connection.close()


def serve(context):
    listener = socket.create_server(("127.0.0.1", 0))
    print("port", listener.getsockname()[1])

    def loop():
        while True:
            connection, _ = listener.accept()
            try:
                answer(context.wrap_socket(connection, server_side=True) if context else connection)
            except OSError as error:
                print("trouble", error)

    threading.Thread(target=loop, daemon=True).start()
    sys.stdin.read()


def request(port, secure, path, size):
    connection = socket.create_connection(("127.0.0.1", port))
    mine = connection.getsockname()[1]
    if secure:
        import ssl

        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = context.wrap_socket(connection)
    body = (b'{"model":"test-model","stream":false,"messages":[]}').ljust(size)
    head = "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (path, len(body))
    connection.sendall(head.encode() + body)
    data = b""
    while True:
        piece = connection.recv(65536)
        if not piece:
            break
        data += piece
    connection.close()
    expected = hashlib.sha256(body).hexdigest().encode()
    print("done", "intact" if data.endswith(b"answer-to-client " + expected) else "damaged", mine)


def main():
    if sys.argv[1] == "server":
        context = None
        if len(sys.argv) > 2:
            import ssl

            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(sys.argv[2], sys.argv[3])
        serve(context)
    print("ready")
    for line in sys.stdin:
        words = line.split()
        if words[0] == "import":
            import ssl  # noqa: F401

            print("imported")
        else:
            request(int(words[1]), words[0] == "https", words[2], int(words[3]))


main()
