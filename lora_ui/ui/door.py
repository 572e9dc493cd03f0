"""The outermost layer of the web app: who may ask, and in which language the answer is.

Every request's Host has to be a name of this server and its Origin, where the browser sends one, that same host: a page
elsewhere can neither read nor post here, whatever its DNS says. Each page exists once per language, because Gradio draws
labels once (and finds the page by its address, so both cannot share one); the door sends everybody to their own language:
`?lang=` (remembered in a cookie), the cookie, then Accept-Language. Links inside the app need not know.
"""

from __future__ import annotations

import os
import secrets
import socket
from urllib.parse import parse_qsl, urlencode, urlsplit

import psutil
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
COOKIE = "lora-ui-language"
VISITOR = "lora-ui-visitor"
"""Tells one browser from another until it is closed; see tokens.py."""
CHINESE = {"/": "/zh", "/train": "/zh-train", "/runs": "/zh-runs", "/chat": "/zh-chat", "/ship": "/zh-ship"}
"""Address → the Chinese page's address."""
ENGLISH = {chinese: address for address, chinese in CHINESE.items()}


def own_names(host: str) -> frozenset[str]:
    """Names under which this server may be addressed. All interfaces: this machine's own addresses and name too."""
    names = LOOPBACK | {host.lower()}
    if space := os.environ.get("SPACE_HOST"):
        names |= {space.lower()}
    if host in ("0.0.0.0", "::"):
        addresses = {a.address.split("%")[0] for of_one in psutil.net_if_addrs().values() for a in of_one}
        names |= {socket.gethostname().lower(), *(a.lower() for a in addresses)}
    return frozenset(names)


def _name(netloc: str) -> str | None:
    try:
        return urlsplit(f"//{netloc}").hostname
    except ValueError:
        return None


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def is_ours(headers: Headers, names: frozenset[str]) -> bool:
    host = headers.get("host", "")
    if len(headers.getlist("host")) != 1 or _name(host) not in names:
        return False
    return all(_netloc(origin) == host.lower() for origin in headers.getlist("origin"))


def language(headers: Headers) -> str:
    chosen = cookie_parser(headers.get("cookie", "")).get(COOKIE)
    if chosen in ("en", "zh"):
        return chosen
    for wanted in headers.get("accept-language", "").lower().split(","):
        if wanted.strip()[:2] in ("en", "zh"):
            return wanted.strip()[:2]
    return "en"


def _greeting(send: Send) -> Send:
    """The same, with a cookie for a visitor who has none: long, by chance, out of reach of scripts, gone with the browser."""
    framed = "; SameSite=None; Secure" if os.environ.get("SPACE_HOST") else "; SameSite=Lax"

    async def greet(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).append("set-cookie", f"{VISITOR}={secrets.token_urlsafe(32)}; Path=/; HttpOnly{framed}")
        await send(message)

    return greet


class Door:
    def __init__(self, app: ASGIApp, names: frozenset[str]):
        self.app, self.names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        if not is_ours(headers, self.names):
            return await PlainTextResponse("This address does not belong to LoRA UI.", 403)(scope, receive, send)
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and (moved := self._elsewhere(scope, headers)):
            return await moved(scope, receive, send)
        known = VISITOR in cookie_parser(headers.get("cookie", ""))
        is_page = scope["path"] in CHINESE or scope["path"] in ENGLISH
        await self.app(scope, receive, send if known or not is_page else _greeting(send))

    def _elsewhere(self, scope: Scope, headers: Headers) -> RedirectResponse | None:
        """Where the page is in the visitor's language, when it is not this one."""
        here: str = scope["path"]
        if here not in CHINESE and here not in ENGLISH:
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        asked = dict(query).get("lang")
        wanted = asked if asked in ("en", "zh") else language(headers)
        there = CHINESE.get(here, here) if wanted == "zh" else ENGLISH.get(here, here)
        if there == here and asked is None:
            return None
        rest = urlencode([pair for pair in query if pair[0] != "lang"])
        response = RedirectResponse(f"{there}?{rest}" if rest else there, 303, headers={"Vary": "Accept-Language, Cookie"})
        if asked is not None and asked == wanted:
            framed = bool(os.environ.get("SPACE_HOST"))  # a Space's page sits in a frame of huggingface.co
            response.set_cookie(COOKIE, wanted, max_age=10**8, samesite="none" if framed else "lax", secure=framed)
        return response
