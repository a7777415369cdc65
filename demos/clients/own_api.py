"""A server with an API that nobody else has. Prints its port."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for _ in range(body["options"]["words"]):
            self.line({"choices": [{"text": "CANARY of an answer"}], "model": body["engine"] + "-2026"})
        self.line({"choices": [{"why": "enough"}], "usage": {"in": 21, "out": body["options"]["words"] + 1, "cached": 4}})
        self.wfile.write(b"0\r\n\r\n")

    def line(self, document):
        text = json.dumps(document).encode() + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
