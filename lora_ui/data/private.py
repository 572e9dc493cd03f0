"""Keys, passwords and personal data in people's text. They are looked for here and told; nothing is sent anywhere."""

from __future__ import annotations

import re

SECRET = re.compile(
    r"\b(?:hf|api_org)_[A-Za-z0-9]{30,}"
    r"|\bsk-(?:proj-|ant-)?[A-Za-z0-9_-]{20,}"
    r"|\b(?:ghp|gho|ghs|github_pat|glpat|xox[abpr])[-_][A-Za-z0-9_-]{16,}"
    r"|\bAKIA[0-9A-Z]{16}\b"
    r"|\bAIza[0-9A-Za-z_-]{35}"
    r"|-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"
    r"|://[^/\s:@]+:[^/\s@]{4,}@"
)
_EMAIL = re.compile(r"[\w.+-]{1,64}@(?!(?:[\w-]+\.)*(?:example|test|localhost)\b)[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}\b")
_PHONE = re.compile(
    r"(?<![\w+])\+\d{1,3}[ (./-]{0,2}\d{1,4}(?:[ )./-]{1,2}\d{2,8}){2,4}(?![\w-])"
    r"|(?<![\w+])\+\d{9,14}(?!\w)"
    r"|(?<!\w)\(?\d{3}\)?[ -]\d{3}-\d{4}(?![\w-])"
    r"|(?<![\w.+-])1[3-9]\d{9}(?![\w.])"
)
_DIGITS = re.compile(r"\d{3}")


def has_secret(text: str) -> bool:
    return bool(SECRET.search(text))


def has_email(text: str) -> bool:
    return "@" in text and bool(_EMAIL.search(text))


def has_phone(text: str) -> bool:
    """International numbers with +, American ones with dashes, Chinese mobile numbers; others look like any number."""
    return bool(_DIGITS.search(text)) and bool(_PHONE.search(text))
