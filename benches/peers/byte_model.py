#!/usr/bin/env python3
"""Writes a model folder in Qwen3-8B's shape with random bf16 weights and a vocabulary of bytes, which a server can be asked with.

    python3 benches/peers/byte_model.py FOLDER     # 14 GB; needs PyTorch and a GPU
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

# Its tokenizer: a token a byte.
BYTES = Path(__file__).resolve().parents[2] / "research" / "models" / "qwen3-long"
HIDDEN, FFN, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 4096, 12288, 36, 32, 8, 128
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"


def matrix(*size):
    return (torch.randn(*size, device="cuda") * 0.02).bfloat16().cpu()


def ones(length):
    return torch.ones(length, dtype=torch.bfloat16)


def shards(vocabulary):
    yield {"model.embed_tokens.weight": matrix(vocabulary, HIDDEN), "model.norm.weight": ones(HIDDEN)}
    for i in range(LAYERS):
        tensors = {
            "input_layernorm": ones(HIDDEN), "post_attention_layernorm": ones(HIDDEN),
            "self_attn.q_norm": ones(HEAD_DIM), "self_attn.k_norm": ones(HEAD_DIM),
            "self_attn.q_proj": matrix(HEADS * HEAD_DIM, HIDDEN), "self_attn.k_proj": matrix(KV_HEADS * HEAD_DIM, HIDDEN),
            "self_attn.v_proj": matrix(KV_HEADS * HEAD_DIM, HIDDEN), "self_attn.o_proj": matrix(HIDDEN, HEADS * HEAD_DIM),
            "mlp.gate_proj": matrix(FFN, HIDDEN), "mlp.up_proj": matrix(FFN, HIDDEN), "mlp.down_proj": matrix(HIDDEN, FFN),
        }
        yield {f"model.layers.{i}.{name}.weight": tensor for name, tensor in tensors.items()}


def main():
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "generation_config.json"):
        shutil.copy(BYTES / name, out)
    tokenizer = json.loads((BYTES / "tokenizer_config.json").read_text())
    (out / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"chat_template": TEMPLATE}))
    config = json.loads((BYTES / "config.json").read_text()) | {
        "hidden_size": HIDDEN, "intermediate_size": FFN, "num_hidden_layers": LAYERS, "max_window_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM}
    (out / "config.json").write_text(json.dumps(config))
    places = {}
    for i, tensors in enumerate(shards(config["vocab_size"])):
        name = f"model-{i:03}.safetensors"
        save_file(tensors, out / name)
        places |= dict.fromkeys(tensors, name)
    (out / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


if __name__ == "__main__":
    main()
