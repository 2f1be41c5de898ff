"""Tiny GGUF files, written as llama.cpp's converter writes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
GEMMA3 = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def tiny_lm(architecture: str, tokenizer, *, tied: bool = False, seed: int = 0):
    """A causal LM with random weights whose rows are whole blocks of 32, as quantisation wants them."""
    import transformers

    name = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "gemma3": "Gemma3Text"}[architecture]
    extra = {"qwen3": {"head_dim": 128}, "gemma3": {"head_dim": 32}}.get(architecture, {})  # 128 is taken for Qwen3
    config = getattr(transformers, f"{name}Config")(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        tie_word_embeddings=tied,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **extra,
    )
    torch.manual_seed(seed)
    kind = "Gemma3ForCausalLM" if architecture == "gemma3" else f"{name}ForCausalLM"
    return getattr(transformers, kind)(config).eval()


def gguf_name(name: str, architecture: str) -> str:
    stem, kind = name.rsplit(".", 1)
    if stem in WHOLE:
        return f"{WHOLE[stem]}.{kind}"
    _, _, layer, part = stem.split(".", 3)
    names = NAMES | (GEMMA3 if architecture == "gemma3" else {})
    return f"blk.{layer}.{names[part]}.{kind}"


def _interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries and keys in the order of llama.cpp's rotary embedding."""
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )


def write_gguf(
    path: Path, lm, tokenizer, architecture: str, *, types: str = "F32", template: bool = True, named: str = ""
) -> Path:
    """Write ``lm`` and ``tokenizer``; matrices in ``types``, vectors in F32.

    ``named`` is the architecture that the file claims.
    """
    from gguf import GGMLQuantizationType, GGUFWriter, quants

    config, claimed = lm.config, named or architecture
    writer = GGUFWriter(path, claimed)
    writer.add_name("tiny")
    writer.add_license("apache-2.0")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if architecture == "llama":
        writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    _write_tokenizer(writer, tokenizer, template, pieces=architecture == "gemma3")
    kind = GGMLQuantizationType[types]
    tied = config.tie_word_embeddings
    for name, tensor in lm.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        values = tensor.float().numpy()
        if architecture == "llama" and ".q_proj" in name:
            values = _interleaved(values, config.num_attention_heads)
        if architecture == "llama" and ".k_proj" in name:
            values = _interleaved(values, config.num_key_value_heads)
        if architecture == "gemma3" and "norm" in name:
            values = values + 1
        of = kind if values.ndim > 1 else GGMLQuantizationType.F32
        writer.add_tensor(
            gguf_name(name, architecture), quants.quantize(np.ascontiguousarray(values), of), raw_dtype=of
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_tokenizer(writer, tokenizer, template: bool, pieces: bool) -> None:
    """``pieces``: as a SentencePiece vocabulary, which files of Gemma have."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    special = {token["content"] for token in backend["added_tokens"]}
    writer.add_tokenizer_model("llama" if pieces else "gpt2")
    writer.add_tokenizer_pre("default" if pieces else "qwen2")
    if pieces:
        tokens = [token.replace("Ġ", "▁") for token in tokens]
        writer.add_token_scores([-float(i) for i in range(len(tokens))])
        writer.add_unk_token_id(tokenizer.pad_token_id)
        writer.add_bos_token_id(tokenizer.pad_token_id)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    if not pieces:
        writer.add_token_merges(
            [" ".join(merge) if isinstance(merge, list) else merge for merge in backend["model"]["merges"]]
        )
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    if template:
        writer.add_chat_template(tokenizer.chat_template)
