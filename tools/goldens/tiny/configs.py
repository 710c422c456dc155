"""The models: a config.json each, in one of the two styles that published checkpoints use, and how their weights are stored."""

from dataclasses import dataclass, field

OLD, NEW = "old", "new"


@dataclass(frozen=True)
class Tiny:
    """One model. `folder` is the type of its safetensors weights (none for a model that exists as a GGUF alone)."""

    name: str
    config: dict
    gguf_arch: str
    folder: str | None = "BF16"
    shards: int = 1
    # None for a model that no GGUF can describe.
    gguf: str | None = "BF16"
    # Another config.json that must mean the same model.
    same_config: dict | None = None
    generation: dict = field(default_factory=lambda: {"bos_token_id": 1, "eos_token_id": [2, 7], "do_sample": False})


def rope(style, theta, scaling=None):
    """The rotary position settings: beside each other (before transformers 5) or in one object."""
    if style == OLD:
        return {"rope_theta": theta, "rope_scaling": scaling}
    return {"rope_parameters": {"rope_theta": theta, **(scaling or {"rope_type": "default"})}}


def dtype(style, name):
    return {"torch_dtype" if style == OLD else "dtype": name}


COMMON = {"hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0, "initializer_range": 0.02,
          "use_cache": True, "bos_token_id": 1}

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **COMMON, "mlp_bias": False, "pretraining_tp": 1,
         "rms_norm_eps": 1e-5, "eos_token_id": 2}

QWEN3 = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", **COMMON, "rms_norm_eps": 1e-6,
         "eos_token_id": 2, "use_sliding_window": False, "sliding_window": None}

# Its queries, keys and values have biases, of which its config says nothing.
QWEN2 = {**{key: value for key, value in QWEN3.items() if key != "attention_bias"},
         "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}

# As published: no head_dim, and nothing is said of biases.
MISTRAL = {**{key: value for key, value in COMMON.items() if key != "attention_bias"},
           "architectures": ["MistralForCausalLM"], "model_type": "mistral", "rms_norm_eps": 1e-5, "eos_token_id": 2}

# As published: nothing is said of tied embeddings, which these are.
GEMMA2 = {**COMMON, "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "hidden_act": "gelu_pytorch_tanh",
          "hidden_activation": "gelu_pytorch_tanh", "cache_implementation": "hybrid", "rms_norm_eps": 1e-6, "eos_token_id": 2}

GLM = {"architectures": ["Glm4MoeLiteForCausalLM"], "model_type": "glm4_moe_lite", **COMMON, "rms_norm_eps": 1e-5,
       "eos_token_id": [2, 7], "pad_token_id": 2, "vocab_size": 264, "hidden_size": 64, "intermediate_size": 96,
       "moe_intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 5, "num_key_value_heads": 5,
       "q_lora_rank": 48, "kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "v_head_dim": 64,
       "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
       "topk_method": "noaux_tc", "norm_topk_prob": True, "routed_scaling_factor": 1.8, "num_nextn_predict_layers": 1,
       "max_position_embeddings": 2048, "tie_word_embeddings": False}

MODELS = [
    # heads x head_dim (192) is twice the hidden size; a hidden size that no power of two divides well.
    Tiny("llama", {
        **LLAMA, **rope(OLD, 10000.0), **dtype(OLD, "float32"), "vocab_size": 271, "hidden_size": 96,
        "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
        "head_dim": 32, "max_position_embeddings": 1024, "tie_word_embeddings": True,
    }, "llama", folder="F32", gguf="F16"),
    # No head_dim: hidden / heads. Scaled rotary frequencies whose three ranges all matter within 160 positions.
    Tiny("llama3", {
        **LLAMA, **dtype(OLD, "float16"), "vocab_size": 288, "hidden_size": 128, "intermediate_size": 160,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024,
        "tie_word_embeddings": False,
        **rope(OLD, 10000.0, {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                              "original_max_position_embeddings": 128}),
    }, "llama", folder="F16", gguf="BF16"),
    # As published: no head_dim, and a window that is not used.
    Tiny("qwen2", {
        **QWEN2, **rope(OLD, 1000000.0), **dtype(OLD, "bfloat16"), "vocab_size": 269, "hidden_size": 128,
        "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 2048, "max_window_layers": 2, "sliding_window": 64, "tie_word_embeddings": True,
    }, "qwen2"),
    Tiny("qwen3", {
        **QWEN3, **rope(NEW, 1000000.0), **dtype(NEW, "bfloat16"), "vocab_size": 267, "hidden_size": 96,
        "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 2,
        "head_dim": 32, "max_position_embeddings": 2048, "max_window_layers": 3, "tie_word_embeddings": True,
    }, "qwen3", shards=3),
    Tiny("qwen3-yarn", {
        **QWEN3, **dtype(OLD, "bfloat16"), "vocab_size": 272, "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64,
        "max_position_embeddings": 1024, "max_window_layers": 2, "tie_word_embeddings": False,
        **rope(OLD, 10000.0, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}),
    }, "qwen3", gguf="F16"),
    Tiny("qwen3-moe", {
        **QWEN3, **rope(OLD, 1000000.0), **dtype(OLD, "bfloat16"), "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe", "vocab_size": 272, "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "num_experts": 10,
        "num_experts_per_tok": 3, "moe_intermediate_size": 48, "norm_topk_prob": True, "decoder_sparse_step": 1,
        "mlp_only_layers": [1], "max_position_embeddings": 2048, "max_window_layers": 3,
        "output_router_logits": False, "router_aux_loss_coef": 0.001, "tie_word_embeddings": False,
    }, "qwen3moe"),
    Tiny("glm4-moe-lite", {
        **GLM, **rope(NEW, 1000000.0), **dtype(NEW, "bfloat16"), "mlp_layer_types": ["dense", "sparse", "sparse"],
        "rope_interleave": True,
    }, "deepseek2", same_config={
        **GLM, **rope(OLD, 1000000.0), **dtype(OLD, "bfloat16"), "first_k_dense_replace": 1,
        "partial_rotary_factor": 1.0,
    }),
    # Every quantised type; rows of 256 or 512, which super-blocks need. A folder of so many weights would be 4 MB.
    Tiny("qwen3-kquants", {
        **QWEN3, **rope(NEW, 1000000.0), **dtype(NEW, "float32"), "vocab_size": 260, "hidden_size": 256,
        "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2,
        "head_dim": 64, "max_position_embeddings": 1024, "max_window_layers": 2, "tie_word_embeddings": True,
    }, "qwen3", folder=None, gguf="quantised"),
    # Every layer attends a sliding window, which the prompt is more than twice as long as; no multiple of any block.
    Tiny("mistral", {
        **MISTRAL, **rope(OLD, 10000.0), **dtype(OLD, "bfloat16"), "vocab_size": 271, "hidden_size": 128,
        "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 1024, "sliding_window": 51, "tie_word_embeddings": False,
    }, "llama"),
    # Windows from the second layer on, shorter than a tile of prefill; llama.cpp has no key for such a model.
    Tiny("qwen2-windows", {
        **QWEN2, **rope(OLD, 1000000.0), **dtype(OLD, "bfloat16"), "vocab_size": 269, "hidden_size": 128,
        "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 2048, "use_sliding_window": True, "max_window_layers": 1, "sliding_window": 20,
        "tie_word_embeddings": True,
    }, "qwen2", gguf=None),
    # Soft-caps below many a logit, and a window in every other layer. What queries are scaled by is the head's length: a GGUF has no key
    # for it.
    Tiny("gemma2", {
        **GEMMA2, "rope_theta": 10000.0, **dtype(OLD, "bfloat16"), "vocab_size": 270, "hidden_size": 96,
        "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
        "query_pre_attn_scalar": 32, "max_position_embeddings": 1024, "sliding_window": 37, "attn_logit_softcapping": 8.0,
        "final_logit_softcapping": 10.0,
    }, "gemma2"),
]
