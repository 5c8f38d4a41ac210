"""Hub ids: only JSON and tokenizer files are fetched, and a hub out of reach is given up soon."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tiny_folder import write_tiny_pipeline

COMMIT = "0123456789abcdef0123456789abcdef01234567"

# huggingface_hub reads its settings when it is imported: each test is a process of its own.
LOAD = """
import logging, sys, time
logging.disable(logging.WARNING)  # what libraries say of themselves when they are imported
from profiler.errors import InputError
from profiler.pipelines.loading import load_pipeline
logging.disable(logging.NOTSET)
started = time.monotonic()
try:
    print(type(load_pipeline(sys.argv[1])).__name__)
except InputError as error:
    print(error)
print("soon" if time.monotonic() - started < float(sys.argv[2]) else "late")
"""


class Hub(BaseHTTPRequestHandler):
    """The few answers of a hub that `snapshot_download` needs."""

    files: dict[str, bytes]
    asked: list[str]

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def log_message(self, *_):
        pass

    def _answer(self, *, body):
        path = self.path.partition("?")[0]
        content = self._content(path)
        self.send_response(404 if content is None else 200)
        if content is None:
            self.send_header("X-Error-Code", "RepoNotFound")
            content = b"{}"
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _content(self, path):
        if path.startswith("/api/models/org/tiny"):
            if "/tree/" in path:
                rows = [
                    {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                    for name, content in self.files.items()
                ]
                return json.dumps(rows).encode()
            siblings = [{"rfilename": name} for name in self.files]
            return json.dumps({"id": "org/tiny", "sha": COMMIT, "siblings": siblings}).encode()
        prefix = f"/org/tiny/resolve/{COMMIT}/"
        name = path.removeprefix(prefix)
        if not path.startswith(prefix) or name not in self.files:
            return None
        self.asked.append(name)
        return self.files[name]


@pytest.fixture
def hub(tmp_path):
    folder = write_tiny_pipeline(tmp_path / "tiny")
    Hub.files = {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }
    Hub.files["unet/diffusion_pytorch_model.safetensors"] = b"weights"
    Hub.files["unet/diffusion_pytorch_model.safetensors.index.json"] = b"{}"
    Hub.files["README.md"] = b"words"
    Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def load(model, cache, endpoint, within_seconds=15, **environment):
    done = subprocess.run(
        [sys.executable, "-c", LOAD, model, str(within_seconds)],
        env={
            **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(cache),
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_only_configuration_is_fetched_and_the_cache_serves_it_again(hub, tmp_path):
    first = load("org/tiny", tmp_path / "cache", hub)
    fetched = set(Hub.asked)
    offline = load("org/tiny", tmp_path / "cache", hub, HF_HUB_OFFLINE="1")

    assert first == offline == ["StableDiffusionPipeline", "soon"]
    assert fetched == {
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "tokenizer/tokenizer_config.json",
        "unet/config.json",
        "vae/config.json",
    }


def test_repository_that_does_not_exist_is_named(hub, tmp_path):
    assert load("org/none", tmp_path / "cache", hub) == [
        "cannot fetch 'org/none': the Hugging Face hub has no such public repository",
        "soon",
    ]


UNREACHABLE = (
    "cannot fetch 'black-forest-labs/FLUX.1-dev': the Hugging Face hub cannot be reached and "
    "it is not in the cache; check the network, or give a local folder "
    "(the catalogue has it as 'flux1-dev', no network needed)"
)


def test_missing_network_is_told_at_once(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    told = load("black-forest-labs/FLUX.1-dev", tmp_path, f"http://127.0.0.1:{port}")

    assert told == [UNREACHABLE, "soon"]


def test_hub_that_never_answers_is_given_up(tmp_path):
    """Connected, and nothing comes back: huggingface_hub by itself would wait for minutes."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        told = load("black-forest-labs/FLUX.1-dev", tmp_path, endpoint)

    assert told == [UNREACHABLE, "soon"]
