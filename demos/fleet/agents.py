"""Many agents, as far as a Prometheus can tell: each of so many hosts answers at /metrics/NUMBER with what one real agent said, its counters
growing from there at that host's own pace.

    agents.py FILE HOSTS PORT       FILE is what an agent answers at /metrics as text/plain
    agents.py FILE HOSTS PORT --config    prints a configuration of Prometheus for them
"""

import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STARTED = time.time()

# How much a counter grows in a second, as a part of what it was.
PACE = 1 / 300


def pieces(text):
    """Lines, those of counters apart from their values."""
    kinds = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            kinds[name] = kind
        if line.startswith("#"):
            yield line, None
            continue
        rest, value = line.rsplit(" ", 1)
        name = rest.split("{")[0]
        grows = kinds.get(name) == "counter" or any(
            name.endswith(end) and kinds.get(name.removesuffix(end)) == "histogram" for end in ("_bucket", "_sum", "_count")
        )
        # What says when something was is left as it is.
        yield (rest, float(value)) if grows else (line, None)


def main(path, hosts, port):
    template = list(pieces(open(path).read()))

    class Agent(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            host = int(self.path.rsplit("/", 1)[1])
            growth = 1 + (time.time() - STARTED) * PACE * (1 + host % 7)
            lines = (rest if value is None else f"{rest} {int(value * growth)}" for rest, value in template)
            body = "\n".join([*lines, ""]).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 1024
        daemon_threads = True

    Server(("127.0.0.1", port), Agent).serve_forever()


def config(hosts, port):
    print("global: { scrape_interval: 15s, scrape_timeout: 14s }\nscrape_configs:")
    print("- job_name: hbpf\n  honor_labels: true\n  static_configs:")
    for host in range(hosts):
        print(f"  - targets: ['127.0.0.1:{port}']\n    labels: {{ __metrics_path__: /metrics/{host}, instance: 'node{host}' }}")


if sys.argv[4:] == ["--config"]:
    config(int(sys.argv[2]), int(sys.argv[3]))
else:
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
