"""A checkpoint as a GGUF, with the keys, names and layouts that llama.cpp's converter gives it."""

import math

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.quants import quantize

FILE_TYPES = {"F16": gguf.LlamaFileType.MOSTLY_F16, "BF16": gguf.LlamaFileType.MOSTLY_BF16,
              "quantised": gguf.LlamaFileType.MOSTLY_Q4_K_M}
ARCHITECTURES = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}


def rope_of(c):
    """(base, scaling) from either style of config.json."""
    parameters = c.get("rope_parameters") or c.get("rope_scaling") or {}
    return parameters.get("rope_theta", c.get("rope_theta")), parameters


def write_metadata(out, model):
    c, arch = model.config, model.gguf_arch
    theta, scaling = rope_of(c)
    out.add_type("model")
    out.add_name(f"tiny {model.name}")
    out.add_file_type(FILE_TYPES[model.gguf])
    out.add_quantization_version(gguf.GGML_QUANT_VERSION)
    # Without a list of tokens this key alone says how large the vocabulary is.
    out.add_vocab_size(c["vocab_size"])
    out.add_block_count(c["num_hidden_layers"])
    out.add_context_length(c["max_position_embeddings"])
    out.add_embedding_length(c["hidden_size"])
    out.add_feed_forward_length(c["intermediate_size"])
    out.add_head_count(c["num_attention_heads"])
    out.add_head_count_kv(1 if arch == "deepseek2" else c["num_key_value_heads"])
    out.add_layer_norm_rms_eps(c["rms_norm_eps"])
    if arch != "gemma2":
        out.add_rope_freq_base(theta)
    if scaling.get("rope_type") == "yarn":
        out.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        out.add_rope_scaling_factor(scaling["factor"])
        out.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
    if "head_dim" in c:
        out.add_key_length(c["head_dim"])
        out.add_value_length(c["head_dim"])
    nothing = lambda *_: None
    {"llama": write_llama, "qwen2": nothing, "qwen3": nothing, "qwen3moe": write_qwen3moe, "deepseek2": write_deepseek2,
     "gemma2": write_gemma2}[arch](out, c)
    out.add_tokenizer_model("none")
    out.add_bos_token_id(c["bos_token_id"])
    out.add_eos_token_id(model.generation["eos_token_id"][0])


def write_llama(out, c):
    out.add_rope_dimension_count(c.get("head_dim", c["hidden_size"] // c["num_attention_heads"]))
    if window := c.get("sliding_window"):
        out.add_sliding_window(window)


def write_gemma2(out, c):
    out.add_sliding_window(c["sliding_window"])
    out.add_attn_logit_softcapping(c["attn_logit_softcapping"])
    out.add_final_logit_softcapping(c["final_logit_softcapping"])


def write_qwen3moe(out, c):
    # Neither the gating function nor the normalisation is written: this architecture has one of each.
    out.add_expert_count(c["num_experts"])
    out.add_expert_used_count(c["num_experts_per_tok"])
    out.add_expert_feed_forward_length(c["moe_intermediate_size"])


def write_deepseek2(out, c):
    latent, rotary = c["kv_lora_rank"], c["qk_rope_head_dim"]
    out.add_q_lora_rank(c["q_lora_rank"])
    out.add_kv_lora_rank(latent)
    out.add_key_length(latent + rotary)
    out.add_value_length(latent)
    out.add_key_length_mla(c["qk_nope_head_dim"] + rotary)
    out.add_value_length_mla(c["v_head_dim"])
    out.add_rope_dimension_count(rotary)
    out.add_leading_dense_block_count(c["mlp_layer_types"].count("dense"))
    out.add_expert_count(c["n_routed_experts"])
    out.add_expert_used_count(c["num_experts_per_tok"])
    out.add_expert_shared_count(c["n_shared_experts"])
    out.add_expert_feed_forward_length(c["moe_intermediate_size"])
    out.add_expert_group_count(c["n_group"])
    out.add_expert_group_used_count(c["topk_group"])
    out.add_expert_weights_scale(c["routed_scaling_factor"])
    out.add_expert_weights_norm(c["norm_topk_prob"])
    out.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)


def interleaved(weights, heads):
    """Rows of each head from [first halves, second halves] of the rotary pairs to the pairs one after another."""
    return weights.reshape(heads, 2, -1, weights.shape[-1]).swapaxes(1, 2).reshape(weights.shape)


def llama3_factors(c):
    """What `llama` GGUFs divide each rotary frequency by (the tensor rope_freqs)."""
    theta, s = rope_of(c)
    width = c.get("head_dim", c["hidden_size"] // c["num_attention_heads"])
    context, low, high = s["original_max_position_embeddings"], s["low_freq_factor"], s["high_freq_factor"]
    factors = []
    for i in range(0, width, 2):
        rotations = context * theta**(-i / width) / (2 * math.pi)
        kept = min(max((rotations - low) / (high - low), 0), 1)
        factors.append(1 / (kept + (1 - kept) / s["factor"]))
    return np.array(factors, np.float32)


def stacked_experts(tensors):
    """The experts' matrices of each layer as one tensor [experts, rows, columns], the others as they are."""
    out, experts = {}, {}
    for name, weights in tensors.items():
        before, found, after = name.partition(".experts.")
        if found:
            experts.setdefault(f"{before}.experts.{after.split('.', 1)[1]}", []).append(weights)
        else:
            out[name] = weights
    return out | {name: np.stack(list_) for name, list_ in experts.items()}


def split_latent(c, name, weights):
    """Wkvb as its two parts: the keys' [heads, latent, nope], transposed to be absorbed, and the values' [heads, v, latent]."""
    parts = weights.reshape(c["num_attention_heads"], -1, c["kv_lora_rank"])
    nope = c["qk_nope_head_dim"]
    return {name.replace("kv_b_proj", "k_b_proj"): parts[:, :nope].swapaxes(1, 2),
            name.replace("kv_b_proj", "v_b_proj"): parts[:, nope:]}


def converted(model, tensors):
    """The tensors in GGUF's layouts, still under the checkpoint's kind of names."""
    c, out = model.config, {}
    extra = f"model.layers.{c['num_hidden_layers']}."
    tensors = {name: weights for name, weights in tensors.items() if not name.startswith(extra)}
    for name, weights in stacked_experts(tensors).items():
        if model.gguf_arch == "llama" and name.endswith("q_proj.weight"):
            weights = interleaved(weights, c["num_attention_heads"])
        if model.gguf_arch == "llama" and name.endswith("k_proj.weight"):
            weights = interleaved(weights, c["num_key_value_heads"])
        if model.gguf_arch == "gemma2" and name.endswith("norm.weight"):
            weights = weights + np.float32(1)
        if name.endswith("kv_b_proj.weight"):
            out |= split_latent(c, name, weights)
        else:
            out[name.replace("e_score_correction_bias", "e_score_correction.bias")] = weights
    return out


def name_of(model, name):
    """The tensor's name from gguf's tables."""
    # The table of qwen3moe has no name for a dense layer, so llama.cpp converts no such model: qwen3 has one.
    for arch in (model.gguf_arch, "qwen3"):
        names = gguf.get_tensor_name_map(ARCHITECTURES[arch], model.config["num_hidden_layers"])
        if found := names.get_name(name, try_suffixes=(".weight", ".bias")):
            return found
    raise KeyError(f"no GGUF name for {name}")


def write_gguf(path, model, tensors, blocks):
    """Writes the checkpoint `tensors` (f32 arrays by name); `blocks` holds those that are stored as given bytes."""
    out = gguf.GGUFWriter(path, model.gguf_arch)
    write_metadata(out, model)
    if rope_of(model.config)[1].get("rope_type") == "llama3":
        out.add_tensor("rope_freqs.weight", llama3_factors(model.config))
    for name, weights in converted(model, tensors).items():
        new = name_of(model, name)
        if name in blocks:
            out.add_tensor(new, blocks[name][1], raw_dtype=blocks[name][0])
        elif weights.ndim == 1 or "ffn_gate_inp" in new:
            out.add_tensor(new, np.ascontiguousarray(weights))
        elif model.gguf == "F16":
            out.add_tensor(new, weights.astype(np.float16))
        else:
            out.add_tensor(new, quantize(np.ascontiguousarray(weights), Type.BF16), raw_dtype=Type.BF16)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
