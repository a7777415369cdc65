"""An OpenTelemetry receiver of the official protocol's messages, over gRPC and HTTP, for tests.

Prints its two ports as JSON. Each line on standard input is a command, each answered with a line of JSON:
`metrics`: for each export the points that came; `spans`: the spans that came; `refuse N`: the next N exports are refused as not
available; `partial`: of the next export one point is refused; `hang`: the next export is not answered for three seconds, and counts.
"""

import gzip
import http.server
import json
import sys
import threading
import time
from concurrent import futures

import grpc
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_grpc

LOCK = threading.Lock()
EXPORTS = []
SPANS = []
HEADERS = []
MOOD = {"refuse": 0, "partial": False, "hang": False}


def take(request):
    """Whether the export is taken, and how many of its points are refused."""
    with LOCK:
        if MOOD["refuse"] > 0:
            MOOD["refuse"] -= 1
            return False, 0
        is_hanging, MOOD["hang"] = MOOD["hang"], False
        rejected = 1 if MOOD["partial"] else 0
        MOOD["partial"] = False
        if isinstance(request, metrics.ExportMetricsServiceRequest):
            EXPORTS.append(MessageToDict(request))
        else:
            SPANS.extend(
                MessageToDict(span)
                for resource in request.resource_spans
                for scope in resource.scope_spans
                for span in scope.spans
            )
    if is_hanging:
        time.sleep(3)
    return True, rejected


class Metrics(metrics_grpc.MetricsServiceServicer):
    def Export(self, request, context):
        with LOCK:
            HEADERS.append(dict(context.invocation_metadata()))
        is_taken, rejected = take(request)
        if not is_taken:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        answer = metrics.ExportMetricsServiceResponse()
        if rejected:
            answer.partial_success.rejected_data_points = rejected
            answer.partial_success.error_message = "one too many"
        return answer


class Traces(trace_grpc.TraceServiceServicer):
    def Export(self, request, context):
        is_taken, _ = take(request)
        if not is_taken:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        return trace.ExportTraceServiceResponse()


class Http(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        is_metrics = self.path.endswith("/v1/metrics")
        kind = metrics.ExportMetricsServiceRequest if is_metrics else trace.ExportTraceServiceRequest
        answer = metrics.ExportMetricsServiceResponse() if is_metrics else trace.ExportTraceServiceResponse()
        with LOCK:
            HEADERS.append({name.lower(): value for name, value in self.headers.items()})
        is_taken, rejected = take(kind.FromString(body))
        if rejected and is_metrics:
            answer.partial_success.rejected_data_points = rejected
            answer.partial_success.error_message = "one too many"
        text = answer.SerializeToString() if is_taken else b""
        self.send_response(200 if is_taken else 503)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


def main():
    server = grpc.server(futures.ThreadPoolExecutor(4))
    metrics_grpc.add_MetricsServiceServicer_to_server(Metrics(), server)
    trace_grpc.add_TraceServiceServicer_to_server(Traces(), server)
    grpc_port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Http)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    print(json.dumps({"grpc": grpc_port, "http": web.server_address[1]}), flush=True)
    for line in sys.stdin:
        command, *rest = line.split()
        with LOCK:
            if command == "refuse":
                MOOD["refuse"] = int(rest[0])
            elif command in ("partial", "hang"):
                MOOD[command] = True
            answer = {"metrics": EXPORTS, "spans": SPANS, "headers": HEADERS}.get(command, {})
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
