"""Calls a model through xAI's own SDK, which speaks gRPC.

Prints {"ready": ...} once everything is loaded, begins when a line arrives on standard input, prints what the SDK told it,
and stays until standard input is closed.
"""

import argparse
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import xai_sdk
from xai_sdk.chat import user

PROMPT = os.environ.get("HBPF_DEMO_PROMPT", "Say something about bees.")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", required=True, help="such as localhost:5000")
    parser.add_argument("--ca", type=Path, help="speak TLS, with a server whose certificate this authority has signed")
    parser.add_argument("--model", default="demo-12")
    parser.add_argument("--streamed", type=int, default=10, metavar="N")
    parser.add_argument("--plain", type=int, default=5, metavar="N")
    parser.add_argument("--concurrency", type=int, default=8, metavar="N")
    parser.add_argument("--gzip", action="store_true", help="compress requests")
    return parser.parse_args()


def main():
    options = arguments()
    if options.ca is not None:
        # Where gRPC looks for authorities, when none are given.
        os.environ["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"] = str(options.ca)
    # Long enough that compressing it pays.
    prompt = PROMPT * 20
    algorithm = grpc.Compression.Gzip if options.gzip else grpc.Compression.NoCompression
    client = xai_sdk.Client(
        api_key=os.environ.get("HBPF_DEMO_KEY", "demo-key"),
        api_host=options.host,
        use_insecure_channel=options.ca is None,
        channel_options=[("grpc.default_compression_algorithm", int(algorithm))],
    )

    def call(streamed):
        chat = client.chat.create(model=options.model, messages=[user(prompt)])
        try:
            if not streamed:
                return chat.sample().usage
            for response, _ in chat.stream():
                last = response
            return last.usage
        except grpc.RpcError as error:
            return error.code().name

    print(json.dumps({"ready": os.getpid(), "sdk": f"xai-sdk {xai_sdk.__version__}"}), flush=True)
    if not sys.stdin.readline():
        return
    totals = {"answers": 0, "errors": [], "input": 0, "completion": 0, "reasoning": 0, "cached": 0}
    with ThreadPoolExecutor(options.concurrency) as pool:
        for usage in pool.map(call, [True] * options.streamed + [False] * options.plain):
            if isinstance(usage, str):
                totals["errors"].append(usage)
                continue
            totals["answers"] += 1
            totals["input"] += usage.prompt_tokens
            totals["completion"] += usage.completion_tokens
            totals["reasoning"] += usage.reasoning_tokens
            totals["cached"] += usage.cached_prompt_text_tokens
    print(json.dumps(totals), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
