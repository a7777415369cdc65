"""xAI's gRPC service as far as its SDK asks it for completions: `xai_server.py [--gzip] [--tls CERTIFICATE KEY]`.

An answer has as many completion tokens as the model's name ends with, such as demo-12, one more for reasoning, three times as
many for the prompt, two of these from the cache, and costs a quarter of a cent. Of a model whose name begins with "limited" the quota is used up: at
once, or amid the stream where it begins with "limited-later". With --gzip messages are compressed.

Prints {"ready": PID, "port": PORT} and stays until standard input is closed.
"""

import json
import os
import sys
from concurrent import futures
from pathlib import Path

import grpc
from xai_sdk.proto import chat_pb2, chat_pb2_grpc, usage_pb2


def usage(tokens):
    prompt = 3 * tokens
    return usage_pb2.SamplingUsage(
        completion_tokens=tokens,
        reasoning_tokens=1,
        prompt_tokens=prompt,
        prompt_text_tokens=prompt,
        cached_prompt_text_tokens=2,
        total_tokens=prompt + tokens + 1,
        cost_in_usd_ticks=25_000_000,
    )


class Chat(chat_pb2_grpc.ChatServicer):
    def GetCompletion(self, request, context):
        tokens = self.tokens(request, context)
        answer = chat_pb2.GetChatCompletionResponse(id="r-1", model=request.model + "-dated", usage=usage(tokens))
        output = answer.outputs.add(index=0, finish_reason="REASON_STOP")
        output.message.role = "ROLE_ASSISTANT"
        output.message.content = "bee " * tokens
        return answer

    def GetCompletionChunk(self, request, context):
        tokens = self.tokens(request, context)
        yield self.chunk(request, role="ROLE_ASSISTANT")
        yield self.chunk(request, reasoning_content="bees? ")
        for number in range(tokens):
            if number == 2 and request.model.startswith("limited"):
                self.refuse(context)
            # Enough of the same that compressing it pays.
            yield self.chunk(request, content="bee " * 100)
        last = self.chunk(request)
        last.outputs[0].finish_reason = "REASON_STOP"
        last.usage.CopyFrom(usage(tokens))
        yield last

    def chunk(self, request, **delta):
        chunk = chat_pb2.GetChatCompletionChunk(id="r-1", model=request.model + "-dated")
        chunk.outputs.add(index=0, delta=chat_pb2.Delta(**delta))
        return chunk

    def tokens(self, request, context):
        if request.model.startswith("limited") and not request.model.startswith("limited-later"):
            self.refuse(context)
        return int(request.model.rsplit("-", 1)[1])

    def refuse(self, context):
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "The stand-in server was told to fail.")


def main():
    arguments = sys.argv[1:]
    compression = grpc.Compression.Gzip if "--gzip" in arguments else grpc.Compression.NoCompression
    server = grpc.server(futures.ThreadPoolExecutor(16), compression=compression)
    chat_pb2_grpc.add_ChatServicer_to_server(Chat(), server)
    if "--tls" in arguments:
        at = arguments.index("--tls")
        certificate, key = (Path(path).read_bytes() for path in arguments[at + 1 : at + 3])
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(json.dumps({"ready": os.getpid(), "port": port}), flush=True)
    sys.stdin.read()
    server.stop(None)


if __name__ == "__main__":
    main()
