"""Calls models with nothing but Python's standard library, over connections that are kept alive.

Prints {"ready": ...} once everything is loaded, begins when a line arrives on standard input, and stays until standard
input is closed, so that it never outlives whoever started it.
"""

import argparse
import http.client
import json
import os
import ssl
import sys
import threading
import time
from urllib.parse import urlsplit

PROMPT = [{"role": "user", "content": os.environ.get("HBPF_DEMO_PROMPT", "Say something about bees.")}]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-url", required=True, help="such as https://localhost:8443")
    parser.add_argument("--ca", help="certificate authority to verify the server with")
    parser.add_argument("--path", action="append", help="what to call; may be given more than once, then taken in turn")
    parser.add_argument("--model", action="append", help="may be given more than once, then taken in turn")
    parser.add_argument("--plain", action="store_true", help="do not stream")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--count", type=int, metavar="N", help="calls per thread; without it, no end")
    parser.add_argument("--between", action="store_true", help="a health check and a static file before each call")
    parser.add_argument("--static-bytes", type=int, default=20_000, metavar="N", help="size of that static file")
    parser.add_argument("--before", action="store_true", help="one call per connection already before {ready} is said")
    parser.add_argument("--leave-after", type=int, metavar="N", help="close the connection after so many events")
    parser.add_argument("--pause", type=float, default=0, metavar="SECONDS", help="between an answer's head and its body")
    parser.add_argument("--query", default="", help="query string of every call")
    parser.add_argument("--go", action="store_true", help="begin at once, do not wait for a line")
    return parser.parse_args()


class Client:
    """One thread's connection."""

    def __init__(self, options, number):
        self.options, self.number = options, number
        self.url = urlsplit(options.base_url)
        self.connection = None
        self.headers = {
            "Content-Type": "application/json",
            "Authorization": "Bearer " + os.environ.get("HBPF_DEMO_KEY", "demo-key"),
        }

    def connect(self):
        if self.connection is None:
            if self.url.scheme == "https":
                context = ssl.create_default_context(cafile=self.options.ca)
                self.connection = http.client.HTTPSConnection(self.url.hostname, self.url.port, context=context)
            else:
                self.connection = http.client.HTTPConnection(self.url.hostname, self.url.port)
        return self.connection

    def get(self, target):
        connection = self.connect()
        connection.request("GET", target)
        answer = connection.getresponse()
        answer.read()
        return answer.status

    def call(self, number):
        options = self.options
        path = options.path[(number + self.number) % len(options.path)]
        model = options.model[(number + self.number) % len(options.model)]
        body = {"model": model, "stream": not options.plain, "max_tokens": 10_000, "messages": PROMPT}
        if path.endswith("completions") and not options.plain:
            body["stream_options"] = {"include_usage": True}
        target = path + ("?" + options.query if options.query else "")
        connection = self.connect()
        connection.request("POST", target, json.dumps(body), self.headers)
        answer = connection.getresponse()
        events = 0
        time.sleep(options.pause)
        for line in answer:
            if line.startswith((b"data:", b"{")):
                events += 1
            if options.leave_after and events >= options.leave_after:
                # The answer keeps the socket open as long as it lives: both must go.
                answer.close()
                connection.close()
                self.connection = None
                return answer.status
        # Iteration does not notice the end of an answer whose length was announced, and the connection would not be free.
        answer.read()
        return answer.status

    def run(self, statuses, lock):
        number = 0
        while self.options.count is None or number < self.options.count:
            try:
                if self.options.between:
                    self.get("/health")
                    self.get(f"/static/bundle.js?bytes={self.options.static_bytes}")
                status = self.call(number)
            except (http.client.HTTPException, OSError) as error:
                status = type(error).__name__
                self.connection = None
            with lock:
                statuses[str(status)] = statuses.get(str(status), 0) + 1
            number += 1


def main():
    options = arguments()
    options.path = options.path or ["/v1/chat/completions"]
    options.model = options.model or ["demo"]
    clients = [Client(options, number) for number in range(options.threads)]
    for client in clients:
        client.connect().connect()
        if options.before:
            client.call(0)
    print(json.dumps({"ready": os.getpid()}), flush=True)
    if not options.go and not sys.stdin.readline():
        return
    statuses, lock = {}, threading.Lock()
    threads = [threading.Thread(target=client.run, args=(statuses, lock), daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    if options.count is None:
        sys.stdin.read()
        os._exit(0)
    for thread in threads:
        thread.join()
    print(json.dumps({"statuses": statuses}), flush=True)
    if not options.go:
        sys.stdin.read()


if __name__ == "__main__":
    main()
