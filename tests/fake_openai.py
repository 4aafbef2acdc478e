"""
A server on this machine that speaks the endpoints of OpenAI that hosted.py uses (files,
fine_tuning/jobs, chat/completions), keeps all that it is sent, and fails as it is told to.
"""

import json
import re
import threading
from collections import Counter, defaultdict, deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

KEY = "sk-test-0123456789abcdefghij"


class FakeOpenAI(ThreadingHTTPServer):
    """
    faults[method, path] is a queue; each request takes one: "429", "500", "drop before" (nothing is
    done), "drop after" (it is done, and the answer never sent), "garble" (done, and answered by
    half a JSON), or a function, called after it is done and before it is answered.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.files, self.jobs, self.contents = {}, {}, {}
        self.faults, self.asked = defaultdict(deque), Counter()
        self.statuses = deque(["validating_files", "queued", "running", "succeeded"])
        self.answers: dict[str, str] = {}  # to a text; else its label in the training file
        self.change = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def examples(self) -> dict[str, str]:
        """{question: answer} of the one training file."""
        (content,) = self.contents.values()
        chats = [json.loads(line)["messages"] for line in content.splitlines()]
        return {chat[1]["content"]: chat[2]["content"] for chat in chats}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        self.serve("GET")

    def do_POST(self) -> None:
        self.serve("POST")

    def serve(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path.removeprefix("/v1")
        route = re.sub("/ftjob-[0-9]+$", "/ID", path)
        if self.headers["Authorization"] != f"Bearer {KEY}":
            return self.reply(
                401,
                {
                    "error": {
                        "message": "Incorrect API key provided: " + self.headers["Authorization"]
                    }
                },
            )
        with self.server.change:
            queue = self.server.faults[method, route]
            fault = queue.popleft() if queue else None
            if fault in ("429", "500"):
                return self.reply(int(fault), {"error": {"message": f"no luck: {fault}"}})
            if fault == "drop before":
                return self.drop()
            answer = self.answer(method, path, route, body)
        if fault == "drop after":
            return self.drop()
        if callable(fault):
            fault()
        self.reply(200, answer, garbled=fault == "garble")

    def answer(self, method: str, path: str, route: str, body: bytes) -> dict:
        server = self.server
        if (method, route) == ("GET", "/files"):
            return {"object": "list", "data": list(server.files.values()), "has_more": False}
        if (method, route) == ("POST", "/files"):
            name = re.search(rb'filename="([^"]+)"', body)[1].decode()
            file = {
                "id": f"file-{len(server.files)}",
                "object": "file",
                "filename": name,
                "bytes": len(body),
                "created_at": 0,
                "purpose": "fine-tune",
                "status": "processed",
            }
            part = next(part for part in body.split(b"\r\n--") if b"filename=" in part)
            server.contents[file["id"]] = part.split(b"\r\n\r\n", 1)[1]
            server.files[file["id"]] = file
            return file
        if (method, route) == ("GET", "/fine_tuning/jobs"):
            return {"object": "list", "data": list(server.jobs.values()), "has_more": False}
        if (method, route) == ("POST", "/fine_tuning/jobs"):
            request = json.loads(body)
            assert request["training_file"] in server.files
            job = {
                "id": f"ftjob-{len(server.jobs)}",
                "object": "fine_tuning.job",
                "created_at": 0,
                "model": request["model"],
                "training_file": request["training_file"],
                "hyperparameters": request["method"]["supervised"]["hyperparameters"],
                "organization_id": "org",
                "result_files": [],
                "seed": request["seed"],
                "status": "validating_files",
                "fine_tuned_model": None,
                "error": None,
                "trained_tokens": None,
            }
            server.jobs[job["id"]] = job
            return job
        if (method, route) == ("GET", "/fine_tuning/jobs/ID"):
            job = server.jobs[path.rsplit("/", 1)[1]]
            job["status"] = (
                server.statuses.popleft() if len(server.statuses) > 1 else server.statuses[0]
            )
            if job["status"] == "succeeded":
                job |= {"fine_tuned_model": f"ft:{job['model']}:org::1", "trained_tokens": 5000}
            if job["status"] == "failed":
                job["error"] = {"code": "invalid", "message": "bad training file", "param": None}
            return job
        assert (method, route) == ("POST", "/chat/completions")
        return self.complete(json.loads(body))

    def complete(self, request: dict) -> dict:
        assert request["model"].startswith("ft:") and request["temperature"] == 0
        question = request["messages"][-1]["content"]
        self.server.asked[question] += 1
        text = re.fullmatch("Text: (.*)\nLabel:", question, re.DOTALL)[1]
        known = self.server.examples()
        content = self.server.answers.get(text, known.get(question, "noun.food"))
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 0,
            "model": request["model"],
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": content},
                }
            ],
            "usage": {"prompt_tokens": 50, "completion_tokens": 3, "total_tokens": 53},
        }

    def reply(self, status: int, answer: dict, garbled: bool = False) -> None:
        content = json.dumps(answer).encode()
        content = content[: len(content) // 2] if garbled else content
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(content)

    def drop(self) -> None:
        self.close_connection = True
        self.connection.shutdown(2)
