"""What every failure has: message, cause and fix; and sentences that can be said in another language."""

from __future__ import annotations

import re
from typing import Any

_ONE_OR_MORE = re.compile(r"\[([^\[\]|]*)\|([^\[\]|]*)\]")


def fill(template: str, values: dict[str, Any]) -> str:
    """The template with its values. `[row has|rows have]` in it is the first for a `count` (or `n`) of one, else the second."""
    one = values.get("count", values.get("n")) in (1, "1")
    return _ONE_OR_MORE.sub(r"\1" if one else r"\2", template).format(**values)


class Say(str):
    """An English sentence that remembers its template and values, so that the page can say it in another language."""

    template: str
    values: dict[str, Any]

    def __new__(cls, template: str, **values: Any) -> Say:
        self = super().__new__(cls, fill(template, values))
        self.template, self.values = template, values
        return self

    def as_dict(self) -> dict[str, Any]:
        """`{text, template, values}`: what is written to JSON files."""
        return {"text": str(self), "template": self.template, "values": self.values}


class LoraUIError(Exception):
    """A failure a person can meet. Subclasses set `message`, `cause` and `fix` as templates."""

    message = "Something went wrong."
    cause = ""
    fix = ""

    def __init__(self, **values: Any):
        self.values = values
        self.message, self.cause, self.fix = (t.format(**values) for t in (self.message, self.cause, self.fix))
        super().__init__(" ".join(part for part in (self.message, self.cause, self.fix) if part))

    @property
    def kind(self) -> str:
        return type(self).__name__

    def as_dict(self) -> dict[str, Any]:
        """`{kind, message, cause, fix, values}`: what `outcome.json`, `--json` and the page carry."""
        values = {name: value.as_dict() if isinstance(value, Say) else value for name, value in self.values.items()}
        return {"kind": self.kind, "message": self.message, "cause": self.cause, "fix": self.fix, "values": values}


def again(said: dict[str, Any]) -> LoraUIError:
    """The failure that another process wrote with `as_dict`: same class, same words."""
    kinds = {kind.__name__: kind for kind in LoraUIError.__subclasses__()}
    kind = kinds.get(said["kind"], LoraUIError)
    error = kind.__new__(kind)  # its words are filled already
    error.message, error.cause, error.fix, error.values = said["message"], said["cause"], said["fix"], said["values"]
    Exception.__init__(error, " ".join(part for part in (error.message, error.cause, error.fix) if part))
    return error
