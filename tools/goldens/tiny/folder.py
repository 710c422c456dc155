"""A published-style folder: safetensors in one file or in shards with an index, config.json, generation_config.json."""

import json

import torch
from safetensors.torch import save_file

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def stored(name, weights, dtype):
    """The router's bias stays f32, as in published checkpoints."""
    out = weights if name.endswith("e_score_correction_bias") else weights.to(dtype)
    assert torch.equal(out.float(), weights), f"{name} is not exact in {dtype}"
    return out.contiguous()


def write_folder(path, model, tensors, folder_type):
    """Writes the checkpoint `tensors` (f32, by name) as `folder_type` into the new folder `path`."""
    path.mkdir(parents=True)
    tensors = {name: stored(name, weights, DTYPES[folder_type]) for name, weights in tensors.items()}
    write_json(path / "config.json", model.config)
    write_json(path / "generation_config.json", model.generation)
    if model.same_config:
        write_json(path / "config.other-style.json", model.same_config)
    if model.shards == 1:
        save_file(tensors, path / "model.safetensors", {"format": "pt"})
        return
    names, weight_map = list(tensors), {}
    for i in range(model.shards):
        # Cuts fall inside layers, as they do in published shards.
        part = names[i * len(names) // model.shards:(i + 1) * len(names) // model.shards]
        file = f"model-{i + 1:05}-of-{model.shards:05}.safetensors"
        save_file({name: tensors[name] for name in part}, path / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    size = sum(t.nbytes for t in tensors.values())
    write_json(path / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": weight_map})
