"""Times requests of the OpenAI SDK, one after the other.

For each line with a number on standard input it makes so many streamed requests and prints their seconds as a JSON list.

usage: latency.py BASE_URL CA MODEL
"""

import json
import os
import ssl
import sys
import time

import openai


def request(client, model):
    started = time.perf_counter()
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Say something about bees."}],
        stream=True,
        stream_options={"include_usage": True},
    )
    for _ in answer:
        pass
    return time.perf_counter() - started


def main():
    base_url, ca, model = sys.argv[1:4]
    http = openai.DefaultHttpxClient(verify=ssl.create_default_context(cafile=ca))
    client = openai.OpenAI(api_key="demo-key", base_url=base_url + "/v1", http_client=http, max_retries=0)
    # The connection, and what Python loads at the first use.
    request(client, model)
    print(json.dumps({"ready": os.getpid()}), flush=True)
    for line in sys.stdin:
        print(json.dumps([request(client, model) for _ in range(int(line))]), flush=True)


if __name__ == "__main__":
    main()
