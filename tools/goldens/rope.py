#!/usr/bin/env python3
"""Writes tests/goldens/rope.json: how positions turn under every kind of scaling that either file format can ask for.

For config.json transformers itself says what each pair turns by. For GGUF it is worked out from what llama.cpp does with each key.

    python tools/goldens/rope.py
"""

import json
import math
from importlib.metadata import version
from pathlib import Path

from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

ROOT = Path(__file__).resolve().parents[2] / "tests" / "goldens"

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 128}

# What is put in the place of the config.json of the tiny model `llama`: 32 dimensions, a base of 10,000, 1,024 positions.
JSON = [
    {},
    {"rope_theta": None, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
    {"rope_scaling": {"type": "linear", "factor": 4.0}},
    {"rope_scaling": {"rope_type": "linear", "type": "dynamic", "factor": 2.5}},
    {"rope_scaling": {"rope_type": "default", "factor": 4.0}},
    {"rope_scaling": LLAMA3},
    {"rope_scaling": YARN},
    {"rope_parameters": YARN | {"rope_theta": 1e6}},
    {"rope_scaling": {"type": "yarn", "factor": 4.0}},
    {"rope_scaling": YARN | {"finetuned": True}},
    {"rope_scaling": YARN | {"original_max_position_embeddings": 128}},
    {"rope_scaling": YARN, "original_max_position_embeddings": 256},
    {"rope_scaling": YARN | {"factor": None, "original_max_position_embeddings": 256}},
    {"rope_scaling": YARN | {"factor": 0.5}},
    {"rope_scaling": YARN | {"beta_fast": 16, "beta_slow": 2.0}},
    {"rope_scaling": YARN | {"beta_fast": 0, "beta_slow": None}},
    {"rope_scaling": YARN | {"attention_factor": 1.25}},
    {"rope_scaling": YARN | {"mscale": 0.707, "mscale_all_dim": 1.2}},
    {"rope_scaling": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}},
    {"rope_scaling": YARN | {"mscale": 0.707}},
    {"rope_scaling": YARN | {"mscale": 0.707, "mscale_all_dim": 1.2, "attention_factor": 0.9}},
    {"rope_scaling": YARN | {"truncate": False}},
    {"rope_scaling": YARN | {"truncate": True, "partial_rotary_factor": 1.0}},
    {"rope_scaling": YARN, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}},
]

# What is added to a GGUF file without scaling, after `{architecture}.rope.`: 64 dimensions, a base of 10,000, 1,024 positions.
GYARN = {"scaling.type": "yarn", "scaling.factor": 4.0, "scaling.original_context_length": 4096}
GGUF = [
    {},
    {"scaling.factor": 4.0},
    {"scale_linear": 2.0},
    {"scale_linear": 2.0, "scaling.factor": 4.0},
    {"scale_linear": 2.0, "scaling.factor": 0.0},
    {"scaling.type": "linear"},
    {"scaling.type": "linear", "scaling.factor": 2.5},
    {"scaling.type": "linear", "scale_linear": 2.5, "scaling.finetuned": True},
    {"scaling.type": "none", "scaling.factor": 4.0},
    {"scaling.attn_factor": 0.8},
    {"scaling.type": "none", "scaling.attn_factor": 0.8},
    {"scaling.factor": 4.0, "scaling.attn_factor": 1.5},
    GYARN,
    GYARN | {"scaling.attn_factor": 1.0},
    GYARN | {"scaling.attn_factor": 1.1386294},
    GYARN | {"scaling.attn_factor": 0.9},
    GYARN | {"scaling.original_context_length": 128},
    {"scaling.type": "yarn", "scaling.factor": 4.0},
    {"scaling.type": "yarn", "scale_linear": 4.0},
    GYARN | {"scaling.factor": 0.5},
    GYARN | {"scaling.yarn_beta_fast": 16.0, "scaling.yarn_beta_slow": 2.0},
    GYARN | {"scaling.yarn_ext_factor": 1.0, "scaling.yarn_attn_factor": 1.0, "scaling.yarn_log_multiplier": 0.0},
    GYARN | {"scaling.yarn_attn_factor": 1.1386294},
    {"scaling.factor": 4.0, "scaling.yarn_ext_factor": 0.5, "scaling.yarn_log_multiplier": 0.1},
]


def of_json(changes):
    config = json.loads((ROOT / "tiny" / "llama" / "model" / "config.json").read_text())
    config |= changes
    config = {name: value for name, value in config.items() if value is not None}
    rotary = LlamaRotaryEmbedding(LlamaConfig.from_dict(json.loads(json.dumps(config))))
    return rotary.inv_freq.double().tolist(), float(rotary.attention_scaling)


def of_gguf(keys, dims=64, base=10000.0, context=1024):
    kind = keys.get("scaling.type", "linear")
    factor = keys.get("scaling.factor", keys.get("scale_linear", 0.0)) or 1.0
    if kind == "none":
        factor = 1.0
    yarn = kind == "yarn"
    # The context's part of the magnitude, which cancels what every rotation then multiplies by.
    attention = 1.0
    if yarn:
        attention = (1.0 if factor <= 1 else 0.1 * math.log(factor) + 1) / (1 + 0.1 * math.log(factor))
    attention *= keys.get("scaling.attn_factor", 1.0)
    magnitude = attention * (1 + 0.1 * math.log(factor)) if yarn else attention
    original = keys.get("scaling.original_context_length", context)

    def pair(turns):
        return dims * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

    low = max(0, math.floor(pair(keys.get("scaling.yarn_beta_fast", 32.0))))
    high = min(dims - 1, math.ceil(pair(keys.get("scaling.yarn_beta_slow", 1.0))))
    frequencies = []
    for i in range(dims // 2):
        plain = base ** (-2 * i / dims)
        kept = 1 - min(1, max(0, (i - low) / max(0.001, high - low))) if yarn else 0
        frequencies.append(plain / factor * (1 - kept) + plain * kept)
    return frequencies, magnitude


def case(changes, found):
    frequencies, magnitude = found
    return {"keys": changes, "frequencies": [float(f"{f:.9g}") for f in frequencies], "magnitude": float(f"{magnitude:.9g}")}


def main():
    cases = {"source": f"transformers {version('transformers')}, tools/goldens/rope.py",
             "json": [case(changes, of_json(changes)) for changes in JSON],
             "gguf": [case(keys, of_gguf(keys)) for keys in GGUF]}
    lines = [f'"source": {json.dumps(cases["source"])}']
    for name in ("json", "gguf"):
        lines.append(f'"{name}": [\n' + ",\n".join(json.dumps(c) for c in cases[name]) + "\n]")
    (ROOT / "rope.json").write_text("{" + ",\n".join(lines) + "}\n")


if __name__ == "__main__":
    main()
