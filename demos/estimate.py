"""How far a quarter of the bytes of a text is from its tokens: the estimate that hbpf makes where an event of a stream holds several.

Takes vocabularies as llama.cpp has them (GGUF) and texts, each `NAME=FILE`, and prints a table: bytes per token, and the error of
the estimate over all of a text, and from the 5th to the 95th of a hundred parts of 2000 characters.
"""

import argparse
import os
import statistics

import llama_cpp

# As in hbpf-core/src/dialect/reading.rs.
BYTES_PER_TOKEN = 4
PART = 2000
PARTS = 60


def parts(path):
    with open(path, encoding="utf-8", errors="ignore") as file:
        text = file.read(PART * PARTS)
    return [text[at : at + PART].encode() for at in range(0, len(text), PART)]


def cell(vocabulary, texts):
    tokens = [len(vocabulary.tokenize(text, add_bos=False, special=False)) for text in texts]
    estimates = [len(text) // BYTES_PER_TOKEN for text in texts]
    errors = statistics.quantiles([estimate / count - 1 for estimate, count in zip(estimates, tokens)], n=20)
    error = sum(estimates) / sum(tokens) - 1
    return f"{sum(map(len, texts)) / sum(tokens):.2f}, {error:+.0%} ({errors[0]:+.0%} to {errors[-1]:+.0%})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary", action="append", required=True, metavar="FILE.gguf")
    parser.add_argument("text", nargs="+", metavar="NAME=FILE")
    options = parser.parse_args()
    names = [os.path.basename(path).removesuffix(".gguf").removeprefix("ggml-vocab-") for path in options.vocabulary]
    print("| text | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    vocabularies = [llama_cpp.Llama(model_path=path, vocab_only=True, verbose=False) for path in options.vocabulary]
    for text in options.text:
        name, path = text.split("=", 1)
        texts = parts(path)
        print(f"| {name} | " + " | ".join(cell(vocabulary, texts) for vocabulary in vocabularies) + " |", flush=True)


if __name__ == "__main__":
    main()
