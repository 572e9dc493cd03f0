"""A two-layer Llama with a ChatML tokenizer, and an adapter for it: made in a tenth of a second, without importing torch.

The numbers are random, so it answers nonsense; but it loads, trains, merges and generates like a real model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import TensorSpec, serialize_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lora_ui.home import Home
from lora_ui.metrics import append
from lora_ui.settings import merge, parse

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TEXT = [
    "What is the name of the river that runs past the mill? It is the river of the old mill.",
    "The answer is short and the question is long.",
]
HIDDEN, INNER, LAYERS, HEADS, KV_HEADS = 64, 128, 2, 4, 2
HEAD_SIZE = HIDDEN // HEADS
LINEAR = {  # name -> (out, in), as in Llama
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KV_HEADS * HEAD_SIZE, HIDDEN),
    "self_attn.v_proj": (KV_HEADS * HEAD_SIZE, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}


def tiny_model(folder: Path, *, template: str | None = CHATML, dtype: str = "float32", seed: int = 0) -> Path:
    """Write a complete model folder (about 0.4 MB) and return it. `dtype` is how the weights are stored: float32 or bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = tiny_tokenizer(folder, template)
    draw = np.random.default_rng(seed)
    weights = {"model.embed_tokens.weight": draw.normal(0, 0.3, (vocabulary, HIDDEN)), "model.norm.weight": np.ones(HIDDEN)}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        weights |= {at + "input_layernorm.weight": np.ones(HIDDEN), at + "post_attention_layernorm.weight": np.ones(HIDDEN)}
        weights |= {f"{at}{name}.weight": draw.normal(0, 0.3, shape) for name, shape in LINEAR.items()}
    _save(folder / "model.safetensors", weights, dtype)
    _json(folder / "config.json", _config(vocabulary, dtype))
    _json(folder / "generation_config.json", {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2})
    return folder


def tiny_tokenizer(folder: Path, template: str | None = CHATML) -> int:
    """Write a byte-level BPE tokenizer with ChatML's control tokens; returns the size of its vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "unk_token": "<|endoftext|>"}
    _json(folder / "tokenizer_config.json", {**named, "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512})
    if template:
        (folder / "chat_template.jinja").write_text(template)
    return tokenizer.get_vocab_size()


def tiny_adapter(base_folder: Path, folder: Path, r: int = 4, seed: int = 1) -> Path:
    """Write a LoRA adapter on every linear layer of the tiny model, with the base's tokenizer beside it. It changes the answers."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    weights = {}
    for layer in range(LAYERS):
        for name, (out, into) in LINEAR.items():
            at = f"base_model.model.model.layers.{layer}.{name}"
            weights[f"{at}.lora_A.weight"] = draw.normal(0, 0.2, (r, into))
            weights[f"{at}.lora_B.weight"] = draw.normal(0, 0.2, (out, r))
    _save(folder / "adapter_model.safetensors", weights, "float32")
    modules = [name.split(".")[1] for name in LINEAR]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": r,
        "lora_alpha": 2 * r,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    _json(folder / "adapter_config.json", {**config, "target_modules": modules, "base_model_name_or_path": str(base_folder)})
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (base_folder / name).exists():
            (folder / name).write_bytes((base_folder / name).read_bytes())
    return folder


def tiny_gguf(base_folder: Path, path: Path) -> Path:
    """The tiny model as a `.gguf` file, as llama.cpp writes one (32-bit numbers; its rotary pairs lie side by side)."""
    import gguf
    from safetensors.numpy import load_file

    config, tokenizer = (json.loads((base_folder / name).read_text()) for name in ("config.json", "tokenizer.json"))
    out = gguf.GGUFWriter(path, "llama")
    out.add_context_length(config["max_position_embeddings"])
    out.add_embedding_length(HIDDEN)
    out.add_block_count(LAYERS)
    out.add_feed_forward_length(INNER)
    out.add_head_count(HEADS)
    out.add_head_count_kv(KV_HEADS)
    out.add_layer_norm_rms_eps(config["rms_norm_eps"])
    out.add_rope_freq_base(config["rope_theta"])
    vocabulary = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("smollm")
    out.add_token_list(vocabulary)
    out.add_token_types([3 if token in SPECIAL else 1 for token in vocabulary])
    out.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    out.add_chat_template(CHATML)
    names = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate"}
    names |= {"up_proj": "ffn_up", "down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    for name, value in load_file(base_folder / "model.safetensors").items():
        parts = name.split(".")
        if parts[-2] in ("q_proj", "k_proj"):
            heads = HEADS if parts[-2] == "q_proj" else KV_HEADS
            value = value.reshape(heads, 2, HEAD_SIZE // 2, HIDDEN).swapaxes(1, 2).reshape(value.shape)
        whole = {"embed_tokens": "token_embd", "norm": "output_norm"}
        out.add_tensor(f"{whole[parts[1]]}.weight" if parts[1] in whole else f"blk.{parts[2]}.{names[parts[-2]]}.weight", value)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


def tiny_run(home: Home, run_id: str, base_folder: Path, base_model: str | None = None, **chosen: dict[str, Any]) -> Path:
    """A finished run as `train` leaves it, with a random adapter: settings, decisions, points, outcome. `chosen` are settings groups."""
    run = home.run(run_id)
    tiny_adapter(base_folder, run / "adapter")
    groups = merge(chosen, {"model": {"base_model": base_model or str(base_folder)}, "adapter": {"r": 4, "lora_alpha": 8}})
    told = parse(merge(groups, {"data": {"source": str(home.root / "rows.jsonl")}}))
    prepare = {"digest": "0123456789abcdef", "base_model": told.model.base_model, "revision": None, "max_length": 1024, "held_out_rows": 2}
    params = {
        "settings": told.model_dump(),
        "header": {"title": "tiny", "from": None, "data": "rows.jsonl", "digest": prepare["digest"], "revision": None},
        "prepare": {**prepare, "split_seed": 42, "system_prompt": told.data.system_prompt},
        "licence": "apache-2.0",
        "base_kind": "starter" if told.model.base_model == "starter" else "folder",
        "preset": None,
        "data": {"name": "rows.jsonl", "rows": 10, "train_rows": 8, "held_out_rows": 2},
        "estimate_seconds": None,
    }
    _json(run / "job.json", {"id": run_id, "kind": "train", "run_id": None, "home": str(home.root), "params": params})
    _json(run / "settings.yaml", {"preset": params["header"], **told.model_dump()})  # JSON is YAML
    _json(
        run / "decided.json",
        {"training.num_train_epochs": {"value": 3, "reason": "tiny"}, "machine.device": {"value": "cpu", "reason": "tiny"}},
    )
    for step, loss, held in ((0, None, 3.0), (1, 2.9, None), (4, 2.0, 2.1), (8, 1.0, 1.5)):
        append(run / "metrics.jsonl", {"step": step, "time": 0.0, "loss": loss, "eval_loss": held})
    losses = {"train_loss": {"first": 2.9, "last": 1.0}, "eval_loss": {"base": 3.0, "first": 2.1, "best": 1.5, "last": 1.5}}
    result = {
        **losses,
        "step": 8,
        "total_steps": 8,
        "saved_step": 8,
        "base_model_path": str(base_folder),
        "adapter_path": str(run / "adapter"),
    }
    _json(run / "outcome.json", {"state": "finished", "error": None, "result": result, "phases": {}, "time": 0.0})
    return run


def _config(vocabulary: int, dtype: str) -> dict[str, object]:
    sizes = {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "vocab_size": vocabulary, "tie_word_embeddings": True}
    rest = {
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_SIZE,
        "hidden_act": "silu",
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
    }
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": dtype, "rope_theta": 10000.0, **sizes, **tokens, **rest}


def _save(path: Path, weights: dict[str, np.ndarray], dtype: str) -> None:
    """numpy has no bfloat16: it is the upper half of a float32."""
    raw = {name: np.ascontiguousarray(value, "<f4") for name, value in weights.items()}
    if dtype == "bfloat16":
        raw = {name: (value.view("<u4") >> 16).astype("<u2") for name, value in raw.items()}
    specs = {name: TensorSpec(dtype=dtype, shape=v.shape, data_ptr=v.ctypes.data, data_len=v.nbytes) for name, v in raw.items()}
    serialize_file(specs, str(path), {"format": "pt"})


def _json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1))
