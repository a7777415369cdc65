"""Both ends of model calls that carry what must not come out, and names that must not come out as they are.

Serves and calls itself, over plain HTTP and TLS, again and again until standard input is closed. Canaries come in the
environment: what stands on the command line is one itself.
"""

import ctypes
import json
import os
import socket
import ssl
import sys
import threading

# Controls the terminal, reorders text, hides, piles up, and is markup.
NAME = "\x1b[31337m\x1b]52;c;Zm9v\x07\u202e\u2066\u200b\x9b2J<script>" + "\u0301" * 30

# What a header may hold of it.
HEADER = "".join(c for c in NAME if c >= " ")

PR_SET_NAME = 15


def canary(what):
    return f"CANARY{what}" + os.environ["HBPF_CANARY"]


def request(number, form):
    body = {
        "model": f"m{form}{NAME}",
        "stream": form == "stream",
        canary("KEY"): {canary("INNERKEY"): canary("VALUE")},
        "messages": [
            {"role": "system", "content": canary("SYSTEM")},
            {"role": "user", "content": [{"type": "text", "text": canary("PROMPT")}]},
        ],
        "tools": [{"type": "function", "function": {"name": canary("TOOL"), "description": canary("TOOLTEXT")}}],
        "user": canary("USER"),
        "metadata": {"session": canary("METADATA")},
    }
    # Raw bytes in every second one; a lone surrogate can only be escaped.
    text = json.dumps(body, ensure_ascii=number % 2 == 0).replace('"stream"', '"x": "\\ud800", "stream"')
    body = text.encode("utf-8")
    head = (
        f"POST /v1/chat/completions?key={canary('QUERY')}#{canary('FRAGMENT')} HTTP/1.1\r\n"
        f"Host: {canary('USERINFO')}:{canary('PASSWORD')}@h{HEADER[:20]}\r\n"
        f"Authorization: Bearer {canary('BEARER')}\r\n"
        f"x-api-key: {canary('APIKEY')}\r\n"
        f"Cookie: session={canary('COOKIE')}\r\n"
        f"X-Custom: {canary('HEADER')}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("utf-8") + body


def answer(number, form):
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    status = "200 OK"
    if form == "error":
        status = f"429 {canary('REASON')}"
        error = {"message": canary("ERROR"), "type": f"t{NAME}", "code": canary("CODE"), "param": canary("PARAM")}
        body, kind = json.dumps({"error": error}), "application/json"
    elif form == "stream":
        events = [
            {"choices": [{"index": 0, "delta": {"role": "assistant", "content": canary("ANSWER")}}]},
            {"choices": [{"index": 0, "delta": {"reasoning_content": canary("THOUGHT")}}]},
            {"choices": [{"index": 0, "delta": {"tool_calls": [{"function": {"arguments": canary("ARGUMENTS")}}]}}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": f"f{NAME}"}], "usage": usage},
        ]
        extra = {"object": "chat.completion.chunk", "model": f"r{NAME}"}
        lines = [f": {canary('COMMENT')}\n"] + [f"data: {json.dumps({**extra, **event})}\n\n" for event in events]
        body, kind = "".join(lines) + "data: [DONE]\n\n", "text/event-stream"
    else:
        choice = {"index": 0, "finish_reason": f"f{NAME}", "message": {"role": "assistant", "content": canary("ANSWER")}}
        body = json.dumps({"object": "chat.completion", "model": f"r{NAME}", "choices": [choice], "usage": usage})
        kind = "application/json"
    body = body.encode("utf-8")
    head = (
        f"HTTP/1.1 {status}\r\nx-request-id: i{HEADER}{number}\r\nServer: {canary('SERVER')}\r\n"
        f"Set-Cookie: {canary('SETCOOKIE')}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("utf-8") + body


def read_message(stream):
    """A head and as many bytes as it says."""
    length, line = 0, stream.readline()
    first = line
    while line.strip():
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
        line = stream.readline()
    stream.read(length)
    return first


FORMS = ["stream", "whole", "error"]


def serve(listener, context):
    while True:
        connection, _ = listener.accept()
        if context:
            connection = context.wrap_socket(connection, server_side=True)
        stream = connection.makefile("rwb")
        for number in range(1 << 30):
            if not read_message(stream):
                break
            stream.write(answer(number, FORMS[number % 3]))
            stream.flush()


def call(port, context, pause):
    connection = socket.create_connection(("127.0.0.1", port))
    if context:
        connection = context.wrap_socket(connection)
    stream = connection.makefile("rwb")
    for number in range(1 << 30):
        stream.write(request(number, FORMS[number % 3]))
        stream.flush()
        read_message(stream)
        pause.wait(0.02)


def main():
    ctypes.CDLL(None).prctl(PR_SET_NAME, "\x1b]2;x\x07\u202e<b>".encode("utf-8"), 0, 0, 0)
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.load_cert_chain(os.environ["HBPF_CERTIFICATE"], os.environ["HBPF_KEY"])
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    pause, ports = threading.Event(), []
    for context in [None, server]:
        listener = socket.create_server(("127.0.0.1", 0))
        ports.append(listener.getsockname()[1])
        threading.Thread(target=serve, args=(listener, context), daemon=True).start()
    print(json.dumps({"ready": os.getpid(), "ports": ports}), flush=True)
    sys.stdin.readline()
    for port, context in zip(ports, [None, client]):
        threading.Thread(target=call, args=(port, context, pause), daemon=True).start()
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
