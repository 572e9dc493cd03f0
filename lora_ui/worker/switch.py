"""One base model in memory, adapters beside it, and several answers at once that take turns.

Each answer keeps its own attention cache and its own chance (seed). A single thread touches the model, so turns are fair
(first come, first served) and torch keeps one pool of threads. Switching costs milliseconds of Python for hundreds of layers;
while several answers are under way, each turn therefore lasts `TURN` seconds and not one token.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel

TURN = 0.1
Values = list[tuple[torch.nn.Parameter, torch.Tensor]]


@dataclass
class Answer:
    """What was asked and how far it is. `ended` is "" until it is stop (the model finished) or length (`most` tokens)."""

    adapter: str | None
    prompt: list[int]
    most: int
    ends: frozenset[int]
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    tokens: int = 0
    ended: str = ""
    cache: Any = None
    chance: torch.Generator = field(default_factory=torch.Generator)
    began: float = 0.0
    first: float = 0.0
    last: float = 0.0

    def __post_init__(self) -> None:
        self.chance.manual_seed(self.seed) if self.seed is not None else self.chance.seed()
        self.next = self.prompt

    @property
    def tokens_per_second(self) -> float:
        """Speed of writing, without the time that reading the prompt took."""
        since, count = (self.first, self.tokens - 1) if self.tokens > 1 else (self.began, self.tokens)
        return round(count / max(self.last - since, 1e-6), 2)


class SwitchedModel:
    """`answer` may be called from many threads. Adapters are named by their run's id."""

    def __init__(self, model: PreTrainedModel):
        self.model: PreTrainedModel | PeftModel = model.eval()
        self.adapters: dict[str, Path] = {}
        self._there: dict[str, bool] = {}
        """Those in memory now, and whether each takes no other beside it."""
        self.answering = 0
        self._one = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._counting = threading.Lock()
        self._active: str | None = None
        self._biases: dict[str | None, Values] = {None: self._copy_biases()}

    def load(self, name: str, folder: Path) -> None:
        """Put the adapter in `folder` beside the others; again is harmless. Raises ValueError or RuntimeError if it does not fit."""
        self._one.submit(self._load, name, folder).result()

    def answer(self, asked: Answer) -> Generator[list[int]]:
        """Token ids as they come, the ending token left out. Closing the iterator stops the answer."""
        with self._counting:
            self.answering += 1
        try:
            while not asked.ended:
                yield self._one.submit(self._turn, asked).result()
        finally:
            asked.cache = None
            with self._counting:
                self.answering -= 1

    def _load(self, name: str, folder: Path) -> None:
        if name in self._there:
            return
        self._activate(None)
        config = PeftConfig.from_pretrained(str(folder))
        alone = config.peft_type != "LORA"
        lean = not alone and config.bias == "none"
        self._make_room(alone, lean)
        if not isinstance(self.model, PeftModel):  # not from_pretrained: when that fails, half an adapter stays in the base
            self.model = PeftModel(self.model, config, adapter_name=name, low_cpu_mem_usage=lean)
        try:
            # without `assign`, biases are written into the parameters that `_biases` remembers
            self.model.load_adapter(str(folder), adapter_name=name, low_cpu_mem_usage=lean)
        except Exception:
            if not self._there:
                self.model = self.model.unload()
            elif name in self.model.peft_config:
                self.model.delete_adapter(name)
            raise
        self.model.eval()
        if not lean and not alone:  # such an adapter overwrites the base's own biases
            self._biases[name] = self._copy_biases()
            self._put_biases(None)
        self._there[name] = alone
        self.adapters[name] = folder
        self.model.base_model.disable_adapter_layers()
        self._active = None

    def _make_room(self, alone: bool, lean: bool) -> None:
        """PEFT takes one adapter with biases at a time, and of the kinds besides LoRA one of all: those before go, and are loaded anew when
        they are asked."""
        going = list(self._there) if alone or any(self._there.values()) else [] if lean else [name for name in self._biases if name]
        if going and len(going) == len(self._there):
            assert isinstance(self.model, PeftModel)
            self.model = self.model.unload()
        for name in going:
            if isinstance(self.model, PeftModel):
                self.model.delete_adapter(name)
            del self._there[name]
            self._biases.pop(name, None)

    def _activate(self, name: str | None) -> None:
        if name == self._active:
            return
        if name and name not in self._there:
            self._load(name, self.adapters[name])
        assert isinstance(self.model, PeftModel)
        if name is None:
            self.model.base_model.disable_adapter_layers()
        else:
            if self._active is None:
                self.model.base_model.enable_adapter_layers()
            self.model.set_adapter(name, inference_mode=True)
        self._put_biases(name)
        self._active = name

    def _copy_biases(self) -> Values:
        named = self.model.named_parameters()
        return [(p, p.detach().clone()) for name, p in named if name.endswith("bias") and "lora_" not in name]

    def _put_biases(self, name: str | None) -> None:
        if len(self._biases) > 1:
            with torch.no_grad():
                for parameter, value in self._biases.get(name, self._biases[None]):
                    parameter.copy_(value)

    def _turn(self, asked: Answer) -> list[int]:
        self._activate(asked.adapter)
        until = time.monotonic() + (TURN if self.answering > 1 else 0)
        asked.began = asked.began or time.monotonic()
        said: list[int] = []
        while not asked.ended and (not said or time.monotonic() < until):
            token = self._step(asked)
            if token in asked.ends:
                asked.ended = "stop"
                break
            said.append(token)
            asked.tokens += 1
            asked.last = time.monotonic()
            asked.first = asked.first or asked.last
            if asked.tokens >= asked.most:
                asked.ended = "length"
        return said

    @torch.inference_mode()
    def _step(self, asked: Answer) -> int:
        ids = torch.tensor([asked.next], device=self.model.device)
        out = self.model(input_ids=ids, past_key_values=asked.cache, use_cache=True, logits_to_keep=1)
        asked.cache = out.past_key_values
        token = pick(out.logits[0, -1], asked.temperature, asked.top_p, asked.chance)
        asked.next = [token]
        return token


def pick(logits: torch.Tensor, temperature: float, top_p: float, chance: torch.Generator) -> int:
    """The next token: the likeliest at temperature 0, else drawn from the smallest set whose shares reach `top_p`. Drawn on the
    CPU in float32, so that a seed gives the same answer on every device that computes the same logits."""
    if temperature == 0:
        return int(logits.argmax())
    shares, order = torch.softmax(logits.float().cpu() / temperature, -1).sort(descending=True)
    shares[shares.cumsum(-1) - shares >= top_p] = 0
    return int(order[torch.multinomial(shares, 1, generator=chance)])
