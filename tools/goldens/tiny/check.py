"""Reads a GGUF back and compares it with the folder, with none of the writer's code or names."""

import re

import gguf
import numpy as np
from gguf.quants import dequantize
from safetensors.torch import load_file
from transformers import CONFIG_MAPPING

NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "attn_q_a": "self_attn.q_a_proj", "attn_q_a_norm": "self_attn.q_a_layernorm", "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa", "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "ffn_gate_inp": "mlp.gate",
    "post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm",
    "ffn_gate_shexp": "mlp.shared_experts.gate_proj", "ffn_up_shexp": "mlp.shared_experts.up_proj",
    "ffn_down_shexp": "mlp.shared_experts.down_proj",
}
# Where it has norms of other names.
GEMMA_NAMES = {"ffn_norm": "pre_feedforward_layernorm"}
OUTSIDE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
           "output.weight": "lm_head.weight"}


def half_split(rows, heads):
    """Undoes the converter's order of a llama's Wq or Wk: row i of a head's half h was moved to 2i + h."""
    width = len(rows) // heads
    order = [head * width + 2 * i + half for head in range(heads) for half in (0, 1) for i in range(width // 2)]
    return rows[order]


def read_gguf(path):
    """The file's metadata, and its tensors dequantised, in numpy's order of dimensions (GGUF's reversed)."""
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {}
    for t in reader.tensors:
        tensors[t.name] = dequantize(t.data, t.tensor_type).reshape(t.shape[::-1].tolist()).astype(np.float32)
    return fields, tensors


def checkpoint_of(path):
    """The GGUF's tensors under the checkpoint's names and in its layouts."""
    fields, tensors = read_gguf(path)
    arch, out = fields["general.architecture"], {}
    for name, weights in tensors.items():
        if name == "rope_freqs.weight":
            continue
        if name in OUTSIDE:
            out[OUTSIDE[name]] = weights
            continue
        layer, part, kind = re.fullmatch(r"blk\.(\d+)\.(.+)\.(weight|bias)", name).groups()
        prefix = f"model.layers.{layer}"
        if part.endswith("_exps"):
            which = part.removeprefix("ffn_").removesuffix("_exps")
            out |= {f"{prefix}.mlp.experts.{i}.{which}_proj.weight": expert for i, expert in enumerate(weights)}
        elif part == "exp_probs_b":
            out[f"{prefix}.mlp.gate.e_score_correction_bias"] = weights
        elif part == "attn_k_b":
            values = tensors[f"blk.{layer}.attn_v_b.weight"]
            heads = [np.vstack([keys.T, of_head]) for keys, of_head in zip(weights, values, strict=True)]
            out[f"{prefix}.self_attn.kv_b_proj.weight"] = np.vstack(heads)
        elif part != "attn_v_b":
            if arch == "llama" and part in ("attn_q", "attn_k"):
                key = "head_count" if part == "attn_q" else "head_count_kv"
                weights = half_split(weights, fields[f"llama.attention.{key}"])
            name = GEMMA_NAMES.get(part, NAMES[part]) if arch == "gemma2" else NAMES[part]
            out[f"{prefix}.{name}.{kind}"] = weights
    if arch == "gemma2":
        out |= {name: weights - 1 for name, weights in out.items() if name.endswith("norm.weight")}
    return fields, tensors, out


def folder_weights(folder):
    """The tensors of a folder, in f32."""
    tensors = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
    return {name: tensor.float().numpy() for name, tensor in tensors.items()}


def check(model, path, inv_freq):
    """`path` holds the model's fixtures; `inv_freq` are the rotary frequencies that transformers derives."""
    fields, tensors, found = checkpoint_of(path / "model.gguf")
    extra = f"model.layers.{model.config['num_hidden_layers']}."
    want = {name: t for name, t in folder_weights(path / "model").items() if not name.startswith(extra)}
    if model.folder:
        assert found.keys() == want.keys(), found.keys() ^ want.keys()
        for name, weights in want.items():
            assert np.array_equal(found[name], weights), f"{model.name}: {name} differs"
    if "rope_freqs.weight" in tensors:
        base, width = fields["llama.rope.freq_base"], fields["llama.rope.dimension_count"]
        plain = base ** -(np.arange(0, width, 2) / width)
        assert np.allclose(plain / tensors["rope_freqs.weight"], inv_freq, rtol=1e-6), f"{model.name}: rope_freqs"
    return found


def check_same_config(model):
    """transformers must read both of a model's config.json as one."""
    one, other = (CONFIG_MAPPING[model.config["model_type"]].from_dict(dict(c)) for c in (model.config, model.same_config))
    for key in ("mlp_layer_types", "rope_interleave"):
        assert getattr(one, key) == getattr(other, key), key
    # The older style may name a factor of 1.
    assert one.rope_parameters == {k: v for k, v in other.rope_parameters.items() if k != "partial_rotary_factor"}
    for key in model.config.keys() & model.same_config.keys():
        assert model.config[key] == model.same_config[key], key
