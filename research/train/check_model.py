#!/usr/bin/env python3
"""Compares the models with transformers' on a CPU, at a tiny size and with random weights: the same folder, the same logits. Also that a
cache gives what the whole sequence gives, and that the tokenizer's ids are bytes.

    python research/train/check_model.py
"""

import random
import tempfile

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import export
from evaluate import Decoder
from model import Model
from presets import PRESETS


def randomise(model):
    """Weights that training could have made: no zeros, norms that differ, experts that are favoured."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named().items():
            p.copy_(torch.randn(p.shape, generator=generator) * (0.2 if p.ndim > 1 else 0.1) + (1.0 if p.ndim == 1 else 0.0))
        for _, p in model.named_buffers():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.1)


def main():
    torch.set_num_threads(1)
    for preset in ("tiny", "tiny-glm"):
        model = Model(PRESETS[preset].shape)
        randomise(model)
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            export.write(folder, model.shape, dict(model.named()) | dict(model.named_buffers()), 512, torch.float32)
            theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
            tokens = torch.randint(0, 256, (2, 200), generator=torch.Generator().manual_seed(2))
            ours = model.logits(model.hidden(tokens)).unflatten(0, (2, -1))
            other = theirs(tokens).logits
            error = (ours - other).abs().max().item()
            print(f"{preset}: largest difference {error:.1e}, standard deviation {other.std():.2f}")
            assert error < 2e-4 * other.std()
            # Rows of unlike lengths, prefilled apart, then decoded together.
            decoder = Decoder(model, 2, 220)
            rows = [tokens[0, :150], tokens[1, :90]]
            next_ids = [decoder.prefill(i, row) for i, row in enumerate(rows)]
            for row, got in zip(rows, next_ids):
                whole = model.logits(model.hidden(row[None]))[-1]
                assert got == whole.argmax()
            more = [tokens[0, 150:160], tokens[1, 90:100]]
            for step in range(10):
                logits = decoder.step(torch.stack([row[step] for row in more]))
            for i, row in enumerate(rows):
                whole = model.logits(model.hidden(torch.cat((row, more[i]))[None]))[-1]
                assert (whole - logits[i]).abs().max() < 2e-4 * other.std(), "the cache"
            text = "".join(random.Random(0).choices("abc XYZ.\n019-é", k=300))
            tokenizer = AutoTokenizer.from_pretrained(folder)
            assert tokenizer(text)["input_ids"] == list(text.encode()) and tokenizer.decode(tokenizer(text)["input_ids"]) == text
    print("as it should be")


if __name__ == "__main__":
    main()
