#!/usr/bin/env python3
"""Writes tests/goldens/smollm2.json: what the reference engine computes for SmolLM2-135M-Instruct.

The reference is transformers in float32 on the dequantised weights; see README.md beside this file.
"""

import argparse
import hashlib
import json
import math
import platform
from importlib.metadata import version
from pathlib import Path

import gguf
import numpy as np
import tokenizers
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, DynamicCache

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / ".models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
TEXT = ROOT / "demo" / "britannica-1911-shakespeare.txt"
OUT = ROOT / "tests" / "goldens" / "smollm2.json"

STEPS = 64
# A smaller gap than this between the two best logits could be another engine's rounding: such a prompt is no golden.
MIN_GAP = 0.02


def load_tokenizer(path):
    """Byte-level BPE from the GGUF's vocabulary. transformers' own GGUF loader drops the split of digits."""
    fields = gguf.GGUFReader(path).fields
    value = lambda name: fields[f"tokenizer.ggml.{name}"].contents()
    tokens, merges, types = value("tokens"), value("merges"), value("token_type")
    bpe = models.BPE(vocab={s: i for i, s in enumerate(tokens)}, merges=[tuple(m.split(" ", 1)) for m in merges])
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    control = [s for s, kind in zip(tokens, types) if kind == gguf.TokenType.CONTROL]
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in control])
    return tokenizer


def load_model(path):
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    # RoPE's frequencies must be the f32 ones, neither rounded to a narrower type nor rescaled.
    want = 1.0 / 100000.0 ** (torch.arange(0, 64, 2, dtype=torch.float32) / 64)
    assert torch.equal(model.model.rotary_emb.inv_freq, want)
    return model


class F16Cache(DynamicCache):
    """A cache that holds K (after RoPE) and V as f16, the attention arithmetic staying f32."""

    def update(self, k, v, *args, **kwargs):
        return super().update(k.half().float(), v.half().float(), *args, **kwargs)


def forward(model, ids, cache=None):
    """Logits at every position, [len(ids), vocabulary]."""
    with torch.no_grad():
        return model(torch.tensor([ids]), past_key_values=cache, use_cache=cache is not None).logits[0]


def f32(x):
    """A float as JSON prints it shortest without losing the f32."""
    return float(str(np.float32(x)))


def f32s(xs):
    return [f32(x) for x in xs]


def top_two(logits):
    """The best id, its logit, and how far the second is behind."""
    best = logits.topk(2)
    return best.indices[..., 0], best.values[..., 0], best.values[..., 0] - best.values[..., 1]


def greedy(model, ids, steps=STEPS):
    """Greedy continuation that does not stop at end-of-sequence: ids, and the gap at each step."""
    out, gaps, cache, fed = [], [], DynamicCache(), ids
    for _ in range(steps):
        best, _, gap = top_two(forward(model, fed, cache)[-1])
        out.append(best.item())
        gaps.append(f32(gap))
        fed = [best.item()]
    return out, gaps


def chat(user):
    """The model's own template, written out."""
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    return (f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n"
            "<|im_start|>assistant\n")


def prompts(paragraphs):
    """Chosen among several of each kind for their gaps: see MIN_GAP. The first runs past its end-of-sequence."""
    repeat = "Repeat the text above word for word."
    return {
        "question": "What is the capital of France?",
        "passage": f"{paragraphs[4]}\n\n{repeat}",
        "excerpt": f"{paragraphs[9]}\n\n{repeat}",
    }


def golden_greedy(model, encode, decode, paragraphs):
    cases = []
    for name, user in prompts(paragraphs).items():
        text = chat(user)
        ids = encode(text)
        out, gaps = greedy(model, ids)
        print(f"greedy {name}: {len(ids)} tokens, smallest gap {min(gaps)}: {decode(out)!r}", flush=True)
        assert min(gaps) > MIN_GAP, f"{name} has a near tie: choose another prompt"
        # The same continuation must come out of an f16 cache; fed as one piece, which also checks the f32 cache path.
        best, _, f16_gaps = top_two(forward(model, ids + out, F16Cache())[len(ids) - 1:-1])
        assert best.tolist() == out, f"{name} depends on the cache's type: choose another prompt"
        cases.append({"name": name, "text": text, "prompt": ids, "continuation": out, "gap": gaps,
                      "min_gap": min(gaps), "min_gap_f16_cache": f32(f16_gaps.min()), "decoded": decode(out)})
    return cases


def golden_positions(ids, logits):
    best, value, gap = top_two(logits)
    return {"ids": ids, "top1": best.tolist(), "top1_logit": f32s(value), "gap": f32s(gap),
            "logsumexp": f32s(logits.double().logsumexp(-1))}


def golden_logits(ids, logits):
    positions = list(range(3, len(ids), 4))
    # 193 is odd, so that the ids fall on every lane of any power-of-two tiling of the rows.
    vocabulary = [i * 193 % logits.shape[1] for i in range(256)]
    rows = logits[positions]
    return {"ids": ids, "positions": positions, "vocabulary": vocabulary,
            "logits": [f32s(row) for row in rows[:, vocabulary]],
            "max_abs": f32s(rows.abs().amax(-1)), "std": f32s(rows.double().std(-1, unbiased=False))}


def nll(logits, ids, first):
    """Mean negative log-likelihood of ids[first..], each given all before it."""
    loss = torch.nn.functional.cross_entropy(logits[first - 1:-1], torch.tensor(ids[first:]), reduction="none")
    return loss.double().mean().item()


def golden_f16(model, ids, logits):
    """What rounding the cached K and V to f16 does to the logits: the unit of the tests' tolerance."""
    rounded = forward(model, ids, F16Cache())
    delta = (rounded - logits).double()
    of_rows = delta.abs().amax(-1)
    gap = top_two(logits)[2]
    flipped = rounded.argmax(-1) != logits.argmax(-1)
    return {"tokens": len(ids), "max_abs": delta.abs().max().item(), "rms": delta.square().mean().sqrt().item(),
            "median_row_max_abs": of_rows.median().item(),
            "max_abs_over_std": (of_rows / logits.double().std(-1)).max().item(),
            "top1_changed": int(flipped.sum()),
            "largest_gap_changed": f32(gap[flipped].max()) if flipped.any() else 0.0,
            "max_abs_logsumexp": (rounded.double().logsumexp(-1) - logits.double().logsumexp(-1)).abs().max().item()}


def golden_perplexity(model, ids):
    first = len(ids) // 2
    score = lambda cache: math.exp(nll(forward(model, ids, cache), ids, first))
    return {"ids": ids, "first_scored": first, "f32": score(None), "f16_cache": score(F16Cache())}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--threads", type=int, default=1, help="the sums' order, hence the last bits, depend on it")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    tokenizer, model = load_tokenizer(args.model), load_model(args.model)
    encode = lambda s: tokenizer.encode(s, add_special_tokens=False).ids
    text = TEXT.read_text(encoding="utf-8")
    ids = encode(text)
    short, long = forward(model, ids[:64]), forward(model, ids[:1024])

    golden = {
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "gguf": version("gguf"),
                     "transformers": transformers.__version__, "tokenizers": tokenizers.__version__},
        "model": {"file": args.model.name, "sha256": hashlib.sha256(args.model.read_bytes()).hexdigest()},
        "text": {"file": TEXT.name, "sha256": hashlib.sha256(text.encode()).hexdigest(), "tokens": len(ids)},
        "greedy": golden_greedy(model, encode, lambda ids: tokenizer.decode(ids, skip_special_tokens=False),
                                text.split("\n\n")),
        "positions": golden_positions(ids[:1024], long),
        "logits": golden_logits(ids[:64], short),
        "f16_cache": [golden_f16(model, ids[:64], short), golden_f16(model, ids[:1024], long)],
        "perplexity": golden_perplexity(model, ids[:4096]),
    }
    print("f16_cache", json.dumps(golden["f16_cache"], indent=1))
    print("perplexity", golden["perplexity"]["f32"], golden["perplexity"]["f16_cache"])
    OUT.parent.mkdir(parents=True, exist_ok=True)
    # One line a top-level key: small, and a change shows which golden moved.
    body = ",\n".join(f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in golden.items())
    OUT.write_text("{\n" + body + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
