"""Settings: everything a person can choose for a run, said once.

The form, the checks, the command line's `--set group.field=value`, the recipe and the README's table all come from the
fields below. Groups keep the spelling of `peft.LoraConfig` (adapter) and `trl.SFTConfig` (training), so nothing is renamed
on the way. `auto` means: computed from the rows and the machine at the start, with a reason, and written to `decided.json`.
What the machine alone decides (dtype, attention, threads) is not here, and neither is a token.
"""

from __future__ import annotations

import difflib
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer, field_validator, model_validator
from pydantic.fields import FieldInfo

from lora_ui import errors
from lora_ui.errors import Say

Auto = Literal["auto"]


@dataclass(frozen=True)
class Ui:
    """How the form shows a field: slider `step`, and whether it is folded under Expert."""

    step: float | None = None
    advanced: bool = True


class Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


def _number(value: Any) -> Any:
    """YAML 1.1 reads `2e-4` as text; people write it all the time."""
    if isinstance(value, str) and value != "auto":
        try:
            return float(value)
        except ValueError:
            return value
    return value


# fmt: off
# One setting is one line.
class ModelSettings(Group):
    base_model: Annotated[str, Ui(advanced=False)] = Field("starter", min_length=1, max_length=500, title="Base model", description="The model you start from; training never changes it.")
    revision: Annotated[str | None, Ui()] = Field(None, title="Revision", description="A branch, tag or commit of the base model on the Hub; empty means its newest.")
    load_in_4bit: Annotated[bool | Auto, Ui()] = Field(False, title="Save memory (4-bit)", description="Squeezes the base model (QLoRA, NF4) so that it fits a smaller GPU, a little slower; auto: where it would not fit otherwise.")
    load_in_8bit: Annotated[bool, Ui()] = Field(False, title="Save memory (8-bit)", description="Squeezes the base model to 8 bits a number: half the memory of 16 bits.")

    @model_validator(mode="after")
    def _one_precision(self) -> ModelSettings:
        if self.load_in_4bit is True and self.load_in_8bit:
            raise ValueError(Say("load_in_4bit and load_in_8bit cannot both be on: choose one"))
        return self


class DataSettings(Group):
    source: Annotated[str, Ui(advanced=False)] = Field("", max_length=4000, title="Data", description="A file, a folder, or a dataset id on the Hub.")
    mapping: Annotated[dict[Literal["system", "user", "context", "assistant", "text", "messages"], str], Ui()] = Field(default_factory=dict, title="Columns", description="Which column holds the question (user), the answer (assistant), and so on; empty means recognised.")
    system_prompt: Annotated[str, Ui()] = Field("", max_length=20000, title="System prompt", description="An instruction put before every row that has none of its own.")
    template_for_base: Annotated[Literal["chatml", "plain"], Ui()] = Field("chatml", title="Layout without a template", description="How conversations are written for a base model that has no chat template; it becomes part of the adapter.")
    learn: Annotated[Literal["all", "last", "everything"], Ui()] = Field("all", title="What is learned", description="Every answer of a conversation, only its last one, or everything, questions too.")
    leave_out: Annotated[list[Literal["duplicate", "near_duplicate", "encoding", "language", "secret", "personal_data", "extreme_length", "whitespace", "special_token", "too_long", "leak"]], Ui()] = Field(default_factory=list, title="Left out", description="Rows with these findings are not used; the check of the data names them.")
    trim: Annotated[list[Literal["whitespace", "last_turn"]], Ui()] = Field(default_factory=list, title="Trimmed", description="Rows with these findings are trimmed: blank space around answers, turns after the last answer.")
    row_limit: Annotated[Annotated[int, Field(ge=2, le=1_000_000_000)] | None, Ui(step=1)] = Field(None, title="Row limit", description="Uses only this many rows, picked by chance with the split seed; empty uses all.")
    held_out_rows: Annotated[Annotated[float, Field(ge=0, le=100000)] | Auto, Ui(step=1, advanced=False)] = Field("auto", title="Held-out rows", description="Rows kept aside, or below 1 a share of them: it never learns from them, so that the test is fair.")
    held_out_source: Annotated[str, Ui()] = Field("", max_length=4000, title="Held-out data", description="A file, folder or Hub dataset of its own to test on, instead of rows kept aside.")
    split_seed: Annotated[int, Ui(step=1)] = Field(42, ge=0, le=2**31 - 1, title="Split seed", description="Which rows are kept aside; the same number keeps the same rows.")

    _read_numbers = field_validator("held_out_rows", mode="before")(_number)

    @field_validator("leave_out", "trim", mode="before")
    @classmethod
    def _none_chosen(cls, value: Any) -> Any:
        return value or []

    @field_validator("held_out_rows")
    @classmethod
    def _whole_rows(cls, value: float | str) -> float | int | str:
        if isinstance(value, str) or 0 < value < 1:
            return value
        if value != int(value):
            raise ValueError("a whole number of rows, or a share below 1")
        return int(value)

    @field_serializer("held_out_rows")
    def _rows_as_they_are(self, value: float | int | str) -> float | int | str:
        return value  # a whole number stays one, where pydantic would warn that it is no float


class AdapterSettings(Group):
    method: Annotated[Literal["lora", "lorafa", "adalora", "vera", "oft", "loha", "lokr", "ia3", "hira", "miss"], Ui()] = Field("lora", title="Kind of adapter", description="What is put beside the weights of the base; the choice How to adapt sets it with all that belongs to it.")
    r: Annotated[int, Ui(step=1)] = Field(16, ge=1, le=1024, title="Rank", description="How much the adapter can hold; 8 to 32 is enough for most tasks.")
    lora_alpha: Annotated[int, Ui(step=1)] = Field(32, ge=1, le=4096, title="Strength (alpha)", description="How strongly the adapter counts; its volume is alpha ÷ rank.")
    lora_dropout: Annotated[float, Ui(step=0.01)] = Field(0.0, ge=0, lt=1, title="Dropout", description="Skips random parts while learning, so that less is learned by heart.")
    target_modules: Annotated[str | list[str], Ui()] = Field("all-linear", title="Layers that learn", description='Which parts of the base get an adapter; "all-linear" is the safe choice.')
    use_rslora: Annotated[bool, Ui()] = Field(False, title="Rank-stable scaling (rsLoRA)", description="Divides alpha by the square root of the rank, so that high ranks learn well.")
    use_dora: Annotated[bool, Ui()] = Field(False, title="Direction and length apart (DoRA)", description="Learns direction and length of each weight separately: a little better, clearly slower.")
    init_lora_weights: Annotated[Literal[True, "gaussian", "orthogonal", "pissa", "olora", "eva", "lora_ga"], Ui()] = Field(True, title="First values", description="How the adapter starts: true is PEFT's default, gaussian the paper's; the others come from the base's own weights or from the rows.")
    block_size: Annotated[int, Ui(step=1)] = Field(32, ge=2, le=1024, title="Size of a block", description="OFT turns the inputs of a weight in blocks of this many numbers; larger blocks hold more.")
    bias: Annotated[Literal["none", "all", "lora_only"], Ui()] = Field("none", title="Biases that learn", description="Whether the base's bias terms are trained as well; none is usual.")

    _read_numbers = field_validator("lora_dropout", mode="before")(_number)

    @field_validator("target_modules")
    @classmethod
    def _no_head(cls, value: str | list[str]) -> str | list[str]:
        names = [value] if isinstance(value, str) else value
        if not names or not all(name.strip() for name in names):
            raise ValueError("name at least one module, or all-linear")
        if "lm_head" in names:
            raise ValueError("lm_head cannot carry an adapter: the loss is computed from its weight directly")
        return value


class TrainingSettings(Group):
    num_train_epochs: Annotated[Annotated[float, Field(gt=0, le=1000)] | Auto, Ui(step=1, advanced=False)] = Field("auto", title="Training rounds", description="How often it goes through all rows; too often and it learns them by heart.")
    max_steps: Annotated[int, Ui(step=1)] = Field(-1, ge=-1, le=10_000_000, title="Step limit", description="Ends after this many steps whatever the rounds say; -1 means no limit.")
    max_length: Annotated[int, Ui(step=64, advanced=False)] = Field(1024, ge=16, le=1_048_576, title="Longest row", description="Tokens; longer rows are cut here, and the Data page shows what is lost.")
    learning_rate: Annotated[float, Ui()] = Field(2e-4, gt=0, le=1, title="Learning rate", description="How big each correction is: too big and it gets worse, too small and nothing sticks.")
    loraplus_lr_ratio: Annotated[Annotated[float, Field(ge=1, le=1000)] | None, Ui(step=1)] = Field(None, title="Faster B (LoRA+)", description="The second matrix of each adapter learns this many times faster than the first; 16 is the paper's, empty is off.")
    lr_scheduler_type: Annotated[Literal["linear", "cosine", "constant", "constant_with_warmup", "inverse_sqrt"], Ui()] = Field("cosine", title="Learning-rate curve", description="How the correction size changes; cosine starts full and fades out.")
    warmup_steps: Annotated[Annotated[float, Field(ge=0, le=1_000_000)] | Auto, Ui(step=1)] = Field("auto", title="Warm-up", description="A gentle start: corrections grow from zero during the first steps (below 1: a share of them).")
    global_batch_size: Annotated[Annotated[int, Field(ge=1, le=65536)] | Auto, Ui(step=1)] = Field("auto", title="Rows per step", description="How many rows are looked at before one correction (the effective batch).")
    per_device_train_batch_size: Annotated[Annotated[int, Field(ge=1, le=4096)] | Auto, Ui(step=1)] = Field("auto", title="Rows at once", description="How many rows are in memory together; lower it when memory is short.")
    weight_decay: Annotated[float, Ui(step=0.01)] = Field(0.0, ge=0, le=1, title="Weight decay", description="Pulls the adapter towards zero a little; 0 is usual for LoRA.")
    max_grad_norm: Annotated[float, Ui(step=0.1)] = Field(1.0, gt=0, le=1000, title="Gradient limit", description="Corrections larger than this are shortened, which calms the start.")
    optim: Annotated[Literal["adamw_torch_fused", "adamw_torch", "adamw_8bit", "paged_adamw_8bit", "adafactor"], Ui()] = Field("adamw_torch_fused", title="Optimizer", description="What turns gradients into corrections; the 8-bit ones need less memory.")
    loss_type: Annotated[Literal["nll", "dft"], Ui()] = Field("nll", title="Loss", description="nll is the usual one; dft weighs each token by how likely it already was.")
    neftune_noise_alpha: Annotated[Annotated[float, Field(gt=0, le=100)] | None, Ui(step=1)] = Field(None, title="Input noise (NEFTune)", description="Adds noise to what it reads while learning; 5 can help style, empty is off.")
    packing: Annotated[bool | Auto, Ui()] = Field("auto", title="Packing", description="Lays short rows end to end so that no time goes into empty space.")
    activation_checkpointing: Annotated[bool | Literal["half"] | Auto, Ui()] = Field("auto", title="Time for memory", description="Works some things out twice instead of keeping them: less memory, slower; half: only in every second layer.")
    logging_steps: Annotated[Annotated[int, Field(ge=1, le=100000)] | Auto, Ui(step=1)] = Field("auto", title="Steps between points", description="How often a point is added to the curves.")
    save_steps: Annotated[Annotated[int, Field(ge=1, le=1_000_000)] | Auto, Ui(step=1)] = Field("auto", title="Steps between save points", description="How often progress is saved; a stopped run goes on from its last one.")
    save_total_limit: Annotated[int, Ui(step=1)] = Field(2, ge=1, le=100, title="Save points kept", description="Older save points are deleted; the best one is always kept.")
    seed: Annotated[int, Ui(step=1)] = Field(42, ge=0, le=2**31 - 1, title="Seed", description="Fixes chance: the same number and rows give the same run on the same machine.")

    _read_numbers = field_validator(
        "num_train_epochs", "learning_rate", "warmup_steps", "weight_decay", "max_grad_norm", "neftune_noise_alpha", "loraplus_lr_ratio", mode="before"
    )(_number)

    @field_validator("max_steps")
    @classmethod
    def _some_steps(cls, value: int) -> int:
        if value == 0:
            raise ValueError("0 would train nothing; -1 means no limit")
        return value

    @model_validator(mode="after")
    def _batches_divide(self) -> TrainingSettings:
        whole, part = self.global_batch_size, self.per_device_train_batch_size
        if isinstance(whole, int) and isinstance(part, int) and whole % part:
            raise ValueError(Say("global_batch_size ({whole}) has to be a multiple of per_device_train_batch_size ({part})", whole=whole, part=part))
        return self


class EvaluationSettings(Group):
    eval_steps: Annotated[Annotated[int, Field(ge=1, le=1_000_000)] | Auto, Ui(step=1)] = Field("auto", title="Steps between tests", description="How often the held-out rows are tried.")
    early_stopping_patience: Annotated[int, Ui(step=1)] = Field(0, ge=0, le=1000, title="Stop when it stops helping", description="Ends after this many tests without improvement and keeps the best point; 0 is off.")


# fmt: on


class Settings(Group):
    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    adapter: AdapterSettings = AdapterSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()


@dataclass(frozen=True)
class SettingsField:
    """One field as form, command line and README see it. `kind`: text, number, integer, choice, switch (with `choices` between on and
    off), list or mapping."""

    group: str
    name: str
    title: str
    description: str
    kind: str
    default: Any
    choices: tuple[Any, ...]
    minimum: float | None
    above: bool
    """The minimum itself is not allowed."""
    maximum: float | None
    auto: bool
    optional: bool
    ui: Ui

    @property
    def key(self) -> str:
        return f"{self.group}.{self.name}"


def _kind(annotation: Any) -> tuple[str, tuple[Any, ...], bool, bool]:
    """(kind, choices, accepts auto, accepts None) of a field's type."""
    union = typing.get_origin(annotation) in (Union, types.UnionType)
    parts = [_bare(part) for part in (typing.get_args(annotation) if union else (annotation,))]
    literals = [v for p in parts if typing.get_origin(p) is Literal for v in typing.get_args(p)]
    choices = tuple(v for v in literals if v != "auto")
    optional = type(None) in parts
    auto = "auto" in literals
    if choices and bool not in parts:
        return "choice", choices, auto, optional
    if any(typing.get_origin(p) is dict for p in parts):
        return "mapping", (), auto, optional
    if lists := [p for p in parts if typing.get_origin(p) is list]:
        inner = typing.get_args(lists[0])[0]
        return "list", typing.get_args(inner) if typing.get_origin(inner) is Literal else (), auto, optional
    for plain, kind in ((bool, "switch"), (int, "integer"), (float, "number"), (str, "text")):
        if plain in parts:
            return kind, choices, auto, optional
    raise TypeError(annotation)


def _bare(part: Any) -> Any:
    return typing.get_args(part)[0] if typing.get_origin(part) is Annotated else part


def _bounds(info: FieldInfo) -> dict[str, Any]:
    """ge, gt, le, lt of a number, wherever in its type they stand."""
    inner = [
        m for part in typing.get_args(info.annotation) if typing.get_origin(part) is Annotated for m in typing.get_args(part)[1].metadata
    ]
    return {k: getattr(m, k) for m in [*info.metadata, *inner] for k in ("ge", "gt", "le", "lt") if getattr(m, k, None) is not None}


def fields() -> list[SettingsField]:
    """Every setting, in the order of the form."""
    found = []
    for group, of_group in Settings.model_fields.items():
        assert isinstance(of_group.annotation, type) and issubclass(of_group.annotation, Group)
        for name, info in of_group.annotation.model_fields.items():
            kind, choices, auto, optional = _kind(info.annotation)
            bounds = _bounds(info)
            found.append(
                SettingsField(
                    group=group,
                    name=name,
                    title=info.title or name,
                    description=info.description or "",
                    kind=kind,
                    default=info.get_default(call_default_factory=True),
                    choices=choices,
                    minimum=bounds.get("ge", bounds.get("gt")),
                    above="gt" in bounds,
                    maximum=bounds.get("le", bounds.get("lt")),
                    auto=auto,
                    optional=optional,
                    ui=next(m for m in info.metadata if isinstance(m, Ui)),
                )
            )
    return found


def parse(raw: dict[str, Any]) -> Settings:
    """Check a nested dict of settings. Raises InvalidSettings, which names every wrong field at once."""
    try:
        return Settings.model_validate(raw)
    except ValidationError as e:
        raise errors.InvalidSettings(list(dict.fromkeys(_problem(p) for p in e.errors()))) from None


def _problem(problem: Any) -> Say:
    """One line: the field's key, what is wrong, and a hint. Pydantic adds union branches to `loc`; the key is its first two parts."""
    loc = [str(part) for part in problem["loc"]]
    key = ".".join(loc[:2]) or "settings"
    if problem["type"] == "extra_forbidden":
        known = [f.key for f in fields()] + list(Settings.model_fields)
        near = [f.key for f in fields() if f.name == loc[-1]] or difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        if near:
            return Say("{key}: there is no such field; did you mean {near}?", key=key, near=near[0])
        return Say("{key}: there is no such field", key=key)
    shown = problem.get("input")
    field = next((f for f in fields() if f.key == key), None)
    if field is None or isinstance(shown, dict):
        said = problem.get("ctx", {}).get("error")
        own = said.args[0] if said and isinstance(said.args[0], Say) else Say("{said}", said=problem["msg"])
        return Say("{key}: {said}", key=key, said=own)
    return Say("{key}: {shown} cannot be used; it takes {expected}", key=key, shown=repr(shown), expected=_expected(field))


def _expected(field: SettingsField) -> Say:
    if field.name == "target_modules":
        return Say("all-linear or module names, and never lm_head")
    if field.name == "held_out_rows":
        return Say("a whole number of rows, a share below 1, or auto")
    kinds = {
        "integer": Say("a whole number"),
        "number": Say("a number"),
        "switch": Say("true, false or {choices}", choices=", ".join(field.choices)) if field.choices else Say("true or false"),
        "text": Say("text"),
        "list": Say("a name or a list of names"),
        "mapping": Say("role=column pairs; the roles are system, user, context, assistant, text, messages"),
        "choice": Say("one of {choices}", choices=", ".join(map(str, field.choices))),
    }
    expected = kinds["choice" if field.choices and field.kind != "switch" else field.kind]
    if field.kind in ("integer", "number") and field.minimum is not None:
        low, high = f"{field.minimum:g}", f"{field.maximum:g}"
        bounded = Say("{what} above {low}, to {high}", what=expected, low=low, high=high)
        expected = bounded if field.above else Say("{what} from {low} to {high}", what=expected, low=low, high=high)
    return Say("{what} or auto", what=expected) if field.auto else expected


def with_4bit(chosen: Settings, four: bool) -> Settings:
    """The same settings with what `model.load_in_4bit` came to."""
    return chosen.model_copy(update={"model": chosen.model.model_copy(update={"load_in_4bit": four})})


def merge(*layers: dict[str, Any]) -> dict[str, Any]:
    """Later layers win, field by field: preset, then settings file, then `--set`, then the form."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for group, values in layer.items():
            if isinstance(values, dict) and isinstance(merged.get(group, {}), dict):
                merged[group] = {**merged.get(group, {}), **values}
            else:
                merged[group] = values
    return merged


def from_assignments(assignments: list[str]) -> dict[str, Any]:
    """`["training.learning_rate=2e-4", …]` as a nested dict. Values are YAML; in a list field commas make a list. Raises InvalidSettings."""
    raw: dict[str, Any] = {}
    lists = {f.key for f in fields() if f.kind == "list"}
    for assignment in assignments:
        key, sign, text = assignment.partition("=")
        group, dot, name = key.strip().partition(".")
        if not (sign and dot and name):
            raise errors.InvalidSettings(
                [Say("{given}: write --set group.field=value, such as training.learning_rate=2e-4", given=assignment)]
            )
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        if key.strip() in lists and isinstance(value, str) and ("," in value or value != "all-linear"):
            value = [part.strip() for part in value.split(",")]
        raw.setdefault(group, {})[name] = value
    return raw


def read(path: Path) -> dict[str, Any]:
    """The groups of a YAML recipe or preset; its header (`preset`) is left out. Raises UnreadableSettingsFile."""
    try:
        raw = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise errors.UnreadableSettingsFile(name=path.name, detail=str(e)) from None
    if not isinstance(raw, dict):
        raise errors.UnreadableSettingsFile(name=path.name, detail="It holds no groups of settings.")
    return {k: v for k, v in raw.items() if k != "preset"}


def write(settings: Settings, header: dict[str, Any]) -> str:
    """The recipe as YAML: a preset again. `header` (title, name…) goes under `preset`."""
    return yaml.safe_dump({"preset": header, **settings.model_dump()}, sort_keys=False, allow_unicode=True)
