"""A stand-in of the Hugging Face hub: its HTTP API, as far as huggingface_hub uses it.

It answers what huggingface_hub 2.4 asks to create a repository, to commit files in it,
weights by git LFS, and to download them. `HF_ENDPOINT` is its address.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_of_the_tests"
_LFS = ".safetensors"


class Hub(ThreadingHTTPServer):
    """The server and what it holds.

    `repositories` is {"owner/name": {"private": bool, "commits": [{file: bytes}]}}, a
    commit with all files after it; `requests` the lines "POST /api/repos/create"; and
    `failure` a status that it answers to whatever would change it.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories, self.blobs, self.requests = {}, {}, []
        self.failure = None

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def files(self, repository):
        return self.repositories[repository]["commits"][-1]


@contextlib.contextmanager
def serve_hub():
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, daemon=True)
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()


def _commit_id(number):
    return hashlib.sha1(str(number).encode()).hexdigest()


def _git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self._begin()
        if self.path.endswith("/api/validate-yaml"):
            return self._answer({"errors": [], "warnings": []})
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            return self._refuse(401, "Invalid username or password.")
        if self.server.failure:
            return self._refuse(self.server.failure, "refused by the test")
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        if match := re.fullmatch(r"/api/models/(.+)/preupload/main", self.path):
            return self._preupload(match[1], json.loads(body))
        if self.path.endswith("/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        if match := re.fullmatch(r"/api/models/(.+)/commit/main", self.path):
            return self._commit(match[1], body)
        return self._refuse(404, "no such address")

    def do_PUT(self):
        body = self._begin()
        name = self.path.rpartition("/")[2]
        assert hashlib.sha256(body).hexdigest() == name
        self.server.blobs[name] = body
        self._answer({})

    def do_GET(self):
        self._begin()
        if match := re.fullmatch(
            r"/api/models/([^/]+/[^/]+)(/revision/main)?", self.path
        ):
            repository = self.server.repositories.get(match[1])
            if repository is None:
                return self._refuse(404, "Repository not found", "RepoNotFound")
            commit = _commit_id(len(repository["commits"]))
            private = repository["private"]
            return self._answer({"id": match[1], "private": private, "sha": commit})
        return self._file()

    def do_HEAD(self):
        self._begin()
        self._file()

    def _begin(self):
        self.server.requests.append(f"{self.command} {self.path}")
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _create(self, asked):
        name = f"{asked['organization']}/{asked['name']}"
        content = {"url": f"{self.server.address}/{name}"}
        if name in self.server.repositories:
            return self._answer({**content, "error": "You already created it"}, 409)
        private = asked.get("visibility") == "private" or asked.get("private", False)
        self.server.repositories[name] = {"private": private, "commits": []}
        return self._answer(content)

    def _preupload(self, name, asked):
        commits = self.server.repositories[name]["commits"]
        answers = []
        for file in asked["files"]:
            lfs = file["path"].endswith(_LFS)
            answer = {"path": file["path"], "shouldIgnore": False}
            answer["uploadMode"] = "lfs" if lfs else "regular"
            if commits and (content := commits[-1].get(file["path"])):
                sha256 = hashlib.sha256(content).hexdigest()
                answer["oid"] = sha256 if lfs else _git_hash(content)
            answers.append(answer)
        self._answer({"files": answers})

    def _batch(self, asked):
        objects = []
        for entry in asked["objects"]:
            if entry["oid"] not in self.server.blobs:
                href = f"{self.server.address}/lfs/{entry['oid']}"
                entry = {**entry, "actions": {"upload": {"href": href}}}
            objects.append(entry)
        self._answer({"transfer": "basic", "objects": objects})

    def _commit(self, name, body):
        commits = self.server.repositories[name]["commits"]
        files = dict(commits[-1]) if commits else {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
        commits.append(files)
        commit = _commit_id(len(commits))
        url = f"{self.server.address}/{name}/commit/{commit}"
        self._answer({"commitUrl": url, "commitOid": commit})

    def _file(self):
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        repository = self.server.repositories.get(match[1]) if match else None
        if repository is None:
            return self._refuse(404, "Repository not found", "RepoNotFound")
        commits = {_commit_id(i): it for i, it in enumerate(repository["commits"], 1)}
        revision = list(commits)[-1] if match[2] == "main" else match[2]
        content = commits[revision].get(match[3])
        headers = {"X-Repo-Commit": revision}
        if content is None:
            return self._refuse(404, "Entry not found", "EntryNotFound", headers)
        headers["ETag"] = f'"{_git_hash(content)}"'
        return self._send(200, content, headers)

    def _answer(self, value, status=200):
        self._send(status, json.dumps(value).encode())

    def _refuse(self, status, message, code="", headers=None):
        headers = {**(headers or {}), "X-Error-Message": message, "X-Error-Code": code}
        self._send(status, json.dumps({"error": message}).encode(), headers)

    def _send(self, status, content, headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
