"""Calls a model through one of the SDKs that demos/requirements-sdks.txt names.

Prints {"ready": ...} once everything is loaded, begins when a line arrives on standard input, prints what the SDK counted
and which errors it told, and stays until standard input is closed.
"""

import argparse
import asyncio
import importlib.metadata
import json
import os
import ssl
import sys
from concurrent.futures import ThreadPoolExecutor

PROMPT = os.environ.get("HBPF_DEMO_PROMPT", "Say something about bees.")
KEY = os.environ.get("HBPF_DEMO_KEY", "demo-key")
MESSAGES = [{"role": "user", "content": PROMPT}]


class Mistral:
    package = "mistralai"
    ways = ("whole", "stream")

    def __init__(self, options, context):
        import httpx2
        from mistralai.client import Mistral

        http = {"client": httpx2.Client(verify=context), "async_client": httpx2.AsyncClient(verify=context)}
        self.chat = Mistral(api_key=KEY, server_url=options.base_url + "/mistral", **http).chat
        self.is_async = options.mode == "async"

    def ask(self, way, model):
        name = {"whole": "complete", "stream": "stream"}[way] + ("_async" if self.is_async else "")
        return getattr(self.chat, name)(model=model, messages=MESSAGES)

    def usage(self, answer):
        answer = getattr(answer, "data", answer)
        return answer.usage and openai_counts(answer.usage, answer.usage.prompt_tokens_details)


class Groq:
    package = "groq"
    ways = ("whole", "stream")

    def __init__(self, options, context):
        import groq

        sync = options.mode == "sync"
        client = groq.Groq if sync else groq.AsyncGroq
        http = groq.DefaultHttpxClient if sync else groq.DefaultAsyncHttpxClient
        http = http(verify=context)
        self.client = client(api_key=KEY, base_url=options.base_url, http_client=http, max_retries=0)

    def ask(self, way, model):
        return self.client.chat.completions.create(model=model, messages=MESSAGES, stream=way == "stream")

    def usage(self, answer):
        own = getattr(answer, "x_groq", None)
        usage = getattr(own, "usage", None) or answer.usage
        return usage and openai_counts(usage, usage.prompt_tokens_details)


class Cohere:
    package = "cohere"
    ways = ("whole", "stream", "embed")

    def __init__(self, options, context):
        import cohere
        import httpx

        sync = options.mode == "sync"
        http = (httpx.Client if sync else httpx.AsyncClient)(verify=context, timeout=60)
        client = cohere.ClientV2 if sync else cohere.AsyncClientV2
        self.client = client(KEY, base_url=options.base_url, httpx_client=http, max_retries=0)

    def ask(self, way, model):
        if way == "embed":
            texts = {"texts": [PROMPT, PROMPT], "input_type": "search_document", "embedding_types": ["float"]}
            return self.client.embed(model=model, **texts)
        return (self.client.chat_stream if way == "stream" else self.client.chat)(model=model, messages=MESSAGES)

    def usage(self, answer):
        meta = getattr(answer, "meta", None)
        if meta:
            return meta.billed_units.input_tokens, 0, 0
        usage = getattr(answer, "usage", None) or getattr(getattr(answer, "delta", None), "usage", None)
        return usage and (usage.tokens.input_tokens, usage.tokens.output_tokens, usage.cached_tokens)


class Ollama:
    package = "ollama"
    ways = ("whole", "stream", "embed")

    def __init__(self, options, context):
        import ollama

        client = ollama.Client if options.mode == "sync" else ollama.AsyncClient
        self.client = client(host=options.base_url, verify=context, headers={"authorization": f"Bearer {KEY}"})

    def ask(self, way, model):
        if way == "embed":
            return self.client.embed(model=model, input=[PROMPT, PROMPT])
        return self.client.chat(model=model, messages=MESSAGES, stream=way == "stream")

    def usage(self, answer):
        count = answer.prompt_eval_count
        return count and (count, answer.eval_count or 0, 0)


class LiteLlm:
    """The library, not its proxy. Of some providers it calls their SDKs, of others their APIs itself."""

    package = "litellm"
    ways = ("whole", "stream")
    paths = {
        "openai": "/v1",
        "anthropic": "",
        "groq": "/openai/v1",
        "mistral": "/mistral/v1",
        "cohere_chat": "/v2/chat",
        "ollama_chat": "",
    }

    def __init__(self, options, context):
        # It would ask for prices.
        os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
        import litellm

        litellm.ssl_verify = options.ca or True
        litellm.suppress_debug_info = True
        self.via = options.via
        if options.via == "cohere_chat":
            # It takes an event's name for its data, and fails.
            self.ways = ("whole",)
        self.url = options.base_url + self.paths[options.via]
        self.complete = litellm.completion if options.mode == "sync" else litellm.acompletion

    def ask(self, way, model):
        extra = {"stream": True, "stream_options": {"include_usage": True}} if way == "stream" else {}
        model = f"{self.via}/{model}"
        return self.complete(model=model, messages=MESSAGES, api_base=self.url, api_key=KEY, max_retries=0, **extra)

    def usage(self, answer):
        usage = getattr(answer, "usage", None)
        return usage and openai_counts(usage, usage.prompt_tokens_details)


SDKS = {"mistral": Mistral, "groq": Groq, "cohere": Cohere, "ollama": Ollama, "litellm": LiteLlm}


def openai_counts(usage, details):
    """Prompt tokens, generated tokens and cached ones."""
    cached = details.get("cached_tokens") if isinstance(details, dict) else getattr(details, "cached_tokens", 0)
    return usage.prompt_tokens, usage.completion_tokens, cached or 0


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sdk", choices=SDKS, required=True)
    parser.add_argument("--via", choices=LiteLlm.paths, default="openai", help="whose API LiteLLM shall call")
    parser.add_argument("--mode", choices=["sync", "async"], default="sync")
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--ca", help="certificate authority to verify the server with")
    parser.add_argument("--model", action="append", help="by turns; 'demo' unless some are named")
    parser.add_argument("--count", type=int, default=5, metavar="N", help="of each way and model")
    parser.add_argument("--concurrency", type=int, default=8, metavar="N")
    return parser.parse_args()


def last(usages):
    return [usage for usage in usages if usage][-1]


def run_sync(sdk, calls, concurrency):
    def attempt(call):
        try:
            answer = sdk.ask(*call)
            return last([sdk.usage(chunk) for chunk in answer] if call[0] == "stream" else [sdk.usage(answer)])
        except Exception as error:
            return error

    with ThreadPoolExecutor(concurrency) as pool:
        return list(pool.map(attempt, calls))


def run_async(sdk, calls, concurrency):
    async def attempt(call, places):
        async with places:
            try:
                answer = sdk.ask(*call)
                # Some hand out a stream at once, some when it begins.
                answer = await answer if asyncio.iscoroutine(answer) else answer
                if call[0] == "stream":
                    return last([sdk.usage(chunk) async for chunk in answer])
                return last([sdk.usage(answer)])
            except Exception as error:
                return error

    async def everything():
        places = asyncio.Semaphore(concurrency)
        return await asyncio.gather(*(attempt(call, places) for call in calls))

    return asyncio.run(everything())


def main():
    options = arguments()
    context = ssl.create_default_context(cafile=options.ca)
    sdk = SDKS[options.sdk](options, context)
    version = importlib.metadata.version(sdk.package)
    print(json.dumps({"ready": os.getpid(), "sdk": f"{sdk.package} {version}", "ways": sdk.ways}), flush=True)
    if not sys.stdin.readline():
        return
    calls = [(way, model) for way in sdk.ways for model in options.model or ["demo"]] * options.count
    run = run_sync if options.mode == "sync" else run_async
    totals = {"answers": 0, "errors": [], "input": 0, "output": 0, "cached": 0}
    for result in run(sdk, calls, options.concurrency):
        if isinstance(result, Exception):
            # What is no answer of the server's is told in full.
            totals["errors"].append(getattr(result, "status_code", None) or repr(result))
            continue
        totals["answers"] += 1
        for name, number in zip(("input", "output", "cached"), result):
            totals[name] += int(number)
    print(json.dumps(totals), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
