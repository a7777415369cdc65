"""A TLS client and server in one process. The server reads heads a byte at a time, as cpp-httplib does, or with a third argument
only the first byte by itself, as Go does where it waits for it while it answers.
"""

import os
import socket
import ssl
import sys
import threading

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
JOB = b"POST /jobs HTTP/1.1\r\nHost: localhost\r\n\r\n"
BODY = b'{"model":"m"}'
FIRST_ALONE = len(sys.argv) > 3
CALL = b"POST /v1/chat/completions?key=1 HTTP/1.1\r\nHost: test\r\nContent-Length: 13\r\n\r\n"


def serve(listener, context):
    connection = context.wrap_socket(listener.accept()[0], server_side=True)
    for body in (0, 0, len(BODY)):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(4096 if head and FIRST_ALONE else 1)
            body = 0 if head.endswith(BODY) else body
            head = head.removesuffix(BODY)
        if body:
            connection.recv(body)
        connection.sendall(ANSWER)
    connection.unwrap()
    connection.close()


server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
server.load_cert_chain(sys.argv[1], sys.argv[2])
client = ssl.create_default_context(cafile=sys.argv[1])
client.check_hostname = False
listener = socket.create_server(("127.0.0.1", 0))
thread = threading.Thread(target=serve, args=(listener, server))
thread.start()
connection = client.wrap_socket(socket.create_connection(listener.getsockname()))
for message in (HEALTH, JOB):
    connection.sendall(message)
    assert connection.recv(4096) == ANSWER
connection.sendall(CALL)
connection.sendall(BODY)
assert connection.recv(4096) == ANSWER
try:
    connection.unwrap()
except OSError:
    pass  # the server may have gone already
connection.close()
thread.join()
print(os.getpid())
