"""
A server on this machine that speaks OpenAI's chat endpoint, counts what it is asked, and fails as
it is told to.
"""

import json
import re
import threading
from collections import Counter, deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-test-0123456789abcdefghij"


class FakeOpenAI(ThreadingHTTPServer):
    """
    answers   to a text
    asked     how often each text was
    faults    each request takes one: "429", "500", "drop before" (it is not answered and does not
              count), "drop after" (it counts), "garble" (answered by half a JSON), a function that
              is called before it is answered, or None
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.answers: dict[str, str] = {}
        self.asked, self.faults, self.change = Counter(), deque(), threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    def do_POST(self) -> None:
        assert self.path == "/v1/chat/completions"
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {KEY}":
            message = "Incorrect API key provided: " + self.headers["Authorization"]
            return self.reply(401, {"error": {"message": message}})
        with self.server.change:
            fault = self.server.faults.popleft() if self.server.faults else None
            if fault in ("429", "500"):
                return self.reply(int(fault), {"error": {"message": f"no luck: {fault}"}})
            if fault == "drop before":
                return self.drop()
            answer = self.complete(request)
        if fault == "drop after":
            return self.drop()
        if callable(fault):
            fault()
        self.reply(200, answer, garbled=fault == "garble")

    def complete(self, request: dict) -> dict:
        assert request["temperature"] == 0
        roles, contents = zip(*((turn["role"], turn["content"]) for turn in request["messages"]))
        assert roles == ("system", "user")
        text = re.fullmatch("Text: (.*)\nLabel:", contents[1], re.DOTALL)[1]
        self.server.asked[text] += 1
        message = {"role": "assistant", "content": self.server.answers[text]}
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 0,
            "model": request["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 50, "completion_tokens": 3, "total_tokens": 53},
        }

    def reply(self, status: int, answer: dict, garbled: bool = False) -> None:
        content = json.dumps(answer).encode()
        content = content[: len(content) // 2] if garbled else content
        self.send_response(status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        for name, value in (headers | {"retry-after-ms": "1"}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def drop(self) -> None:
        self.close_connection = True
        self.connection.shutdown(2)
