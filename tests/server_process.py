"""A `calumma serve` of its own for the tests in Python."""

import http.client
import json
import pathlib
import subprocess
import threading
import time


class Server:
    """Answers when it is made, and ends with the block that it is made for."""

    def __init__(self, calumma, checkpoint, *arguments, key=None):
        self.headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
        command = [calumma, "serve", checkpoint, "--listen", "127.0.0.1:0", "--json", "--quiet", *map(str, arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        host, port = json.loads(self.process.stdout.readline())["listening"].rsplit(":", 1)
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        self.place, self.url = (host, int(port)), f"http://{host}:{port}"
        while self.ask("GET", "/health")[0] != 200:
            time.sleep(0.05)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        code = self.process.wait(60)
        assert code == 0, f"the server ended with {code}"

    def connect(self):
        return http.client.HTTPConnection(*self.place, timeout=120)

    def ask(self, method, path, body=None):
        """The status and the content of an answer."""
        return self.send(method, path, json.dumps(body) if body is not None else None)

    def send(self, method, path, text):
        """The same with the text of a body."""
        connection = self.connect()
        connection.request(method, path, text, self.headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, content

    def metric(self, name):
        """A gauge or counter, over all models."""
        lines = self.ask("GET", "/metrics")[1].decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(f"calumma_{name}{{"))

    def memory(self):
        """Resident MiB; Linux only."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024
