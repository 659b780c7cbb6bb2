"""A hub of models and datasets on loopback, asked by the real `huggingface_hub` and `datasets`.

It answers what they ask before and while they download, with the paths, headers and error codes of huggingface.co. No
hub of another make can stand in: the one on PyPI (olah) asks for an older psutil, and knows no wrong revision offline.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?")
FILE = re.compile(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


class Refusal(Exception):
    """Status and error code of an answer that the client turns into an error of its own."""


class Hub:
    """Repositories, their commits, and names for some of these.

    Args:
        folder: Keeps the files of each commit.
        token: Without it nobody is answered; everybody is where absent.
    """

    def __init__(self, folder: Path, token: str | None = None) -> None:
        self.folder, self.token = folder, token
        self.asked: list[str] = []
        """Method and path of each request."""
        self._refs: dict[str, dict[str, str]] = {}

    def commit(self, repository: str, files: Path, *names: str) -> str:
        """Add a folder of files as a commit, and return it.

        Args:
            repository: Such as ``models/owner/name`` or ``datasets/owner/name``.
            files: What the commit holds.
            names: Branches and tags that mean it from now on.
        """
        refs = self._refs.setdefault(repository, {})
        commit = hashlib.sha1(f"{repository} {len(refs)}".encode()).hexdigest()
        refs |= dict.fromkeys((commit, *names), commit)
        shutil.copytree(files, self.folder / repository / commit)
        return commit

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def env(self) -> dict[str, str]:
        """Makes a process one of this hub's clients."""
        return {"HF_ENDPOINT": self.uri, "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}

    def start(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, query: str, sent: bytes) -> tuple[dict[str, str], bytes]:
        """Headers and body; raises `Refusal`."""
        if asked := API.fullmatch(path):
            kind, name, what, revision, below = asked.groups()
            commit = self._resolve(f"{kind}/{name}", revision or "main")
            files = self.folder / kind / name / commit
            if what == "tree":
                told: Any = _tree(files, unquote(below or ""), is_deep="recursive=true" in query)
            elif what == "paths-info":
                told = _paths(files, parse_qs(sent.decode())["paths"])
            else:
                told = _about(files, name, commit)
            return {"Content-Type": "application/json"}, json.dumps(told).encode()
        if asked := FILE.fullmatch(path):
            kind, name, revision, below = asked.groups(default="models")
            commit = self._resolve(f"{kind}/{name}", revision)
            content = _there(self.folder / kind / name / commit, unquote(below)).read_bytes()
            return {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}, content
        raise Refusal(404, "EntryNotFound")

    def _resolve(self, repository: str, revision: str) -> str:
        if repository not in self._refs:
            raise Refusal(401, "RepoNotFound")  # what is private is told no one either
        if unquote(revision) not in self._refs[repository]:
            raise Refusal(404, "RevisionNotFound")
        return self._refs[repository][unquote(revision)]


def _about(files: Path, name: str, commit: str) -> dict[str, Any]:
    names = [{"rfilename": str(path.relative_to(files))} for path in sorted(files.rglob("*")) if path.is_file()]
    return {"id": name, "sha": commit, "siblings": names, "private": False, "tags": [], "downloads": 0, "likes": 0}


def _tree(files: Path, below: str, is_deep: bool) -> list[dict[str, Any]]:
    folder = _there(files, below)
    return [_entry(path, files) for path in sorted(folder.rglob("*") if is_deep else folder.iterdir())]


def _paths(files: Path, paths: list[str]) -> list[dict[str, Any]]:
    return [_entry(files / path, files) for path in paths if (files / path).exists()]


def _entry(path: Path, files: Path) -> dict[str, Any]:
    about = {"path": str(path.relative_to(files)), "oid": hashlib.sha1(str(path).encode()).hexdigest()}
    return about | ({"type": "directory"} if path.is_dir() else {"type": "file", "size": path.stat().st_size})


def _there(files: Path, below: str) -> Path:
    if not (files / below).exists():
        raise Refusal(404, "EntryNotFound")
    return files / below


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                if hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
                    raise Refusal(401, "RepoNotFound")
                asked = urlsplit(self.path)
                headers, body = hub.answer(asked.path, asked.query, sent)
                self.send_response(200)
            except Refusal as refusal:
                status, code = refusal.args
                headers, body = {"X-Error-Code": code}, b"{}"
                self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler
