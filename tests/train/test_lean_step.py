"""What a training step leaves out, and that nothing else changes by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import MixtralConfig, MixtralForCausalLM, TrainerCallback
from trl import SFTConfig, SFTTrainer
from trl.kernels import ChunkedLogProbFunction

from lora_ui.worker import head, load
from lora_ui.worker.trainer import SavingTrainer
from tests.tiny import tiny_model

pytestmark = pytest.mark.train


class Looks(TorchDispatchMode):
    """How often a number was read out of a tensor: on a GPU each of these waits until it has caught up."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


class Told(TrainerCallback):
    def __init__(self) -> None:
        self.logs: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        self.logs.append(dict(logs))


def trainer_of(kind: type[SFTTrainer], place: Path, model: Any = None, **more: Any) -> tuple[SFTTrainer, Told]:
    """On 12 rows of mixed length of which half is learned, in steps of two micro-steps."""
    folder = tiny_model(place / "tiny")
    torch.manual_seed(0)
    adapter = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = model or get_peft_model(load.load_model(folder, torch.float32), adapter)
    rows = [torch.randint(3, 250, (4 + 3 * n,)).tolist() for n in range(12)]
    labels = [[-100] * (len(row) // 2) + row[len(row) // 2 :] for row in rows]
    given = {"max_steps": 6, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 5e-3, "max_length": 64}
    asked = SFTConfig(
        str(place / "out"),
        bf16=False,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        logging_nan_inf_filter=False,
        prediction_loss_only=True,
        **{**given, "logging_steps": 2, "save_strategy": "no", "activation_checkpointing": False, **more},
    )
    told = Told()
    data = Dataset.from_dict({"input_ids": rows, "labels": labels})
    made = kind(model, asked, train_dataset=data, eval_dataset=data, processing_class=load.load_tokenizer(folder), callbacks=[told])
    return made, told


@pytest.mark.parametrize("packing", [False, True], ids=["padded", "packed"])
def test_no_number_is_looked_at_between_two_points(tmp_path, packing):
    trainer, _ = trainer_of(SavingTrainer, tmp_path, logging_steps=100, packing=packing, eval_packing=False)
    trainer.train()  # prepares the optimizer and all that is done once
    batches = list(trainer.get_train_dataloader())[:2]
    trainer.model.train()
    with Looks() as looks:
        for batch in batches:
            trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch), num_items_in_batch=torch.tensor(40)).backward()
    assert looks.count <= len(batches)  # transformers asks once of each whether it is packed


def test_a_model_that_learns_already_is_not_walked_through_again(tmp_path):
    trainer, _ = trainer_of(SavingTrainer, tmp_path)
    assert all(module.training for module in trainer.model.modules())
    inside = trainer.model.base_model
    walked = []
    inside.train = lambda mode=True: walked.append(mode)
    trainer.model.eval()
    for _ in range(3):
        trainer.model.train()
    trainer.model.eval()
    assert walked == [False, True, False]


@pytest.mark.parametrize("more", [{}, {"packing": True, "eval_packing": False}, {"loss_type": "dft"}], ids=["padded", "packed", "dft"])
def test_points_are_those_of_trl(tmp_path, more):
    points = []
    for kind in (SFTTrainer, SavingTrainer):
        trainer, told = trainer_of(kind, tmp_path / kind.__name__, **more)
        trainer.train()
        trainer.evaluate()
        points.append(
            [{key: value for key, value in one.items() if "_per_second" not in key and "runtime" not in key} for one in told.logs]
        )
    theirs, ours = points
    assert len(ours) == len(theirs) and {"loss", "entropy", "mean_token_accuracy", "num_tokens"} <= ours[0].keys()
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx({key: value for key, value in other.items() if key != "total_flos"} | {"total_flos": one["total_flos"]} if "total_flos" in one else other, rel=1e-4)  # fmt: skip


def test_experts_keep_a_loss_of_their_own(tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    torch.manual_seed(0)
    base = MixtralForCausalLM(MixtralConfig(vocab_size=400, num_local_experts=4, pad_token_id=0, **sizes))
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    trainer, told = trainer_of(SavingTrainer, tmp_path, model)
    trainer.train()
    assert told.logs[0]["aux_loss"] > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("softcap", "scale", "biased"), [(None, 1.0, False), (30.0, 0.5, True)], ids=["plain", "bent"])
def test_the_head_gives_what_trl_gives(dtype, softcap, scale, biased, monkeypatch):
    monkeypatch.setattr(head, "LOGITS", 3_000)  # ten tokens together, two at a time
    monkeypatch.setattr(head, "IN_CACHE", 600 // torch.get_num_threads())
    torch.manual_seed(0)
    hidden, weight = torch.randn(37, 64).to(dtype), (0.2 * torch.randn(300, 64)).to(dtype)
    bias, targets = torch.randn(300).to(dtype) if biased else None, torch.randint(0, 300, (37,))
    weight[7], targets[:4] = weight[5], torch.tensor([5, 7, 5, 7])  # a tie goes to the first
    answers = []
    for function in (ChunkedLogProbFunction, head.Head):
        read = hidden.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            likely, entropy, _, _, first = function.apply(read, weight, bias, targets, 1.0, 128, softcap, scale, ("entropy", "is_top1"))
        (likely * torch.linspace(0.5, 1.5, 37)).sum().backward()
        answers.append((likely.detach(), entropy.detach(), read.grad.float(), first))
    close = 1e-5 if dtype == torch.float32 else 0.02
    for theirs, ours in zip(answers[0][:3], answers[1][:3], strict=True):
        assert torch.allclose(theirs, ours, atol=close * float(theirs.abs().max()))
    assert torch.equal(answers[0][3], answers[1][3])


def test_a_head_that_learns_is_left_to_trl():
    hidden, weight = torch.randn(5, 8, requires_grad=True), torch.randn(11, 8, requires_grad=True)
    head.Head.apply(hidden, weight, None, torch.zeros(5, dtype=torch.long), 1.0, 8)[0].sum().backward()
    assert weight.grad is not None and weight.grad.abs().sum() > 0


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_spared_copies_change_no_number(tmp_path, dora):
    def learned(spare: bool) -> torch.Tensor:
        torch.manual_seed(0)
        model = load.load_model(tiny_model(tmp_path / "tiny"), torch.bfloat16)
        adapter = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", use_dora=dora, task_type="CAUSAL_LM")
        model = get_peft_model(model, adapter)
        if spare:
            load.spare_casts(model)
        ids = torch.arange(3, 60).unsqueeze(0)
        with torch.autocast("cpu", torch.bfloat16):
            model(input_ids=ids, labels=ids).loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])

    assert torch.equal(learned(True), learned(False))
