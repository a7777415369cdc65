"""Writes a tiny llama model with random weights, for a real inference server to serve without downloading anything.

usage: tiny_model.py FILE
"""

import sys

import gguf
import numpy as np

LAYERS = 1
WIDTH = 64
HEADS = 4
FEED_FORWARD = 128
CONTEXT = 512
SPECIAL = ["<unk>", "<s>", "</s>"]


def vocabulary():
    """Special tokens, all single bytes (so that any text can be tokenised), and the lower case letters."""
    tokens = [(text, gguf.TokenType.UNKNOWN if i == 0 else gguf.TokenType.CONTROL) for i, text in enumerate(SPECIAL)]
    tokens += [(f"<0x{byte:02X}>", gguf.TokenType.BYTE) for byte in range(256)]
    tokens += [(chr(letter), gguf.TokenType.NORMAL) for letter in range(ord("a"), ord("z") + 1)]
    return tokens


def main(path):
    random = np.random.default_rng(1)
    tokens = vocabulary()

    def weights(*shape):
        return random.normal(0.0, 0.05, shape).astype(np.float32)

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("hbpf tiny random model")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([int(kind) for _, kind in tokens])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    # The server would otherwise guess a chat format and say so.
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")

    writer.add_tensor("token_embd.weight", weights(len(tokens), WIDTH))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, dtype=np.float32))
    writer.add_tensor("output.weight", weights(len(tokens), WIDTH))
    for layer in range(LAYERS):
        name = f"blk.{layer}."
        writer.add_tensor(name + "attn_norm.weight", np.ones(WIDTH, dtype=np.float32))
        writer.add_tensor(name + "ffn_norm.weight", np.ones(WIDTH, dtype=np.float32))
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"{name}{part}.weight", weights(WIDTH, WIDTH))
        writer.add_tensor(name + "ffn_gate.weight", weights(FEED_FORWARD, WIDTH))
        writer.add_tensor(name + "ffn_up.weight", weights(FEED_FORWARD, WIDTH))
        writer.add_tensor(name + "ffn_down.weight", weights(WIDTH, FEED_FORWARD))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
