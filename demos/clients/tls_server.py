"""A model server whose TLS is OpenSSL's, as Python servers have it: hbpf sees both ends of a connection to it.

The Rust stand-in server speaks TLS with rustls, which hbpf cannot look into; this one exists for that one test.
Each answer has the number of tokens that the model's name ends with, such as demo-12, and as many prompt tokens. One that is
not streamed has 200 KB and is written at once, which is more than hbpf copies of one call; of a model whose name begins with
"large" it has 16 MB, which a reader that is slow keeps waiting.

usage: tls_server.py CERTIFICATE KEY
Prints {"ready": PID, "port": PORT} and stays until standard input is closed.
"""

import json
import os
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Each event leaves at once, as servers that stream set it.
    disable_nagle_algorithm = True

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        tokens = int(request["model"].rsplit("-", 1)[1])
        usage = {"prompt_tokens": tokens, "completion_tokens": tokens, "total_tokens": 2 * tokens}
        if not request.get("stream"):
            words = 4_000_000 if request["model"].startswith("large") else 50_000
            return self.answer({"object": "chat.completion", "choices": [{"index": 0, "finish_reason": "stop",
                "message": {"role": "assistant", "content": "bee " * words}}], "usage": usage})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for _ in range(tokens):
            self.event([{"index": 0, "delta": {"content": "bee "}, "finish_reason": None}])
        self.event([{"index": 0, "delta": {}, "finish_reason": "stop"}])
        self.event([], usage)
        self.chunk(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def answer(self, data):
        body = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def event(self, choices, usage=None):
        data = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": choices, "usage": usage}
        self.chunk(b"data: " + json.dumps(data).encode() + b"\n\n")

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def log_message(self, *_):
        pass


def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*sys.argv[1:3])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps({"ready": os.getpid(), "port": server.server_port}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
