"""Calls a model through a vendor's own SDK, many requests at a time.

Prints {"ready": ...} once everything is loaded, begins when a line arrives on standard input, prints what it counted,
and stays until standard input is closed, so that whoever watches it can look at it as long as needed.
"""

import argparse
import asyncio
import json
import os
import ssl
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

PROMPT = [{"role": "user", "content": os.environ.get("HBPF_DEMO_PROMPT", "Say something about bees.")}]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--api", choices=["openai", "responses", "anthropic"], required=True)
    parser.add_argument("--mode", choices=["sync", "async"], required=True)
    parser.add_argument("--base-url", required=True, help="such as https://localhost:8443")
    parser.add_argument("--ca", help="certificate authority to verify the server with")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--streamed", type=int, default=10, metavar="N")
    parser.add_argument("--plain", type=int, default=5, metavar="N")
    parser.add_argument("--concurrency", type=int, default=16, metavar="N")
    parser.add_argument("--max-tokens", type=int, default=10_000, metavar="N")
    parser.add_argument("--retries", type=int, default=0, metavar="N")
    parser.add_argument("--http2", action="store_true", help="all requests on one connection; plain, the server must know")
    parser.add_argument("--endless", action="store_true", help="again and again, until standard input is closed")
    parser.add_argument("--go", action="store_true", help="begin at once, do not wait for a line")
    return parser.parse_args()


def make_client(options):
    context = ssl.create_default_context(cafile=options.ca)
    if options.api != "anthropic":
        import openai as sdk

        names, url = ("OpenAI", "AsyncOpenAI"), options.base_url + "/v1"
    else:
        import anthropic as sdk

        names, url = ("Anthropic", "AsyncAnthropic"), options.base_url
    protocols = {"http1": not options.http2, "http2": options.http2}
    if options.mode == "async":
        http = sdk.DefaultAsyncHttpxClient(verify=context, **protocols)
    else:
        http = sdk.DefaultHttpxClient(verify=context, **protocols)
    client = getattr(sdk, names[options.mode == "async"])
    key = os.environ.get("HBPF_DEMO_KEY", "demo-key")
    return client(api_key=key, base_url=url, http_client=http, max_retries=options.retries), sdk


class Counts:
    """What the SDK itself reported."""

    def __init__(self):
        self.lock = threading.Lock()
        self.totals = {"answers": 0, "errors": 0, "input": 0, "output": 0, "cached": 0}

    def add(self, **numbers):
        with self.lock:
            for name, number in numbers.items():
                self.totals[name] += number

    def openai(self, usage):
        details = usage.prompt_tokens_details
        cached = details.cached_tokens if details else 0
        self.add(answers=1, input=usage.prompt_tokens, output=usage.completion_tokens, cached=cached)

    def openai_stream(self, usages):
        """Some servers never say."""
        if usages:
            self.openai(usages[-1])
        else:
            self.add(answers=1)

    def responses(self, usage):
        cached = usage.input_tokens_details.cached_tokens
        self.add(answers=1, input=usage.input_tokens, output=usage.output_tokens, cached=cached)

    def anthropic(self, usage):
        cached, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
        prompt = usage.input_tokens + cached + written
        self.add(answers=1, input=prompt, output=usage.output_tokens, cached=cached)


def openai_arguments(options, streamed):
    extra = {"stream": True, "stream_options": {"include_usage": True}} if streamed else {}
    return {"model": options.model, "messages": PROMPT, "max_tokens": options.max_tokens, **extra}


def responses_arguments(options, streamed):
    prompt = {"model": options.model, "input": PROMPT, "max_output_tokens": options.max_tokens}
    return {**prompt, "stream": True} if streamed else prompt


def anthropic_arguments(options):
    return {"model": options.model, "messages": PROMPT, "max_tokens": options.max_tokens}


def one_sync(client, options, streamed, counts):
    if options.api == "openai":
        answer = client.chat.completions.create(**openai_arguments(options, streamed))
        if streamed:
            counts.openai_stream([chunk.usage for chunk in answer if chunk.usage])
        else:
            counts.openai(answer.usage)
    elif options.api == "responses":
        answer = client.responses.create(**responses_arguments(options, streamed))
        if streamed:
            [done] = [event.response for event in answer if event.type == "response.completed"]
            counts.responses(done.usage)
        else:
            counts.responses(answer.usage)
    elif streamed:
        with client.messages.stream(**anthropic_arguments(options)) as stream:
            counts.anthropic(stream.get_final_message().usage)
    else:
        counts.anthropic(client.messages.create(**anthropic_arguments(options)).usage)


async def one_async(client, options, streamed, counts):
    if options.api == "openai":
        answer = await client.chat.completions.create(**openai_arguments(options, streamed))
        if streamed:
            counts.openai_stream([chunk.usage async for chunk in answer if chunk.usage])
        else:
            counts.openai(answer.usage)
    elif options.api == "responses":
        answer = await client.responses.create(**responses_arguments(options, streamed))
        if streamed:
            [done] = [event.response async for event in answer if event.type == "response.completed"]
            counts.responses(done.usage)
        else:
            counts.responses(answer.usage)
    elif streamed:
        async with client.messages.stream(**anthropic_arguments(options)) as stream:
            counts.anthropic((await stream.get_final_message()).usage)
    else:
        counts.anthropic((await client.messages.create(**anthropic_arguments(options))).usage)


def work(options):
    """Streamed and plain ones mixed evenly."""
    total = options.streamed + options.plain
    return [(i * options.plain) // total == ((i + 1) * options.plain) // total for i in range(total)]


def run_sync(client, options, counts):
    def attempt(streamed):
        try:
            one_sync(client, options, streamed, counts)
        except Exception:  # Where a stream is cut, that of the transport that the SDK is built upon.
            counts.add(errors=1)

    with ThreadPoolExecutor(options.concurrency) as pool:
        list(pool.map(attempt, work(options)))


def run_async(client, options, counts):
    async def attempt(streamed, places):
        async with places:
            try:
                await one_async(client, options, streamed, counts)
            except Exception:  # Where a stream is cut, that of the transport that the SDK is built upon.
                counts.add(errors=1)

    async def everything():
        places = asyncio.Semaphore(options.concurrency)
        await asyncio.gather(*(attempt(streamed, places) for streamed in work(options)))

    asyncio.run(everything())


def end_with_stdin():
    sys.stdin.read()
    os._exit(0)


def main():
    options = arguments()
    client, sdk = make_client(options)
    counts = Counts()
    print(json.dumps({"ready": os.getpid(), "sdk": f"{options.api} {sdk.__version__}"}), flush=True)
    if not options.go and not sys.stdin.readline():
        return
    run = run_async if options.mode == "async" else run_sync
    if options.endless:
        threading.Thread(target=end_with_stdin, daemon=True).start()
        # One client per round: an async one belongs to the event loop that it began in.
        while True:
            run(make_client(options)[0], options, counts)
    run(client, options, counts)
    print(json.dumps(counts.totals), flush=True)
    if not options.go:
        sys.stdin.read()


if __name__ == "__main__":
    main()
