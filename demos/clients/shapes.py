"""Calls APIs that the stand-in server does not speak, through their vendors' SDKs.

Prints {"ready": ...}, begins when a line arrives on standard input, prints what the SDK says of each call's tokens, and stays until
standard input is closed.
"""

import argparse
import io
import json
import os
import sys


def openai(url):
    import openai as vendor

    sdk = vendor.OpenAI(base_url=f"{url}/v1", api_key="CANARY")
    counts = lambda usage: [usage.input_tokens, usage.output_tokens]
    # Larger than what a request is judged by.
    file = lambda name: (name, io.BytesIO(b"CANARY" * 20_000))
    yield counts(sdk.images.generate(model="gpt-image-x", prompt="CANARY").usage)
    yield counts(sdk.images.edit(model="gpt-image-x", image=file("a.png"), prompt="CANARY").usage)
    yield counts(sdk.audio.transcriptions.create(model="whisper-x", file=file("a.wav")).usage)
    stream = sdk.audio.transcriptions.create(model="whisper-x", file=file("a.wav"), stream=True)
    yield counts([event for event in stream][-1].usage)
    sdk.audio.speech.create(model="tts-x", voice="alloy", input="CANARY").read()
    yield [None, None]


def google(url):
    from google import genai
    from google.genai import types

    sdk = genai.Client(api_key="CANARY", http_options=types.HttpOptions(base_url=url))
    counts = lambda usage: [usage.total_input_tokens, usage.total_output_tokens + usage.total_thought_tokens]
    yield counts(sdk.interactions.create(model="gemini-x", input="CANARY").usage)
    events = list(sdk.interactions.create(model="gemini-x", input="CANARY", stream=True))
    yield counts(events[-1].interaction.usage)


def mistral(url):
    from mistralai.client import Mistral

    sdk = Mistral(api_key="CANARY", server_url=url)
    counts = lambda usage: [usage.prompt_tokens, usage.completion_tokens]
    yield counts(sdk.beta.conversations.start(model="mistral-x", inputs="CANARY").usage)
    with sdk.beta.conversations.start_stream(model="mistral-x", inputs="CANARY") as stream:
        events = list(stream)
    yield counts(events[-1].data.usage)


def huggingface(url):
    from huggingface_hub import InferenceClient

    sdk = InferenceClient(model=url, token="CANARY")
    answer = sdk.text_generation("CANARY", max_new_tokens=3, details=True)
    yield [None, answer.details.generated_tokens]
    events = list(sdk.text_generation("CANARY", max_new_tokens=3, details=True, stream=True))
    yield [events[-1].details.input_length, events[-1].details.generated_tokens]


def triton(url):
    import numpy
    import tritonclient.http as vendor

    sdk = vendor.InferenceServerClient(url.removeprefix("http://"))
    given = vendor.InferInput("x", [1], "FP32")
    given.set_data_from_numpy(numpy.array([1.0], dtype=numpy.float32))
    sdk.infer("tensors", [given])
    yield [None, None]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sdk", required=True, choices=["openai", "google", "mistral", "huggingface", "triton"])
    parser.add_argument("--base-url", required=True)
    options = parser.parse_args()
    print(json.dumps({"ready": os.getpid()}), flush=True)
    if not sys.stdin.readline():
        return
    print(json.dumps(list(globals()[options.sdk](options.base_url))), flush=True)
    sys.stdin.read()


main()
