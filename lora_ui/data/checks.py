"""What is noticed about canonical rows, all at once, and which rows each finding means.

One pass over the rows on disk, a thousand at a time; what is kept of a row is its number, hashes and flags, beside the rows in
`checks.parquet`, with the findings in `checks.json`. Nothing is dropped here: a person drops rows by naming a finding's code in
`data.leave_out`. Not here: rows that cannot be learned from (convert.py), what a tokenizer is needed for (worker/prepare.py).
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from lora_ui.data import store
from lora_ui.data.duplicates import Duplicates
from lora_ui.data.private import has_email, has_phone, has_secret
from lora_ui.data.report import finding
from lora_ui.data.store import Dataset, Told, quiet
from lora_ui.data.writing import has_html, is_mojibake, script, trimmed
from lora_ui.errors import Say
from lora_ui.home import Home, read_json, write_json

FLAGS = ("duplicate", "near_duplicate", "encoding", "language", "secret", "personal_data", "extreme_length", "whitespace")
"""Codes of rows that can be left out before a tokenizer is known."""
_FORM = 2
"""Raised when checks change, so that they are made anew."""
_LABELS = 20
_FEW_WORDS = 60
_MOST = 0.9
_LOOK = Say("Look at these rows; leave them out if they do not belong.")


def load(
    home: Home,
    source: str | Path,
    mapping: dict[str, str] | None = None,
    token: str | None = None,
    told: Told = quiet,
    trim: Collection[str] = (),
) -> Dataset:
    """`store.load` with the findings of these checks in its report. Raises as it does."""
    dataset = store.load(home, source, mapping, token, told, trim)
    own = check(home, dataset.digest, told)
    report = {**dataset.report, "findings": dataset.report["findings"] + own}
    write_json(home.dataset(dataset.digest) / "report.json", report)
    return Dataset(dataset.digest, dataset.name, report)


def check(home: Home, digest: str, told: Told = quiet) -> list[dict[str, Any]]:
    """The findings about these rows, made once. Raises DataNotFound."""
    folder = home.dataset(digest)
    found = read_json(folder / "checks.json")
    if found is None or found["form"] != _FORM:
        seen, total = _Seen(), store.open(home, digest).report["kept"]
        for done, row in enumerate(store.every_row(home, digest)):
            told("checking", done, total)
            seen.add(row)
        flags = seen.flags()
        pyarrow.parquet.write_table(pyarrow.table(flags), folder / "checks.parquet")
        found = {"form": _FORM, "findings": seen.findings(flags)}
        write_json(folder / "checks.json", found)
    return list(found["findings"])


def marks(home: Home, digest: str) -> dict[str, Any]:
    """For each row, in order, as numpy arrays: row (number), group (rows that belong on one side of a split have the same),
    opening and words (hashes), and for each of FLAGS whether it is meant. Raises DataNotFound."""
    check(home, digest)
    table = pyarrow.parquet.read_table(home.dataset(digest) / "checks.parquet")
    return {name: table[name].to_numpy() for name in table.column_names}


class _Seen:
    """What is remembered of the rows that went by."""

    def __init__(self) -> None:
        self.rows, self.lengths, self.scripts = array("q"), array("q"), array("b")
        self.names: dict[str | None, int] = {None: -1}
        self.said: dict[str, list[int]] = {name: [] for name in ("mojibake", "html", "secret", "email", "phone", "whitespace")}
        self.duplicates = Duplicates()
        self.labels: Counter[str] | None = Counter()
        self.label_rows: dict[str, list[int]] = {}

    def add(self, row: dict[str, Any]) -> None:
        at, text = len(self.rows), _text(row)
        self.rows.append(row["row"])
        self.lengths.append(len(text))
        answer = text if "text" in row else row["messages"][-1].get("content") or ""
        self.scripts.append(self.names.setdefault(script(answer), len(self.names) - 1))
        self.duplicates.add(row)
        looks = {"mojibake": is_mojibake, "html": has_html, "secret": has_secret, "email": has_email, "phone": has_phone}
        for name, look in looks.items():
            if look(text):
                self.said[name].append(at)
        if any(m["role"] == "assistant" and trimmed(m["content"]) != m["content"] for m in row.get("messages", ())):
            self.said["whitespace"].append(at)
        if self.labels is not None:
            self._label(answer.strip(), row["row"], "text" in row)

    def _label(self, answer: str, number: int, plain: bool) -> None:
        """Answers are counted as long as they are few and short."""
        assert self.labels is not None
        self.labels[answer] += 1
        if len(self.label_rows.setdefault(answer, [])) < 5:
            self.label_rows[answer].append(number)
        if plain or len(self.labels) > _LABELS or len(answer) > _FEW_WORDS:
            self.labels = None

    def flags(self) -> dict[str, Any]:
        count = len(self.rows)
        groups, near = self.duplicates.groups()

        def at(*names: str) -> Any:
            flagged = np.zeros(count, bool)
            for name in names:
                flagged[self.said[name]] = True
            return flagged

        flags = {"duplicate": self.duplicates.repeats(), "near_duplicate": near, "encoding": at("mojibake")}
        flags |= {"language": self._foreign()[2], "secret": at("secret"), "personal_data": at("email", "phone")}
        hashes = {"opening": np.frombuffer(self.duplicates.openings, np.int64), "words": np.frombuffer(self.duplicates.words, np.int64)}
        flags |= {"extreme_length": self._extreme(), "whitespace": at("whitespace")}
        return {"row": np.frombuffer(self.rows, np.int64), "group": groups, **hashes, **flags}

    def _extreme(self) -> Any:
        """Rows more than twenty times as long as the middle one, and long at that."""
        lengths = np.frombuffer(self.lengths, np.int64)
        return (lengths > 20 * max(1.0, float(np.median(lengths)))) & (lengths > 4000)

    def _foreign(self) -> tuple[str, str, Any]:
        """(main script, others, rows in others): only where nearly all rows are in one."""
        scripts = np.frombuffer(self.scripts, np.int8)
        none = np.zeros(len(scripts), bool)
        known = scripts[scripts >= 0]
        counts = np.bincount(known) if len(known) else np.zeros(1, int)
        main = int(counts.argmax())
        if len(known) < 20 or counts[main] < _MOST * len(known) or counts[main] == len(known):
            return "", "", none
        names = {number: name for name, number in self.names.items()}
        others = ", ".join(str(names[i]) for i in np.argsort(-counts).tolist() if counts[i] and i != main)
        return str(names[main]), others, (scripts >= 0) & (scripts != main)

    def findings(self, flags: dict[str, Any]) -> list[dict[str, Any]]:
        numbers = flags["row"]

        def warn(code: str, at: Any, message: str, fix: Say, action: str | None = "drop", **values: Any) -> list[dict[str, Any]]:
            rows = numbers[at].tolist()
            said, trim = _message(code, message, count=len(rows), **values), "whitespace" if code == "whitespace" else None
            return [finding(code, "warn", rows, said, fix, action=action, trim=trim)] if rows else []

        main, others, _ = self._foreign()
        lengths = np.frombuffer(self.lengths, np.int64)
        emails, phones = len(self.said["email"]), len(self.said["phone"])
        return [
            *warn("duplicate", flags["duplicate"], "repeats", Say("Remove them unless the repetition is meant.")),
            *warn("near_duplicate", flags["near_duplicate"], "alike", Say("Keep one of each unless the small differences matter.")),
            *warn("conflict", self.duplicates.conflicts(), "conflict", Say("Keep the answer you want, unless all of them are good."), None),
            *warn("encoding", flags["encoding"], "mojibake", Say("Save the data as UTF-8 from where it came, or leave these rows out.")),
            *warn("encoding", self.said["html"], "html", Say("Clean them unless the model should write HTML."), None),
            *warn("language", flags["language"], "language", _LOOK, main=main, others=others),
            *warn("secret", flags["secret"], "secret", Say("Remove them: what is learned can be said again. Change a key that was real.")),
            *warn(
                "personal_data", flags["personal_data"], "personal", Say("Remove them unless you may use them."), email=emails, phone=phones
            ),
            *warn("extreme_length", flags["extreme_length"], "long", _LOOK, longest=int(lengths.max()), middle=int(np.median(lengths))),
            *warn("whitespace", flags["whitespace"], "blank", Say("Trim it unless it is meant: the model would learn to write it.")),
            *self._imbalance(),
        ]

    def _imbalance(self) -> list[dict[str, Any]]:
        """When answers are few different labels: one is nearly everywhere, or ten times as frequent as another."""
        total = len(self.rows)
        if not self.labels or len(self.labels) < 2 or total < max(50, 10 * len(self.labels)):
            return []
        (most, many), (least, few) = self.labels.most_common()[0], self.labels.most_common()[-1]
        if many < _MOST * total and many < 10 * few:
            return []
        counts = {"labels": len(self.labels), "most": most, "share": f"{many / total:.0%}", "least": least, "few": few}
        message = Say("The answers are {labels} labels, and uneven: {most} is {share} of all rows, {least} only {few} rows.", **counts)
        fix = Say("Add rows of the rare ones, or it learns to say the frequent one.")
        return [finding("label_imbalance", "warn", self.label_rows[least], message, fix, count=few)]


def _text(row: dict[str, Any]) -> str:
    if "text" in row:
        return str(row["text"])
    return "\n".join(text for m in row["messages"] for text in (m.get("content"), m.get("reasoning_content")) if text)


def _message(code: str, kind: str, **values: Any) -> Say:
    match kind:
        case "repeats":
            return Say("{count} [row repeats|rows repeat] an earlier row word for word. Nothing is left out.", **values)
        case "alike":
            return Say("{count} [row is|rows are] nearly the same as an earlier row.", **values)
        case "conflict":
            return Say("{count} [row has|rows have] the same prompt as another row and a different answer.", **values)
        case "mojibake":
            return Say("{count} [row holds|rows hold] letters that were read with the wrong encoding, such as Ã© for é.", **values)
        case "html":
            return Say("{count} [row holds|rows hold] left-overs of web pages, such as <br> or &amp;.", **values)
        case "language":
            return Say(
                "{count} [answer is|answers are] in another script ({others}) than nearly all others ({main}). Languages of one script are not told apart.",
                **values,
            )
        case "blank":
            return Say("{count} [row has|rows have] blank space before or after an answer.", **values)
        case "secret":
            return Say("{count} [row seems|rows seem] to hold a password or a secret key.", **values)
        case "personal":
            return Say("{count} [row holds|rows hold] e-mail addresses ({email}) or phone numbers ({phone}).", **values)
    return Say(
        "{count} [row is|rows are] very much longer than the others: up to {longest} characters, where the middle row has {middle}.",
        **values,
    )
