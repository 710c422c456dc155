#!/usr/bin/env python3
"""Writes a checkpoint as the model folder that transformers and asynctls read.

    python research/train/export.py runs/qwen3 models/qwen3-long
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

import checkpoint
from data import END
from model import shape_of
from presets import PRESETS


def symbols():
    """The characters that byte-level BPE writes bytes as."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def tokenizer(vocabulary):
    """A token a byte. Byte-level BPE needs a merge: it is of two bytes that are in no text of UTF-8."""
    byte = symbols()
    merge = [byte[0xFE], byte[0xFF]]
    special = ["<|endoftext|>"] + [f"<|unused_{i}|>" for i in range(vocabulary - END - 1)]
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    step = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "pre_tokenizer": step, "post_processor": None,
        "added_tokens": [{"id": END + i, "content": token} | added for i, token in enumerate(special)], "decoder": step,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "",
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {symbol: i for i, symbol in enumerate(byte)} | {"".join(merge): 256}, "merges": [merge]},
    }


def config(s, context):
    both = {"vocab_size": s.vocab, "hidden_size": s.hidden, "intermediate_size": s.ffn, "num_hidden_layers": s.layers, "num_attention_heads": s.heads,
            "max_position_embeddings": context, "rms_norm_eps": 1e-6, "hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0,
            "initializer_range": 0.02, "use_cache": True, "bos_token_id": None, "eos_token_id": END, "dtype": "bfloat16",
            "rope_parameters": {"rope_type": "default", "rope_theta": s.theta}}
    if s.kind == "qwen3":
        return {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"} | both | {
            "num_key_value_heads": s.kv_heads, "head_dim": s.head_dim, "max_window_layers": s.layers, "use_sliding_window": False,
            "sliding_window": None, "tie_word_embeddings": True}
    return {"architectures": ["Glm4MoeLiteForCausalLM"], "model_type": "glm4_moe_lite"} | both | {
        "num_key_value_heads": s.heads, "q_lora_rank": s.q_rank, "kv_lora_rank": s.kv_rank, "qk_nope_head_dim": s.nope_dim,
        "qk_rope_head_dim": s.rope_dim, "v_head_dim": s.head_dim, "rope_interleave": True, "moe_intermediate_size": s.expert_ffn,
        "n_routed_experts": s.experts, "n_shared_experts": 1, "num_experts_per_tok": s.used, "n_group": 1, "topk_group": 1,
        "topk_method": "noaux_tc", "norm_topk_prob": True, "routed_scaling_factor": s.factor, "num_nextn_predict_layers": 0,
        "mlp_layer_types": ["dense"] * (s.layers - s.sparse) + ["sparse"] * s.sparse, "tie_word_embeddings": False}


def tensors(model, dtype):
    """A checkpoint's tensors by transformers' names."""
    out = {}
    for name, value in model.items():
        if name.startswith("bias_"):
            out[f"model.layers.{name[5:]}.mlp.gate.e_score_correction_bias"] = value.float().cpu().contiguous()
        elif ".experts." in name:
            before, after = name.split(".experts.")
            out |= {f"{before}.experts.{i}.{after}": one.to(dtype).cpu().contiguous() for i, one in enumerate(value)}
        else:
            out[name] = value.detach().to(dtype).cpu().contiguous()
    return out


def write(folder, shape, model, context, dtype=torch.bfloat16):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    dump = lambda name, value: (folder / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
    dump("config.json", config(shape, context) | {"dtype": str(dtype).removeprefix("torch.")})
    dump("generation_config.json", {"do_sample": False, "eos_token_id": END})
    dump("tokenizer.json", tokenizer(shape.vocab))
    dump("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False, "bos_token": None,
                                   "eos_token": "<|endoftext|>", "clean_up_tokenization_spaces": False, "model_max_length": context})
    save_file(tensors(model, dtype), folder / "model.safetensors", {"format": "pt"})


if __name__ == "__main__":
    state = checkpoint.load(sys.argv[1])
    write(sys.argv[2], shape_of(state["shape"]), state["model"], PRESETS[state["preset"]].context)
