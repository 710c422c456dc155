"""Checkpoints that are whole or not there: model, optimiser, step and random state, in one file or in pieces below a size."""

import hashlib
import io
import json
import os
from pathlib import Path

import torch


def write(path, data):
    temporary = path.with_name(path.name + ".new")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def save(folder, state, small=False, piece=15 << 20):
    """`small`: matrices in bfloat16 and without their momentum, which a resumed training makes up for in a few slow steps. The manifest
    comes last, so that what it names is there; pieces of the checkpoint before stay until then."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if small:
        halved = {k: v.to(torch.bfloat16) if v.ndim >= 2 else v for k, v in state["model"].items()}
        momentum = {k: v for k, v in state["optimizer"]["m"].items() if k in state["optimizer"]["v"]}
        state = state | {"model": halved, "optimizer": state["optimizer"] | {"m": momentum}}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    old = json.loads((folder / "checkpoint.json").read_text())["pieces"] if (folder / "checkpoint.json").exists() else []
    turn = "b" if old and old[0].startswith("checkpoint.a") else "a"
    pieces = [f"checkpoint.{turn}{i}" for i in range(-(-len(data) // piece))]
    for i, name in enumerate(pieces):
        write(folder / name, data[i * piece:(i + 1) * piece])
    manifest = {"step": state["step"], "stage": state["stage"], "pieces": pieces, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    write(folder / "checkpoint.json", json.dumps(manifest).encode())
    for name in set(old) - set(pieces):
        (folder / name).unlink(missing_ok=True)


def load(folder, device="cpu"):
    """The state, or None where there is none."""
    folder = Path(folder)
    if not (folder / "checkpoint.json").exists():
        return None
    manifest = json.loads((folder / "checkpoint.json").read_text())
    data = b"".join((folder / name).read_bytes() for name in manifest["pieces"])
    assert hashlib.sha256(data).hexdigest() == manifest["sha256"], f"{folder}: the checkpoint is damaged"
    return torch.load(io.BytesIO(data), map_location=device, weights_only=True)
