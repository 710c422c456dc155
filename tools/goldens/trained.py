#!/usr/bin/env python3
"""Writes tests/goldens/qwen3-long.safetensors: what the reference engine computes for the trained model that is committed.

    python tools/goldens/trained.py            # a minute on one core
    python tools/goldens/trained.py --check    # compares with what is there, and writes nothing
"""

import argparse
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from tiny.reference import F16Cache, Reference

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "research" / "models" / "qwen3-long"
TEXT = ROOT / "demo" / "britannica-1911-shakespeare.txt"
OUT = ROOT / "tests" / "goldens" / "qwen3-long.safetensors"
# Tokens of the text, which are its bytes, and from which position to which logits are kept.
TOKENS, EVERY = 320, 5


def f32(values):
    return np.asarray(values, dtype=np.float32)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    ids = list(TEXT.read_bytes()[:TOKENS])
    reference = Reference(MODEL)
    logits = reference.logits(ids)
    rounded = reference.logits(ids, F16Cache())
    reference.close()
    plain = Reference(MODEL, wide=False)
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
    print(f"largest logit {logits.abs().max():.2f}, f16 cache {tensors['f16_cache_error'][0]:.5f}, f32 {tensors['f32_error'][0]:.5f}, perplexity of a byte {losses.exp():.3f}")
    if args.check:
        there = load_file(OUT)
        assert there.keys() == tensors.keys()
        for name, values in tensors.items():
            assert np.abs(there[name].astype(np.float64) - values).max() < 1e-5, name
        return print("as it should be")
    save_file(tensors, OUT, {"source": f"transformers {version('transformers')}, torch {version('torch')}, tools/goldens/trained.py"})
    print(OUT, OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
