"""Calls a model over BoringSSL as a shared library (Debian's android-libboringssl), with a connection for each call.

Prints {"ready": ...}, begins when a line arrives on standard input, prints {"answers": ...}, how many came through whole, and stays until
standard input is closed.
"""

import argparse
import ctypes
import glob
import json
import os
import socket
import sys
from urllib.parse import urlsplit

PIECE = 4096


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="such as https://localhost:8443")
    parser.add_argument("model")
    parser.add_argument("count", type=int)
    parser.add_argument("ca")
    return parser.parse_args()


def main():
    options = arguments()
    (library,) = glob.glob("/usr/lib/*/android/libssl.so.0")
    tls = ctypes.CDLL(library)
    for name in ("TLS_method", "SSL_CTX_new", "SSL_new"):
        getattr(tls, name).restype = ctypes.c_void_p
    context = ctypes.c_void_p(tls.SSL_CTX_new(ctypes.c_void_p(tls.TLS_method())))
    assert tls.SSL_CTX_load_verify_locations(context, options.ca.encode(), None) == 1
    tls.SSL_CTX_set_verify(context, 1, None)  # SSL_VERIFY_PEER
    url = urlsplit(options.url)
    body = json.dumps({"model": options.model, "stream": True, "stream_options": {"include_usage": True}})
    head = (
        "POST /v1/chat/completions HTTP/1.1",
        f"Host: {url.netloc}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    request = "".join(f"{line}\r\n" for line in (*head, "")).encode() + body.encode()

    def call():
        with socket.create_connection((url.hostname, url.port)) as connection:
            session = ctypes.c_void_p(tls.SSL_new(context))
            tls.SSL_set_tlsext_host_name(session, url.hostname.encode())
            tls.SSL_set_fd(session, connection.fileno())
            assert tls.SSL_connect(session) == 1, "the server's certificate is not the authority's"
            assert tls.SSL_write(session, request, len(request)) == len(request)
            piece, answer = ctypes.create_string_buffer(PIECE), b""
            while (got := tls.SSL_read(session, piece, PIECE)) > 0:
                answer += piece.raw[:got]
            tls.SSL_free(session)
        return answer.startswith(b"HTTP/1.1 200 ") and b"data: [DONE]" in answer

    print(json.dumps({"ready": os.getpid()}), flush=True)
    if not sys.stdin.readline():
        return
    print(json.dumps({"answers": sum(call() for _ in range(options.count))}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
