"""A stand-in for W&B's server, on the loopback: it stalls, breaks off, is slow, or answers and is then gone."""

import json
import socket
import threading
import time
from typing import Any, Literal

Manner = Literal["stalls", "breaks off", "slow", "errors", "goes away"]


class StandIn:
    """Takes connections, and treats all of them alike.

    Args:
        manner: ``"stalls"``: nothing is answered. ``"breaks off"``: closed in the middle of an answer. ``"slow"``: a
            byte of the answer a second. ``"errors"``: status 503. ``"goes away"``: answers what W&B asks as it begins,
            until `go_away`.
    """

    def __init__(self, manner: Manner) -> None:
        self.manner = manner
        self.connections: list[socket.socket] = []
        self.is_gone = False
        self.requests = 0

    def __enter__(self) -> "StandIn":
        self.server = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._take, daemon=True).start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.go_away()

    @property
    def variables(self) -> dict[str, str]:
        """The environment of a run that logs to it."""
        url = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        return {
            "WANDB_MODE": "online",
            "WANDB_BASE_URL": url,
            "WANDB_API_KEY": "0" * 40,
            "WANDB_INIT_TIMEOUT": "8",
            "WANDB_FINISH_TIMEOUT": "8",
            "WANDB_ENTITY": "nobody",
        }

    def go_away(self) -> None:
        """Close all connections, and take no more."""
        self.is_gone = True
        for connection in [self.server, *self.connections]:
            connection.close()

    def _take(self) -> None:
        while not self.is_gone:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self._treat, args=(connection,), daemon=True).start()

    def _treat(self, connection: socket.socket) -> None:
        try:
            while not self.is_gone:
                body = _request_on(connection)
                if body is None:
                    return
                self.requests += 1
                self._answer(connection, body)
        except OSError:
            return
        finally:
            if self.manner != "stalls":
                connection.close()

    def _answer(self, connection: socket.socket, body: bytes) -> None:
        if self.manner == "stalls":
            return
        status = "503 Service Unavailable" if self.manner == "errors" else "200 OK"
        content = json.dumps({"data": _data_for(body)}).encode()
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        answer = head.encode() + content
        if self.manner == "breaks off":
            connection.sendall(answer[:-5])
            raise ConnectionAbortedError
        if self.manner == "slow":
            for place in range(len(answer)):
                connection.sendall(answer[place : place + 1])
                time.sleep(1)
        connection.sendall(answer)


def _request_on(connection: socket.socket) -> bytes | None:
    """Read a request; None at the end."""
    content = b""
    while b"\r\n\r\n" not in content:
        piece = connection.recv(65536)
        if not piece:
            return None
        content += piece
    head, _, body = content.partition(b"\r\n\r\n")
    length = 0
    for line in head.decode(errors="replace").split("\r\n"):
        name, _, value = line.partition(":")
        if name.lower() == "content-length":
            length = int(value)
    while len(body) < length:
        piece = connection.recv(65536)
        if not piece:
            return None
        body += piece
    return body


def _data_for(body: bytes) -> dict[str, Any]:
    """What W&B needs to hear to begin a run."""
    if b"upsertBucket" in body:
        project = {"id": "p", "name": "primenet", "entity": {"id": "e", "name": "nobody"}}
        bucket = {"id": "b", "name": "run", "displayName": "run", "project": project}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}
    if b"RunResumeStatus" in body:
        return {"model": {"id": "p", "name": "primenet", "entity": {"id": "e", "name": "nobody"}, "bucket": None}}
    viewer = {"id": "v", "entity": "nobody", "username": "nobody", "flags": "{}", "teams": {"edges": []}}
    return {"viewer": viewer, "serverInfo": {"cliVersionInfo": {}, "features": []}, "createRunFiles": {"files": []}}
