#!/usr/bin/env python3
"""Writes tests/goldens/tiny/: small random models of every architecture and what the reference engine computes for them.

The reference is transformers in float64; see README.md beside this file.

    python tools/goldens/tiny_models.py            # all of them, or those named
    python tools/goldens/tiny_models.py --check    # only compares each GGUF with its folder and the golden with both
"""

import argparse
import random
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file

from tiny.blocks import quantise
from tiny.check import check, check_same_config, folder_weights
from tiny.configs import MODELS
from tiny.folder import write_folder
from tiny.reference import Reference, try_prompt
from tiny.to_gguf import write_gguf
from tiny.weights import draw_weights

OUT = Path(__file__).resolve().parents[2] / "tests" / "goldens" / "tiny"
PROMPT = 128
# The least lead of a greedy id over the second, in standard deviations of the logits, and the least gap between the last
# expert chosen and the next, which the prompt's ids can be drawn for: other engines' rounding is well below all of them.
MIN_LEAD, MIN_ROUTER_GAP, MIN_PROMPT_ROUTER_GAP = 0.025, 5e-4, 2e-3
MAX_BYTES = 2_000_000


def find_prompt(reference, model):
    """The first random prompt that makes a golden: see `try_prompt`."""
    eos = model.generation["eos_token_id"]
    ordinary = [i for i in range(model.config["vocab_size"]) if i not in eos]
    for seed in range(500):
        ids = reference.random_prompt(random.Random(seed), ordinary, PROMPT, MIN_PROMPT_ROUTER_GAP)
        if golden := try_prompt(reference, ids, eos, MIN_LEAD, MIN_ROUTER_GAP):
            return seed, golden
    raise SystemExit(f"{model.name}: no prompt makes a golden; choose other weights")


def f32(values):
    return np.asarray(values, dtype=np.float32)


def make_golden(model, folder):
    """The tensors of golden.safetensors, and what is worth printing."""
    reference = Reference(folder)
    seed, golden = find_prompt(reference, model)
    tensors = {
        "ids": np.array(golden.ids, np.uint32),
        "logits": f32(golden.logits),
        "greedy": np.array(golden.greedy, np.uint32),
        "greedy_lead": f32(golden.leads),
        "logit_std": f32([golden.spread]),
        "f16_cache_error": f32([(golden.f16_logits - golden.logits).abs().max().item()]),
    }
    notes = {"prompt": seed, "lead": min(golden.leads) / golden.spread, "std": golden.spread, "f16": (golden.f16_logits - golden.logits).abs().max().item(),
             "distinct": len(set(golden.greedy)), "attention": [round(x, 2) for x in reference.sharpness(golden.ids)]}
    if golden.router_gap < float("inf"):
        notes["router_gap"] = golden.router_gap
        tensors["router_gap"] = f32([golden.router_gap])
    if model.config["model_type"] != "glm4_moe_lite":
        # Latent attention rounds other numbers here than there, so that only the sizes of its errors can be compared.
        tensors["logits_f16_cache"] = f32(golden.f16_logits)
    else:
        reference.set_latent_eps(model.config["rms_norm_eps"])
        other, _, _ = reference.routed(golden.ids)
        tensors["logits_config_eps"] = f32(other)
        notes["eps"] = (other - golden.logits).abs().max().item()
    reference.close()
    plain = Reference(folder, wide=False)
    error = (plain.logits(golden.ids) - golden.logits).abs().max().item()
    tensors["f32_error"] = f32([error])
    return tensors, notes | {"f32": error}


def make(model, seed, scratch):
    path = OUT / model.name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    tensors, blocks = draw_weights(model.config, seed), {}
    arrays = {name: weights.numpy() for name, weights in tensors.items()}
    if model.folder:
        folder = path / "model"
        write_folder(folder, model, tensors, model.folder)
    else:
        blocks, arrays = quantise(tensors, seed)
        folder = scratch / model.name
        write_folder(folder, model, {name: torch.from_numpy(weights) for name, weights in arrays.items()}, "F32")
    if model.gguf:
        write_gguf(path / "model.gguf", model, arrays, blocks)
    golden, notes = make_golden(model, folder)
    source = f"transformers {version('transformers')}, torch {version('torch')}, tools/goldens/tiny_models.py"
    save_file(golden, path / "golden.safetensors", {"source": source})
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert size < MAX_BYTES, f"{model.name}: {size} bytes"
    print(model.name, f"{size / 1e6:.2f} MB", notes, flush=True)


def check_model(model, scratch):
    """The GGUF against the folder, and the golden against what transformers makes of the GGUF's weights, or the folder's."""
    path, folder = OUT / model.name, scratch / f"{model.name}-check"
    inv_freq = None
    if model.folder:
        inv_freq = Reference(path / "model", wide=False).model.model.rotary_emb.inv_freq.numpy()
    if model.same_config:
        check_same_config(model)
    found = check(model, path, inv_freq) if model.gguf else folder_weights(path / "model")
    write_folder(folder, model, {name: torch.from_numpy(weights) for name, weights in found.items()}, "F32")
    golden = load_file(path / "golden.safetensors")
    reference = Reference(folder)
    logits = reference.logits(golden["ids"].tolist())
    greedy, _ = reference.greedy(golden["ids"].tolist())
    reference.close()
    assert np.abs(f32(logits) - golden["logits"]).max() < 1e-6, f"{model.name}: logits"
    assert greedy == golden["greedy"].tolist(), f"{model.name}: greedy"
    print(model.name, "as it should be")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("names", nargs="*", help="only these models")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    unknown = set(args.names) - {model.name for model in MODELS}
    assert not unknown, f"no such model: {unknown}"
    with tempfile.TemporaryDirectory() as scratch:
        for seed, model in enumerate(MODELS):
            if args.names and model.name not in args.names:
                continue
            if not args.check:
                make(model, seed, Path(scratch))
            check_model(model, Path(scratch))


if __name__ == "__main__":
    main()
