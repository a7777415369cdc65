"""Answers of APIs that the stand-in server does not speak, the same to each call. Prints its port."""

import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def events(*documents, done=False):
    names = (document.get("type") or document.get("event_type") or "message" for document in documents)
    data = [f"event: {name}\ndata: {json.dumps(document)}\n\n" for name, document in zip(names, documents)]
    return "text/event-stream", "".join(data + ["data: [DONE]\n\n"] * done).encode()


def document(value):
    return "application/json", json.dumps(value).encode()


MEDIA_USAGE = {
    "input_tokens": 12,
    "output_tokens": 272,
    "total_tokens": 284,
    "input_tokens_details": {"text_tokens": 12, "image_tokens": 0},
}
SPOKEN_USAGE = {
    "type": "tokens",
    "input_tokens": 14,
    "output_tokens": 45,
    "total_tokens": 59,
    "input_token_details": {"text_tokens": 0, "audio_tokens": 14},
}
INTERACTION = {"id": "int_1", "object": "interaction", "model": "gemini-x"}
INTERACTION_USAGE = {"total_input_tokens": 40, "total_output_tokens": 9, "total_thought_tokens": 7, "total_tokens": 56}
CONVERSATION_USAGE = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
AT = "2026-11-29T12:00:00Z"
IMAGES = document({"created": 1, "data": [{"b64_json": "Q0FOQVJZ"}], "usage": MEDIA_USAGE})

WHOLE = {
    "/v1/images/generations": IMAGES,
    "/v1/images/edits": IMAGES,
    "/v1/audio/transcriptions": document({"text": "CANARY", "usage": SPOKEN_USAGE}),
    "/v1/audio/speech": ("audio/mpeg", b"ID3 CANARY" * 1000),
    "/v1/interactions": document(
        INTERACTION | {"status": "completed", "usage": INTERACTION_USAGE, "created": AT, "updated": AT, "steps": []}
    ),
    "/v1/conversations": document(
        {"object": "conversation.response", "conversation_id": "c", "outputs": [], "usage": CONVERSATION_USAGE}
    ),
    "/v2/models/tensors/infer": document(
        {
            "model_name": "tensors",
            "model_version": "1",
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [1.0]}],
        }
    ),
    "/": document(
        [{"generated_text": "CANARY", "details": {"finish_reason": "length", "generated_tokens": 3, "seed": None, "prefill": [], "tokens": []}}]
    ),
}

STREAMED = {
    "/v1/audio/transcriptions": events(
        {"type": "transcript.text.delta", "delta": "CANARY"},
        {"type": "transcript.text.done", "text": "CANARY", "usage": SPOKEN_USAGE},
        done=True,
    ),
    "/v1/interactions": events(
        {"event_type": "interaction.created", "interaction": INTERACTION | {"status": "in_progress"}},
        {"event_type": "step.delta", "index": 0, "delta": {"type": "text", "text": "CANARY"}},
        {"event_type": "interaction.completed", "interaction": INTERACTION | {"status": "completed", "usage": INTERACTION_USAGE}},
    ),
    "/v1/conversations": events(
        {"type": "conversation.response.started", "created_at": AT, "conversation_id": "c"},
        {
            "type": "message.output.delta",
            "created_at": AT,
            "id": "m",
            "output_index": 0,
            "content_index": 0,
            "model": "mistral-x",
            "role": "assistant",
            "content": "CANARY",
        },
        {"type": "conversation.response.done", "created_at": AT, "usage": CONVERSATION_USAGE},
    ),
    "/": events(
        {"index": 1, "token": {"id": 1, "text": "CANARY", "logprob": -0.1, "special": False}, "generated_text": None, "details": None},
        {
            "index": 2,
            "token": {"id": 2, "text": "", "logprob": -0.1, "special": True},
            "generated_text": "CANARY",
            "details": {"finish_reason": "eos_token", "generated_tokens": 2, "input_length": 11, "seed": None},
        },
    ),
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        # No model answers at once. What is said at a path that nobody knows is captured once its beginning has been judged.
        time.sleep(0.05)
        is_streamed = b'"stream":true' in body.replace(b" ", b"") or b'name="stream"\r\n\r\ntrue' in body
        kind, answer = (STREAMED if is_streamed else WHOLE)[self.path.split("?")[0].split("#")[0]]
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
