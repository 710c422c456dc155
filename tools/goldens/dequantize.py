"""Writes tests/goldens/dequantize.json: stored weights and what PyPI `gguf` makes of them.

    pip install gguf==0.19.0 numpy
    python tools/goldens/dequantize.py

Both sides are little-endian bytes in hexadecimal, so that nothing is lost in printing. No infinite or undefined scale is
used: the sign of the NaN that arithmetic makes of it differs between processors.
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize

OUTPUT = Path(__file__).parents[2] / "tests" / "goldens" / "dequantize.json"

# Halves: 0, -0, 1, -1, a common scale, the smallest and largest subnormal, the smallest normal, the largest number.
SCALES = [0x0000, 0x8000, 0x3C00, 0xBC00, 0x2A66, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0xFBFF]
MINIMA = [0x8000, 0x8000, 0x0000, 0x3555, 0xB0A3, 0x8001, 0x03FF, 0x8400, 0xFBFF, 0x7BFF]

# Blocks of 256 weights are large: a common scale (whose random bytes are extreme), a negative one, extremes of both kinds.
K_SCALES = [0x2A66, 0xBC00, 0x0001, 0x7BFF]
K_PAIRS = [[0x2A66, 0xB0A3], [0xBC00, 0x3555], [0x0001, 0x8001], [0x7BFF, 0x7BFF]]

# For plain numbers also infinities and a quiet NaN, which widen the same way everywhere.
HALVES = SCALES + [0x7C00, 0xFC00, 0x7E00]
BFLOATS = [0x0000, 0x8000, 0x3F80, 0xBF80, 0x3DCD, 0x0001, 0x807F, 0x0080, 0x7F7F, 0xFF7F, 0x7F80, 0xFF80, 0x7FC0]
FLOATS = [0x00000000, 0x80000000, 0x3F800000, 0xBDCCCCCD, 0x00000001, 0x807FFFFF, 0x7F7FFFFF, 0xFF800000, 0x7FC00000]


def halves(bits):
    return np.array(bits, "<u2").view(np.uint8)


def blocks(heads, quants, tail=False):
    """Blocks of some halves and `quants` random bytes (before the halves for a `tail`); in the first these are extreme."""
    random = np.random.default_rng(7)
    rows = [random.integers(0, 256, quants, np.uint8) for _ in heads]
    rows[0] = np.resize(np.array([0x00, 0xFF, 0x80, 0x7F, 0x08, 0x88], np.uint8), quants)
    parts = [(halves(head), row) for head, row in zip(heads, rows)]
    return np.concatenate([np.concatenate(part[::-1] if tail else part) for part in parts])


def main():
    pairs = list(map(list, zip(SCALES, MINIMA)))
    inputs = {
        Type.F32: np.array(FLOATS, "<u4").view(np.uint8),
        Type.F16: halves(HALVES),
        Type.BF16: halves(BFLOATS),
        Type.Q8_0: blocks([[d] for d in SCALES], 32),
        Type.Q4_0: blocks([[d] for d in SCALES], 16),
        Type.Q4_1: blocks(pairs, 16),
        Type.Q5_0: blocks([[d] for d in SCALES], 20),
        Type.Q5_1: blocks(pairs, 20),
        # The random bytes begin with scales of 6 bits in Q4_K and Q5_K, and end with scales of 8 bits in Q6_K.
        Type.Q4_K: blocks(K_PAIRS, 140),
        Type.Q5_K: blocks(K_PAIRS, 172),
        Type.Q6_K: blocks([[d] for d in K_SCALES], 208, tail=True),
    }
    cases = {
        kind.name: {
            "bytes": data.tobytes().hex(),
            "weights": dequantize(data, kind).astype("<f4", copy=False).tobytes().hex(),
        }
        for kind, data in inputs.items()
    }
    golden = {"source": f"gguf {version('gguf')} from PyPI, tools/goldens/dequantize.py", "cases": cases}
    OUTPUT.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
