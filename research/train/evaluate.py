#!/usr/bin/env python3
"""Retrieval with dense attention, by task and length: prompts as `asynctls eval retrieval` words them, greedy answers with a KV cache.

    python research/train/evaluate.py runs/qwen3 --texts texts --lengths 4096,32768,131072 --samples 40 --out accuracy.json

Texts are the held-out ones. RULER's score: the share of the numbers (or names) asked for that the answer contains."""

import argparse
import json
import random
import time

import torch
import torch.nn.functional as F

import checkpoint
import data
from model import Model, shape_of
from texts_read import Library

ANSWER = {"chain": 30}


class Decoder:
    """A cache of `rows` sequences of any lengths up to `room`."""

    def __init__(self, model, rows, room, device="cpu"):
        s = model.shape
        self.model, self.room = model, room
        size = (s.layers, rows, getattr(s, "kv_heads", s.heads), room, s.head_dim)
        self.k, self.v = (torch.zeros(size, dtype=model.compute, device=device) for _ in range(2))
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)

    @torch.no_grad()
    def prefill(self, row, tokens):
        """The most likely token behind these."""
        def keep(i, k, v):
            self.k[i, row, :, :len(tokens)] = k.transpose(0, 1)
            self.v[i, row, :, :len(tokens)] = v.transpose(0, 1)
        x = self.model.hidden(tokens[None], keep)
        self.lengths[row] = len(tokens)
        return self.model.logits(x[-1:])[0].argmax()

    @torch.no_grad()
    def step(self, tokens):
        """Appends a token to every row; the logits behind it."""
        m, rows = self.model, torch.arange(len(tokens), device=tokens.device)
        cos, sin = m.angles(self.lengths)
        x = F.embedding(tokens, m.w("model.embed_tokens.weight")).float()
        longest = int(self.lengths.max()) + 1
        mask = (torch.arange(longest, device=tokens.device) <= self.lengths[:, None])[:, None, None]
        for i in range(m.shape.layers):
            q, k, v = m.heads(i, x, cos, sin)
            self.k[i, rows, :, self.lengths], self.v[i, rows, :, self.lengths] = k, v
            keys, values = self.k[i, :, :, :longest], self.v[i, :, :, :longest]
            # A group's queries are rows of one matrix.
            q = q.unflatten(1, (keys.shape[1], -1))
            x = m.rest(i, x, F.scaled_dot_product_attention(q, keys, values, attn_mask=mask).flatten(1))
        self.lengths += 1
        return m.logits(x)


def prompts(task, length, samples, seed, library):
    for i in range(samples):
        rng = random.Random(f"evaluation {seed} {task} {length} {i}")
        parts = data.asked_alone(rng, task, length - 8, library)
        answer = parts.bytes[-2].decode()
        tokens, kinds = parts.arrays(length)
        begin = int((kinds == data.KIND[task]).argmax())
        wanted = answer.strip(" .\0").replace(": ", ", ").replace(" ", ", " if task == "chain" else " ").split(", ")
        if task == "multiquery":
            wanted = wanted[1::2]
        yield torch.from_numpy(tokens[:begin]).long(), wanted


@torch.no_grad()
def evaluate(model, task, length, samples, seed, library, device, rows):
    scores, example = [], None
    made = list(prompts(task, length, samples, seed, library))
    for first in range(0, samples, rows):
        some = made[first:first + rows]
        decoder = Decoder(model, len(some), length + 128, device)
        token = torch.stack([decoder.prefill(i, prompt.to(device)) for i, (prompt, _) in enumerate(some)])
        out = [token]
        for _ in range(ANSWER.get(task, 128) - 1):
            if all(data.END in ids for ids in torch.stack(out, 1).tolist()):
                break
            token = decoder.step(token).argmax(-1)
            out.append(token)
        for ids, (_, wanted) in zip(torch.stack(out, 1).tolist(), some):
            ids = ids[:ids.index(data.END)] if data.END in ids else ids
            answer = bytes(i for i in ids if i < 256).decode("utf-8", "replace")
            scores.append(sum(one in answer for one in wanted) / len(wanted))
            example = example or (answer, wanted)
        del decoder
    return scores, example


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--texts", required=True)
    parser.add_argument("--lengths", default="4096,32768,131072")
    parser.add_argument("--tasks", default=",".join(data.NEEDLES))
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--out")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() and not args.cpu else "cpu"
    state = checkpoint.load(args.checkpoint, device)
    model = Model(shape_of(state["shape"]), compute=torch.bfloat16 if device == "cuda" else torch.float32).to(device)
    with torch.no_grad():
        for name, tensor in (dict(model.named()) | dict(model.named_buffers())).items():
            tensor.copy_(state["model"][name])
    library = Library(args.texts, held_out=device == "cuda" or "demo" not in args.texts)
    table, began = [], time.time()
    for length in map(int, args.lengths.split(",")):
        rows = max(1, min(args.samples, (16 if model.shape.kind == "qwen3" else 4) * 131072 // length))
        for task in args.tasks.split(","):
            if time.time() - began > 60 * args.minutes:
                break
            scores, example = evaluate(model, task, length, args.samples, args.seed, library, device, rows)
            table.append({"step": state["step"], "task": task, "length": length, "samples": len(scores), "score": round(sum(scores) / len(scores), 4),
                          "whole": round(sum(s == 1 for s in scores) / len(scores), 4)})
            print(*table[-1].values(), str(example)[:300], f"{time.time() - began:.0f} s", flush=True)
            if args.out:
                with open(args.out, "w") as file:
                    json.dump(table, file, indent=1)
                    file.write("\n")


if __name__ == "__main__":
    main()
