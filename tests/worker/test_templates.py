"""Masks of real template families: the assistant's words and the end of its turn are learned, and nothing else.

The templates are read from the installed TRL package, but for shapes it lacks. What is expected was written down by hand from
each family's documentation: `lead` is what the model itself has to write before a last answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trl
from transformers import PreTrainedTokenizerFast

from lora_ui.worker import layout, render
from lora_ui.worker.render import READ_ONLY, Rendered, Unrenderable
from tests.tiny import CHATML, tiny_tokenizer

PACKAGED = Path(trl.__file__).parent / "chat_templates"
CONTROL = re.compile(r"<[|｜][^<>|｜\s']*[|｜]>|\[/?INST\]|</s>|<(?:start|end)_of_turn>|<\|?turn\|?>|<sop>|\[gMASK\]|<\|tool_response>")
INST = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
DEFAULT_SYSTEM = "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant from the valley.<|im_end|>\n' }}{% endif %}"
OWN = {"chatml": CHATML, "starter": DEFAULT_SYSTEM + CHATML, "inst": INST, "base-chatml": layout.CHATML, "base-named": layout.NAMED}


@dataclass(frozen=True)
class Family:
    """`end` follows an answer, `between` one that is not the last; `call`: a call of get_weather with city=Oslo as the model writes it,
    None where the template knows no tools; `thought`: the thinking before the last answer, None where the template drops it."""

    end: str
    between: str | None = None
    lead: str = ""
    before: str = ""
    system: bool = True
    call: str | None = None
    thought: str | None = None


QWEN_CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>'
QWEN_LATER = "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n</tool_call><|im_end|>"
DEEPSEEK = "<｜end▁of▁sentence｜>"
DEEPSEEK_CALL = '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{"city": "Oslo"}\n```'
GLM_CALL = "\n<think></think>\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n</tool_call>"
FAMILIES = {
    "llama3": Family("<|eot_id|>"),
    "llama3_1": Family("<|eot_id|>", call='{"name": "get_weather", "parameters": {"city": "Oslo"}}<|eot_id|>'),
    "gemma": Family("<end_of_turn>", system=False),
    "gemma3": Family("<end_of_turn>"),
    "gemma4_v5": Family(
        "<turn|>",
        call='<|tool_call>call:get_weather{city:<|"|>Oslo<|"|>}<tool_call|><|tool_response>',
        thought="<|channel>thought\nPondered.\n<channel|>",
    ),
    "phi3": Family("<|end|>"),
    "phi3_5": Family("<|end|>"),
    "qwen2_5": Family("<|im_end|>", call=QWEN_CALL),
    "qwen3": Family("<|im_end|>", lead="<think>\n\n</think>\n\n", call=QWEN_CALL, thought="<think>\nPondered.\n</think>\n\n"),
    "qwen3_instruct_2507": Family("<|im_end|>", call=QWEN_CALL),
    "qwen3_5_think": Family("<|im_end|>", lead="\n</think>\n\n", call="\n</think>\n\n" + QWEN_LATER, thought="Pondered.\n</think>\n\n"),
    "qwen3_5_nothink": Family("<|im_end|>", call=QWEN_LATER, thought="<think>\nPondered.\n</think>\n\n"),
    "deepseekv3": Family(DEEPSEEK, call=DEEPSEEK_CALL + "<｜tool▁call▁end｜><｜tool▁calls▁end｜>" + DEEPSEEK),
    "deepseek_r1_distill": Family(DEEPSEEK),
    "gptoss": Family(
        "<|return|>",
        between="<|end|>",
        lead="<|channel|>final<|message|>",
        before="<|channel|>final<|message|>",
        call=' to=functions.get_weather<|channel|>commentary json<|message|>{"city": "Oslo"}<|call|>',
        thought="<|channel|>analysis<|message|>Pondered.<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
    "cohere": Family("<|END_OF_TURN_TOKEN|>"),
    "cohere2": Family("<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"),
    "glm4moe": Family("", lead="\n<think></think>\n", before="\n<think></think>\n", call=GLM_CALL, thought="\n<think>Pondered.</think>\n"),
    "lfm2_v2": Family("<|im_end|>", call="<|tool_call_start|>[get_weather(city='Oslo')]<|tool_call_end|><|im_end|>"),
    # as TRL marks what is learned, with generation tags
    "llama3_training": Family("<|eot_id|>"),
    "gemma_training": Family("<end_of_turn>", system=False),
    "cohere_training": Family("<|END_OF_TURN_TOKEN|>"),
    # ours
    "chatml": Family("<|im_end|>"),
    "starter": Family("<|im_end|>"),
    "inst": Family("<eos>", lead=" ", before=" ", system=False),
    "base-chatml": Family("<eos>"),
    "base-named": Family("<eos>", lead=" ", before=" "),
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "The city."}}, "required": ["city"]},
        },
    }
]
CALL = {"type": "function", "id": "call00001", "function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def tokenizer_of(folder: Path, name: str) -> PreTrainedTokenizerFast:
    template = OWN.get(name) or (PACKAGED / f"{name}.jinja").read_text()
    tiny_tokenizer(folder, None if name.startswith("base-") else template)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_tokens(sorted({*CONTROL.findall(template), "<bos>", "<eos>"}), special_tokens=True)
    tokenizer.bos_token, tokenizer.eos_token = "<bos>", "<eos>"
    return tokenizer


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Family, PreTrainedTokenizerFast, str]:
    tokenizer = tokenizer_of(tmp_path, request.param)
    return FAMILIES[request.param], tokenizer, layout.template_of(tokenizer, "plain" if request.param == "base-named" else "chatml")


def made(tokenizer: PreTrainedTokenizerFast, template: str, messages: list[Any], learn: str = "all", tools: Any = None) -> Rendered:
    row = {"messages": messages} | ({"tools": tools} if tools else {})
    result = render.render(tokenizer, row, "", 9999, template, learn)
    assert "".join(result.text[a:b] for a, b in zip(result.starts, result.ends, strict=True)) == result.text
    assert all(label in (READ_ONLY, id) for label, id in zip(result.labels, result.input_ids, strict=True))
    return result


def learned(result: Rendered) -> list[str]:
    pieces, before = [], READ_ONLY
    for start, end, label in zip(result.starts, result.ends, result.labels, strict=True):
        if label != READ_ONLY:
            piece = result.text[start:end]
            pieces = [*pieces, piece] if before == READ_ONLY else [*pieces[:-1], pieces[-1] + piece]
        before = label
    return pieces


TURNS = [user("What is the river?"), assistant("It is short."), user("Why?"), assistant("Because\nof the mill 🏭.")]


def test_there_are_families_enough() -> None:
    assert len({name.split("_")[0] for name in FAMILIES}) >= 12
    assert sum(f.call is not None for f in FAMILIES.values()) >= 8


def test_every_answer_or_the_last_or_everything(family: Any) -> None:
    truth, tokenizer, template = family
    first = truth.before + "It is short." + (truth.end if truth.between is None else truth.between)
    last = truth.lead + "Because\nof the mill 🏭." + truth.end
    assert learned(made(tokenizer, template, TURNS)) == [first, last]
    assert learned(made(tokenizer, template, TURNS, "last")) == [last]
    everything = made(tokenizer, template, TURNS, "everything")
    assert everything.labels == [READ_ONLY, *everything.input_ids[1:]]


def test_a_system_prompt_is_read_and_not_learned(family: Any) -> None:
    truth, tokenizer, template = family
    for said in ("Be brief.", ""):
        messages = [{"role": "system", "content": said}, *TURNS[:2]]
        if not truth.system:
            with pytest.raises(Exception, match=r"[Ss]ystem|Only user"):
                made(tokenizer, template, messages)
            continue
        result = made(tokenizer, template, messages)
        assert learned(result) == [truth.lead + "It is short." + truth.end]
        assert said in result.text and result.missing == []


def test_calls_of_tools_are_learned_and_their_results_are_not(family: Any) -> None:
    truth, tokenizer, template = family
    result = {"role": "tool", "content": "Rain", "name": "get_weather", "tool_call_id": "call00001"}
    messages = [user("Weather in Oslo?"), assistant("", tool_calls=[CALL]), result, assistant("It rains.")]
    if truth.call is None:
        with pytest.raises(Exception, match=r"alternate|drops or changes|Only user"):
            made(tokenizer, template, messages, tools=TOOLS)
        return
    for calls in ([CALL], '[{"name": "get_weather", "arguments": "{\\"city\\": \\"Oslo\\"}"}]'):
        asked = [messages[0], assistant("", tool_calls=calls), *messages[2:]]
        assert learned(made(tokenizer, template, asked, tools=TOOLS)) == [truth.call, truth.lead + "It rains." + truth.end]


def test_thinking_is_learned_or_told(family: Any) -> None:
    truth, tokenizer, template = family
    thinking = [user("Q"), assistant("It is short.", reasoning_content="Pondered.")]
    result = made(tokenizer, template, thinking)
    if truth.thought is None:
        assert (learned(result), result.missing) == ([truth.lead + "It is short." + truth.end], ["thinking"])
    else:
        assert (learned(result), result.missing) == ([truth.thought + "It is short." + truth.end], [])
        earlier = made(tokenizer, template, [*thinking, user("Why?"), assistant("So.", reasoning_content="Mused.")])
        assert earlier.missing == ["thinking"]


def test_control_tokens_in_calls_and_tools_are_plain_letters(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, "qwen3")
    nasty = "a<|im_end|>b"
    call = {**CALL, "function": {"name": "get_weather", "arguments": {"city": nasty, nasty: 1}}}
    tools = [{**TOOLS[0], "function": {**TOOLS[0]["function"], "description": nasty}}]
    messages = [user("Q"), assistant("", tool_calls=[call]), {"role": "tool", "content": nasty}, assistant("A", reasoning_content=nasty)]
    result = made(tokenizer, layout.template_of(tokenizer), messages, tools=tools)
    assert result.control_like == 5
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert result.input_ids.count(end) == 5 and result.text.count("<|im_end|>") == 10


def test_a_call_that_the_template_drops_is_refused(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, "llama3_training")
    with pytest.raises(Unrenderable):
        made(tokenizer, layout.template_of(tokenizer), [user("Q"), assistant("", tool_calls=[CALL])])


def test_rows_together_have_the_tokens_of_rows_alone(family: Any) -> None:
    _, tokenizer, template = family
    rows = [{"messages": TURNS[:2]}, {"messages": [user("a<|im_end|><eos>b"), assistant("c")]}, {"messages": TURNS}, {"text": "Plain text"}]
    laid = [render.lay(tokenizer, row, "", template) for row in rows]
    together = render.tokenise(tokenizer, laid, 9999)
    assert [together.row(at) for at in range(len(rows))] == [render.render(tokenizer, row, "", 9999, template) for row in rows]
    for row, one in zip(rows[:1] + rows[2:3], (laid[0], laid[2]), strict=True):
        assert one.text == layout.lay_out(tokenizer, row["messages"], None, template)[0]
        assert render.tokenise(tokenizer, [one], 9999).row(0).input_ids == tokenizer(one.text, add_special_tokens=False).input_ids


def test_what_a_template_says_by_itself(tmp_path: Path) -> None:
    said = {}
    for name in ("starter", "qwen2_5", "llama3_1", "gptoss", "llama3", "gemma3", "chatml", "inst", "base-named"):
        tokenizer = tokenizer_of(tmp_path / name, name)
        said[name] = layout.own_words(tokenizer, layout.template_of(tokenizer, "plain"))
    assert said["starter"] == "You are a helpful assistant from the valley."
    assert said["qwen2_5"] == "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    assert said["llama3_1"].startswith("Cutting Knowledge Date") and said["gptoss"].startswith("You are ChatGPT")
    assert {name for name, words in said.items() if not words} == {"llama3", "gemma3", "chatml", "inst", "base-named"}
