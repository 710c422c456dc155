"""Quantised weights of every type for the model `qwen3-kquants`.

`gguf` quantises to the types with blocks of 32, but it only dequantises super-blocks of 256. Those are drawn block by block: any
bytes are valid quants and scales, so every bit of the layout is used.
"""

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize

# Bytes before the f16 scale (and f16 minimum), and after it.
SUPER_BLOCKS = {Type.Q4_K: (0, 12 + 128), Type.Q5_K: (0, 12 + 32 + 128), Type.Q6_K: (128 + 64 + 16, 0)}
# The minimum, in units of the scale, that centres the weights on zero: the mean quant.
CENTRE = {Type.Q4_K: 7.5, Type.Q5_K: 15.5}

# The types of layer 0, then of layer 1. The embedding, which is also the output, is Q6_K.
TYPES = [
    {"q_proj": Type.Q4_K, "k_proj": Type.Q5_K, "v_proj": Type.Q6_K, "o_proj": Type.Q5_0, "gate_proj": Type.Q5_1,
     "up_proj": Type.Q8_0, "down_proj": Type.Q4_0},
    {"q_proj": Type.Q4_1, "k_proj": Type.Q4_K, "v_proj": Type.Q5_0, "o_proj": Type.Q6_K, "gate_proj": Type.Q5_K,
     "up_proj": Type.Q4_K, "down_proj": Type.Q5_1},
]


def type_of(name):
    """The type of a tensor of the checkpoint, none for a norm."""
    if name.endswith("norm.weight"):
        return None
    if not name.startswith("model.layers."):
        return Type.Q6_K
    _, _, layer, _, matrix, _ = name.split(".")
    return TYPES[int(layer)][matrix]


def assemble(kind, scales, body):
    """Blocks [n, bytes] of scales [n] and the random rest [n, bytes]."""
    heads = [scales, scales * CENTRE[kind]] if kind in CENTRE else [scales]
    heads = np.stack(heads, axis=1).astype("<f2").view(np.uint8)
    before = SUPER_BLOCKS[kind][0]
    return np.concatenate([body[:, :before], heads, body[:, before:]], axis=1)


def super_blocks(kind, weights, random):
    """Random super-blocks in the place of `weights` [rows, columns], with their spread."""
    count = weights.size // 256
    body = random.integers(0, 256, (count, sum(SUPER_BLOCKS[kind])), np.uint8)
    unit = dequantize(assemble(kind, np.ones(count), body), kind).std()
    scales = weights.std() / unit * random.uniform(0.7, 1.3, count)
    if kind not in CENTRE:
        scales *= random.choice([-1, 1], count)
    return assemble(kind, scales, body).reshape(weights.shape[0], -1)


def quantise(tensors, seed):
    """The tensors' blocks (type and bytes, by name) and all tensors as those blocks dequantise, in f32."""
    random, blocks, weights = np.random.default_rng(seed), {}, {}
    for name, tensor in tensors.items():
        kind, weights[name] = type_of(name), tensor.numpy()
        if kind is None:
            continue
        data = super_blocks(kind, tensor.numpy(), random) if kind in SUPER_BLOCKS else quantize(tensor.numpy(), kind)
        blocks[name], weights[name] = (kind, data), dequantize(data, kind)
    return blocks, weights
