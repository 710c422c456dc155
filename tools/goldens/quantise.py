"""Writes tests/goldens/quantise.json: weights and the blocks that PyPI `gguf` makes of them.

    pip install gguf==0.19.0 numpy
    python tools/goldens/quantise.py

All are little-endian bytes in hexadecimal. Weights whose scale has no finite reciprocal are left out: what becomes of them
there depends on the processor.
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.quants import quantize

OUTPUT = Path(__file__).parents[2] / "tests" / "goldens" / "quantise.json"


def blocks():
    random = np.random.default_rng(11)
    steps = np.arange(32, dtype=np.float32)
    # Zeros of both signs: the first one's sign is Q4_0's scale's.
    yield np.zeros(32)
    yield np.full(32, -0.0)
    yield np.where(steps % 2 == 0, -0.0, 0.0)
    # Exact scales with every weight halfway between two integers; the next floats below and above halfway.
    for largest in (127.0, -127.0):
        halves = np.where(steps == 5, largest, (steps - 16) * 4 + 0.5).astype(np.float32)
        yield halves
        yield np.nextafter(halves, np.float32(0))
        yield np.nextafter(halves, np.float32(np.inf))
    for largest in (8.0, -8.0):
        yield np.where(steps == 31, largest, (steps - 16) / 2 + 0.25)
        yield np.where(steps == 31, largest, (steps - 16) / 2)
    # The largest twice, with either sign first.
    yield np.where(steps == 7, 3.0, np.where(steps == 21, -3.0, steps / 16))
    yield np.where(steps == 7, -3.0, np.where(steps == 21, 3.0, steps / 16))
    # One weight only; scales that are zero, subnormal, the largest in half precision.
    yield np.where(steps == 0, 1.0, 0.0)
    for size in (1e-30, 1e-8, 3e-5, 65504 * 8.0):
        yield random.uniform(-size, size, 32)
    for size in (1e-3, 0.02, 1.0, 50.0):
        for _ in range(6):
            yield random.normal(0, size, 32)


def main():
    weights = np.stack([np.asarray(block, np.float32) for block in blocks()])
    golden = {
        "source": f"gguf {version('gguf')} from PyPI, tools/goldens/quantise.py",
        "weights": weights.astype("<f4").tobytes().hex(),
    }
    for kind in (Type.Q8_0, Type.Q4_0):
        golden[kind.name] = quantize(weights, kind).tobytes().hex()
    OUTPUT.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
