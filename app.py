"""LoRA UI: starts the page. Flags, wiring, serving; nothing else."""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
from pathlib import Path

from lora_ui import errors
from lora_ui.home import Home

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="app.py", description="Fine-tune language models with LoRA, from a page in the browser.")
    parser.add_argument(
        "--host", default="0.0.0.0" if os.environ.get("SPACE_ID") else "127.0.0.1", help="address to listen on (default: this machine only)"
    )
    parser.add_argument("--port", type=port, default=7860)
    parser.add_argument("--auth-file", type=Path, help="file with one user:password per line; or set LORA_UI_AUTH=user:password")
    parser.add_argument("--home", type=Path, help="where data, runs and models are kept (default: ~/.lora-ui)")
    return parser.parse_args()


def port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text} is no port: a number up to 65535")
    return int(text)


def passwords(file: Path | None) -> list[tuple[str, str]] | None:
    """(user, password) pairs of the file or of LORA_UI_AUTH; None when neither is given. Raises UnreadableAuthFile."""
    try:
        text = file.read_text("utf-8") if file else os.environ.get("LORA_UI_AUTH", "")
    except (OSError, UnicodeDecodeError) as e:
        raise errors.UnreadableAuthFile(name=str(file), detail=str(e)) from None
    pairs = [line.strip().partition(":") for line in text.splitlines() if line.strip()]
    if not all(user and password for user, _, password in pairs) or (file and not pairs):
        raise errors.UnreadableAuthFile(name=str(file or "LORA_UI_AUTH"), detail="A line is not user:password.")
    return [(user, password) for user, _, password in pairs] or None


def listen(host: str, port: int) -> socket.socket:
    """A bound socket, so that a taken port is known before anything starts. Raises PortInUse."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)
    except OSError:
        listening.close()
        raise errors.PortInUse(port=port) from None
    return listening


def serve(args: argparse.Namespace) -> None:
    auth, space = passwords(args.auth_file), bool(os.environ.get("SPACE_ID"))
    if args.host not in LOOPBACK and not auth and not space:
        raise errors.PublicWithoutPassword(host=args.host)
    listening = listen(args.host, args.port)
    home = Home.open(args.home)

    import uvicorn

    from lora_ui import supervisor
    from lora_ui.ui import app as ui

    if space and not auth:
        demo = ui.locked()
    else:
        supervisor.ensure(home)
        supervisor.watch_over(home)
        demo = ui.blocks(home)
    shown = f"[{args.host}]" if ":" in args.host else "127.0.0.1" if args.host == "0.0.0.0" else args.host
    print(f"LoRA UI is at http://{shown}:{args.port}", flush=True)
    config = uvicorn.Config(
        ui.web(demo, args.host, auth), log_level="warning", proxy_headers=space, forwarded_allow_ips="*" if space else None
    )
    uvicorn.Server(config).run(sockets=[listening])


def main() -> int:
    logging.basicConfig(level=logging.WARNING)
    try:
        serve(flags())
    except errors.LoraUIError as e:
        print(f"{e.message}\n{e.cause}\n{e.fix}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
