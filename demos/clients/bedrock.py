"""Calls a model through AWS's own SDK, in each of the four ways that Bedrock has.

Prints {"ready": ...} once everything is loaded, begins when a line arrives on standard input, prints what the SDK told it,
and stays until standard input is closed.
"""

import argparse
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, EventStreamError

PROMPT = os.environ.get("HBPF_DEMO_PROMPT", "Say something about bees.")
WAYS = ("converse", "converse_stream", "invoke_model", "invoke_model_with_response_stream")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--ca", help="certificate authority to verify the server with")
    parser.add_argument("--model", default="demo-v1:0")
    parser.add_argument("--way", action="append", choices=WAYS, help="all of them unless some are named")
    parser.add_argument("--count", type=int, default=5, metavar="N", help="of each")
    parser.add_argument("--concurrency", type=int, default=8, metavar="N")
    return parser.parse_args()


def make_client(options):
    # A retry would be a call of its own.
    config = Config(retries={"total_max_attempts": 1}, max_pool_connections=options.concurrency)
    key = os.environ.get("HBPF_DEMO_KEY", "demo-key")
    return boto3.client(
        "bedrock-runtime",
        region_name="us-east-1",
        endpoint_url=options.base_url,
        verify=options.ca,
        aws_access_key_id=key,
        aws_secret_access_key=key,
        config=config,
    )


def of_converse(usage):
    cached = usage.get("cacheReadInputTokens", 0)
    prompt = usage["inputTokens"] + cached + usage.get("cacheWriteInputTokens", 0)
    return prompt, usage["outputTokens"], cached


def of_anthropic(usage):
    cached = usage["cache_read_input_tokens"]
    return usage["input_tokens"] + cached + usage["cache_creation_input_tokens"], usage["output_tokens"], cached


def call(client, way, model):
    """Prompt tokens, generated tokens and cached ones."""
    messages = [{"role": "user", "content": [{"text": PROMPT}]}]
    if way == "converse":
        return of_converse(client.converse(modelId=model, messages=messages)["usage"])
    if way == "converse_stream":
        usage = None
        for event in client.converse_stream(modelId=model, messages=messages)["stream"]:
            usage = event.get("metadata", {}).get("usage", usage)
        return of_converse(usage)
    body = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 1000, "messages": [{"role": "user", "content": PROMPT}]}
    answer = getattr(client, way)(modelId=model, body=json.dumps(body))
    if way == "invoke_model":
        return of_anthropic(json.load(answer["body"])["usage"])
    usage = None
    for event in answer["body"]:
        usage = json.loads(event["chunk"]["bytes"]).get("usage", usage)
    return of_anthropic(usage)


def main():
    options = arguments()
    client = make_client(options)
    print(json.dumps({"ready": os.getpid(), "sdk": f"boto3 {boto3.__version__}"}), flush=True)
    if not sys.stdin.readline():
        return
    totals = {"answers": 0, "errors": [], "input": 0, "output": 0, "cached": 0}

    def attempt(way):
        try:
            return call(client, way, options.model)
        except (ClientError, EventStreamError) as error:
            return error.response["Error"]["Code"]
        except (BotoCoreError, OSError) as error:  # Where a stream is cut.
            return type(error).__name__

    ways = (options.way or WAYS) * options.count
    with ThreadPoolExecutor(options.concurrency) as pool:
        for result in pool.map(attempt, ways):
            if isinstance(result, str):
                totals["errors"].append(result)
                continue
            totals["answers"] += 1
            for name, number in zip(("input", "output", "cached"), result):
                totals[name] += number
    print(json.dumps(totals), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
