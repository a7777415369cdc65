"""Stands for an inference server's own endpoints: says at each path what a file beside it says.

The file, answers.json, is read for every request: {PATH: {"status", "headers", "body", "hang", "endless"}}. In a body `@N@` is
N times the seconds since the start. What was asked is written to asked.ndjson. Prints its port, and ends with its
standard input. Copied under the name of a server it is taken for one.

usage: stand_in.py [serve] [--host HOST] [--port PORT]
"""

import json
import os
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HERE = os.path.dirname(os.path.abspath(__file__))
BEGAN = time.monotonic()


def option(name, default):
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self):
        line = json.dumps({"method": self.command, "path": self.path, "headers": dict(self.headers)})
        with open(os.path.join(HERE, "asked.ndjson"), "a", encoding="utf-8") as asked:
            asked.write(line + "\n")
        with open(os.path.join(HERE, "answers.json"), encoding="utf-8") as answers:
            answer = json.load(answers).get(self.path, {"status": 404})
        if answer.get("hang"):
            time.sleep(3600)
        elapsed = time.monotonic() - BEGAN
        body = re.sub(r"@([0-9.]+)@", lambda match: f"{float(match[1]) * elapsed:.3f}", answer.get("body", ""))
        self.send_response(answer.get("status", 200))
        for name, value in answer.get("headers", {}).items():
            self.send_header(name, value)
        if answer.get("endless"):
            self.end_headers()
            while True:
                self.wfile.write(body.encode())
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    do_GET = do_POST = do_HEAD = do_OPTIONS = do_PUT = handle_any

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """Clients that go away are expected."""


def main():
    server = Server((option("--host", "127.0.0.1"), int(option("--port", "0"))), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps({"port": server.server_address[1]}), flush=True)
    sys.stdin.read()


main()
