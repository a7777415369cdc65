"""TLS within TLS, client and server in one process: each call of the outer connection makes calls of the inner one."""

import ctypes
import os
import socket
import sys
import threading

BIO_C_SET_SSL = 109
SSL_ERROR_WANT_READ = 2
ssl = ctypes.CDLL(sys.argv[3])
crypto = ctypes.CDLL(sys.argv[3].replace("libssl", "libcrypto"))
for library, names in (
    (ssl, ["TLS_method", "SSL_CTX_new", "SSL_new", "BIO_f_ssl"]),
    (crypto, ["BIO_new", "BIO_ctrl"]),
):
    for name in names:
        getattr(library, name).restype = ctypes.c_void_p


def call(function, *arguments):
    return function(*(ctypes.c_void_p(a) if isinstance(a, int) else a for a in arguments))


context = call(ssl.SSL_CTX_new, ssl.TLS_method())
assert ssl.SSL_CTX_use_certificate_file(ctypes.c_void_p(context), sys.argv[1].encode(), 1) == 1
assert ssl.SSL_CTX_use_PrivateKey_file(ctypes.c_void_p(context), sys.argv[2].encode(), 1) == 1


def shake_hands(end, how):
    inner = call(ssl.SSL_new, context)
    ssl.SSL_set_fd(ctypes.c_void_p(inner), end.fileno())
    assert call(how, inner) == 1
    bio = call(crypto.BIO_new, ssl.BIO_f_ssl())
    crypto.BIO_ctrl(ctypes.c_void_p(bio), BIO_C_SET_SSL, ctypes.c_long(0), ctypes.c_void_p(inner))
    outer = call(ssl.SSL_new, context)
    call(ssl.SSL_set_bio, outer, bio, bio)
    assert call(how, outer) == 1
    return outer


def write(outer, data):
    assert ssl.SSL_write(ctypes.c_void_p(outer), data, len(data)) == len(data)


def read(outer):
    buffer = ctypes.create_string_buffer(4096)
    # What the inner connection keeps for itself makes the outer one try again.
    while (length := ssl.SSL_read(ctypes.c_void_p(outer), buffer, 4096)) <= 0:
        assert ssl.SSL_get_error(ctypes.c_void_p(outer), length) == SSL_ERROR_WANT_READ
    return buffer.raw[:length]


REQUEST = b"POST /v1/chat/completions?key=1 HTTP/1.1\r\nHost: test\r\nContent-Length: 13\r\n\r\n" + b'{"model":"m"}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def serve(end):
    outer = shake_hands(end, ssl.SSL_accept)
    assert read(outer) == REQUEST
    write(outer, ANSWER)


client, server = socket.socketpair()
thread = threading.Thread(target=serve, args=(server,))
thread.start()
outer = shake_hands(client, ssl.SSL_connect)
write(outer, REQUEST)
assert read(outer) == ANSWER
thread.join()
print(os.getpid())
