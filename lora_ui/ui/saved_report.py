"""A report on data as one page that can be saved, sent and opened anywhere: nothing in it is loaded from elsewhere or run.
The command line writes it as well, in English; no Gradio here."""

from __future__ import annotations

from html import escape
from typing import Any

from lora_ui.ui.words import Words

_MARKS = {"error": "✕", "drop": "✕", "warn": "!"}
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #566170; --page: #f6f7f9; --card: #fff; --line: #dfe3e8; --bad: #a32020; --bad-fill: #fdecec; --warn: #7a5200; --warn-fill: #fff4dc; --good: #17663a; --good-fill: #e5f5ec; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ebef; --soft: #a5afbb; --page: #14181d; --card: #1c2229; --line: #323a44; --bad: #ff9d9d; --bad-fill: #3a1d1f; --warn: #f3c969; --warn-fill: #38301a; --good: #8fdcae; --good-fill: #17301f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 960px; padding: 32px 16px 64px; font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); overflow-wrap: anywhere; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 32px 0 8px; }
p { margin: 0; } .soft { color: var(--soft); font-size: 14px; }
ul { list-style: none; margin: 0; padding: 0; } li, table { background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
li { display: flex; gap: 12px; padding: 12px 16px; margin: 8px 0; align-items: flex-start; }
.pill { display: inline-block; padding: 2px 12px; border-radius: 999px; font-size: 14px; font-weight: 600; white-space: nowrap; margin: 8px 8px 0 0; } li .pill { margin: 0; }
.drop, .error { color: var(--bad); background: var(--bad-fill); } .warn { color: var(--warn); background: var(--warn-fill); } .ready { color: var(--good); background: var(--good-fill); }
table { border-collapse: collapse; width: 100%; font-size: 14px; } th, td { text-align: left; padding: 8px 16px; border-bottom: 1px solid var(--line); vertical-align: top; font-weight: 400; }
th { color: var(--soft); width: 12em; } pre { white-space: pre-wrap; }
"""


def page(report: dict[str, Any], t: Words) -> str:
    """`report`: what `check` reports, or `{"ok": False, "name", "error"}` where the data was refused."""
    name = escape(str(report["name"]))
    body = _refusal(t.error(report["error"])) if report.get("error") else _found(report, t)
    return (
        f'<!DOCTYPE html>\n<html lang="{t.language}">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{name}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{name}</h1>\n{body}\n</body>\n</html>\n"
    )


def _refusal(said: dict[str, str]) -> str:
    return f'<p class="pill error">✕</p><pre>{escape(said["message"])}</pre><p>{escape(said["cause"])}</p><p>{escape(said["fix"])}</p>'


def kind(t: Words, report: dict[str, Any]) -> str:
    """What the data was recognised as, and how surely."""
    known = t("data.format." + report["format"])
    return known if report["format"] == "by_hand" else t("data.kind", kind=known, sure=t("data.confidence." + report["confidence"]))


def _found(report: dict[str, Any], t: Words) -> str:
    ready = report["kept"] if report.get("used") is None else report["used"]
    pills = f'<span class="pill ready">✓ {escape(t("data.ready", n=f"{ready:,}"))}</span>'
    if left := report["rows"] - ready:
        pills += f'<span class="pill drop">✕ {escape(t("data.left_out", n=f"{left:,}"))}</span>'
    order = list(_MARKS)
    findings = sorted(report["findings"], key=lambda finding: order.index(finding["severity"]))
    shown = "".join(_finding(finding, t) for finding in findings)
    found = f"<h2>{escape(t('data.findings'))}</h2>\n<ul>\n{shown}</ul>" if findings else ""
    return f'<p class="soft">{escape(t.say(report["why"]))}</p>\n<p>{pills}</p>\n{found}\n<h2>{escape(t("data.name"))}</h2>\n{_table(_facts(report, t))}'


def _finding(finding: dict[str, Any], t: Words) -> str:
    rows = ", ".join(map(str, finding["rows"])) + (" …" if finding["count"] > len(finding["rows"]) else "")
    where = f' <span class="soft">#{escape(rows)}</span>' if finding["rows"] else ""
    severity = finding["severity"]
    return (
        f'<li><span class="pill {severity}">{_MARKS[severity]} {finding["count"]:,}</span><div><p>{escape(t.say(finding["message"]))}{where}</p>'
        f'<p class="soft">{escape(t.say(finding["fix"]))}</p></div></li>\n'
    )


def _facts(report: dict[str, Any], t: Words) -> list[tuple[str, str]]:
    facts = [(t("report.rows"), f"{report['rows']:,}"), (t("report.kind"), kind(t, report)), (t("report.digest"), report["digest"])]
    facts += [(t("report.columns"), ", ".join(report["columns"][:100]))]
    facts += [(t("role." + role) if t.has("role." + role) else role, column) for role, column in report["mapping"].items()]
    facts += [(t("report.file", first=f"{f['first_row']:,}"), f"{f['name']} ({f['rows']:,})") for f in report["files"][:100]]
    if report.get("tokens"):
        total, trained = (f"{report['tokens'][which]:,}" for which in ("total", "trained"))
        facts.append((t("report.tokens"), t("data.tokens", total=total, trained=trained)))
        facts.append((t("report.cut"), f"{report['truncated']:,}"))
    return facts


def _table(facts: list[tuple[str, str]]) -> str:
    return "<table>\n" + "".join(f"<tr><th>{escape(what)}</th><td>{escape(is_)}</td></tr>\n" for what, is_ in facts) + "</table>"
