#!/usr/bin/env python3
"""Writes config.transformers-5.json beside the folder of each tiny model: what transformers 5 writes when it saves the model.

Its tensors are compared with the folder's: the same names, shapes and numbers, so that the weights need no second copy.

    python tools/goldens/saved_configs.py
"""

import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file

TINY = Path(__file__).resolve().parents[2] / "tests" / "goldens" / "tiny"


def tensors(folder):
    found = {}
    for file in folder.glob("*.safetensors"):
        found |= load_file(file)
    return found


def main():
    transformers.utils.logging.disable_progress_bar()
    for folder in sorted(TINY.glob("*/model")):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
        with tempfile.TemporaryDirectory() as scratch:
            model.save_pretrained(scratch)
            before, after = tensors(folder), tensors(Path(scratch))
            # The multi-token-prediction layer is left out.
            extra = f"model.layers.{model.config.num_hidden_layers}."
            assert {name for name in before if not name.startswith(extra)} == after.keys(), folder
            assert all(torch.equal(before[name].float(), after[name].float()) for name in after), folder
            (folder.parent / "config.transformers-5.json").write_bytes((Path(scratch) / "config.json").read_bytes())


if __name__ == "__main__":
    main()
