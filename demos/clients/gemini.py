"""Calls a model through Google's own SDK, and streams it as an array, which the SDK does not ask for.

Prints {"ready": ...} once everything is loaded, begins when a line arrives on standard input, prints what it was told,
and stays until standard input is closed.
"""

import argparse
import json
import os
import ssl
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx
from google import genai
from google.genai import errors, types

PROMPT = os.environ.get("HBPF_DEMO_PROMPT", "Say something about bees.")
KEY = os.environ.get("HBPF_DEMO_KEY", "demo-key")
WAYS = ("whole", "stream", "array")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--ca", help="certificate authority to verify the server with")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--way", action="append", choices=WAYS, help="all of them unless some are named")
    parser.add_argument("--count", type=int, default=5, metavar="N", help="of each")
    parser.add_argument("--concurrency", type=int, default=8, metavar="N")
    return parser.parse_args()


def counts(usage):
    """Prompt tokens, generated tokens and cached ones."""
    generated = (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0)
    return usage.prompt_token_count, generated, usage.cached_content_token_count or 0


def call(sdk, http, way, options):
    if way == "whole":
        return counts(sdk.models.generate_content(model=options.model, contents=PROMPT).usage_metadata)
    if way == "stream":
        usage = None
        for chunk in sdk.models.generate_content_stream(model=options.model, contents=PROMPT):
            usage = chunk.usage_metadata or usage
        return counts(usage)
    url = f"{options.base_url}/v1beta/models/{options.model}:streamGenerateContent"
    body = {"contents": [{"role": "user", "parts": [{"text": PROMPT}]}]}
    answer = http.post(url, json=body, headers={"x-goog-api-key": KEY})
    if answer.is_error:
        return answer.json()[0]["error"]["status"]
    usage = answer.json()[-1]["usageMetadata"]
    generated = usage["candidatesTokenCount"] + usage.get("thoughtsTokenCount", 0)
    return usage["promptTokenCount"], generated, usage.get("cachedContentTokenCount", 0)


def main():
    options = arguments()
    context = ssl.create_default_context(cafile=options.ca)
    settings = types.HttpOptions(base_url=options.base_url, client_args={"verify": context})
    sdk = genai.Client(api_key=KEY, http_options=settings)
    http = httpx.Client(verify=context, timeout=60)
    print(json.dumps({"ready": os.getpid(), "sdk": f"google-genai {genai.__version__}"}), flush=True)
    if not sys.stdin.readline():
        return
    totals = {"answers": 0, "errors": [], "input": 0, "output": 0, "cached": 0}

    def attempt(way):
        try:
            return call(sdk, http, way, options)
        except errors.APIError as error:
            return error.status

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
