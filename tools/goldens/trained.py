#!/usr/bin/env python3
"""Writes tests/goldens/NAME.safetensors: what the reference engine computes for the trained models of research/models.

    python tools/goldens/trained.py               # a minute a model on one core
    python tools/goldens/trained.py qwen3-long    # one of them
    python tools/goldens/trained.py --check       # compares with what is there, and writes nothing
"""

import argparse
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from tiny.reference import F16Cache, Reference

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("qwen3-long", "glm-long")
TEXT = ROOT / "demo" / "britannica-1911-shakespeare.txt"
# Tokens of the text, which are its bytes, and from which position to which logits are kept.
TOKENS, EVERY = 320, 5


def f32(values):
    return np.asarray(values, dtype=np.float32)


def golden(name, check):
    model, out = ROOT / "research" / "models" / name, ROOT / "tests" / "goldens" / f"{name}.safetensors"
    ids = list(TEXT.read_bytes()[:TOKENS])
    reference = Reference(model)
    logits = reference.logits(ids)
    rounded = reference.logits(ids, F16Cache())
    reference.close()
    plain = Reference(model, wide=False)
    positions = range(EVERY - 1, TOKENS, EVERY)
    tensors = {
        "ids": np.array(ids, np.uint32),
        "positions": np.array(positions, np.uint32),
        "logits": f32(logits[list(positions)]),
        "logits_f16_cache": f32(rounded[list(positions)]),
        "f16_cache_error": f32([(rounded - logits).abs().max().item()]),
        # What float32 arithmetic adds where both caches are f16: keys and values that round apart.
        "f32_error": f32([(plain.logits(ids, F16Cache()) - rounded).abs().max().item()]),
    }
    losses = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]))
    print(f"{name}: largest logit {logits.abs().max():.2f}, f16 cache {tensors['f16_cache_error'][0]:.5f}, f32 {tensors['f32_error'][0]:.5f}, perplexity of a byte {losses.exp():.3f}")
    if check:
        there = load_file(out)
        assert there.keys() == tensors.keys()
        for key, values in tensors.items():
            assert np.abs(there[key].astype(np.float64) - values).max() < 1e-5, f"{name}: {key}"
        return print(f"{name}: as it should be")
    save_file(tensors, out, {"source": f"transformers {version('transformers')}, torch {version('torch')}, tools/goldens/trained.py"})
    print(out, out.stat().st_size, "bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS, help="their names; all of them unless some are given")
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.models:
        golden(name, args.check)


if __name__ == "__main__":
    main()
