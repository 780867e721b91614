"""A vLLM server as seen from here: where it is, one request and its answer, and every failure as one line."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Any
from urllib.parse import urlsplit

from selbench.errors import ConfigError, UserError
from selbench.rollout import EngineError

__all__ = ["FOLDER", "GENERATE", "GREETING", "SERVER", "TIMEOUT", "Client", "Refused"]

SERVER = "SELBENCH_VLLM_SERVER"  # http://host:port
FOLDER = "SELBENCH_VLLM_FOLDER"  # where the weights are handed over: a folder that trainer and server see under one path
TIMEOUT = "SELBENCH_VLLM_TIMEOUT"  # seconds
PATIENCE = 1800.0  # seconds for one answer, the wait for a place in the server's batch included
GREETING = 60.0  # seconds for an answer that takes next to no computing
GENERATE = "/inference/v1/generate"  # token ids in, token ids out
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy for the web knows nothing of this server


class Refused(EngineError):
    """The server answered, but with an error. path: what was asked; status: of HTTP; said: its message, in one line."""

    def __init__(self, where: str, path: str, status: int, said: str) -> None:
        super().__init__(f"the vLLM server at {where} refused {path} ({status}): {said or 'without a reason'}")
        self.given, self.path, self.status, self.said = (where, path, status, said), path, status, said

    def __reduce__(self) -> tuple[type[Refused], tuple[str, str, int, str]]:  # type: ignore[override]
        return type(self), self.given


@dataclass(frozen=True)
class Client:
    """url: of the server, without a path; folder: where weights are handed over; timeout: seconds for one answer."""

    url: str
    folder: Path
    timeout: float = PATIENCE

    @classmethod
    def from_environment(cls) -> Client:
        """By SELBENCH_VLLM_SERVER, _FOLDER and _TIMEOUT. Raises ConfigError with every problem."""
        given, patience = os.environ.get(SERVER, "").strip().rstrip("/"), os.environ.get(TIMEOUT, "").strip()
        folder, problems = Path(os.environ.get(FOLDER) or gettempdir()), list[str]()
        if not given:
            problems.append(f"engine = 'vllm-server': {SERVER} is not set; set it to the server's address, as in http://localhost:8000")
        else:
            try:
                parts = urlsplit(given)
                fine = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not (parts.path or parts.query)
            except ValueError:  # no number where the port is
                fine = False
            if not fine:
                problems.append(f"{SERVER}={given}: not an address; write http://host:port, as in http://localhost:8000")
        try:
            seconds = float(patience or PATIENCE)
        except ValueError:
            seconds = 0.0
        if not seconds > 0:
            problems.append(f"{TIMEOUT}={patience}: not a number of seconds")
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            problems.append(f"{FOLDER}={folder}: no folder that can be written to; name one that trainer and server see under one path")
        if problems:
            raise ConfigError(*problems)
        return cls(given, folder.resolve(), seconds)

    def ask(self, path: str, body: Mapping[str, Any] | None = None, *, timeout: float | None = None) -> Any:
        """The server's answer to a POST of `body`, or to a GET where there is none; None where it has no content.

        Raises Refused for an answer that is an error, EngineError when none comes.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        patience = timeout or self.timeout
        try:
            with DIRECT.open(request, timeout=patience) as reply:
                text = reply.read()
            return json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            with error:
                raise Refused(self.url, path, error.code, _message(error.read())) from error
        except TimeoutError as error:
            raise self._late(path, patience) from error
        except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
            reason = getattr(error, "reason", None) or error
            if isinstance(reason, TimeoutError):
                raise self._late(path, patience) from error
            raise EngineError(
                f"no vLLM server answers at {self.url} ({type(reason).__name__}: {reason}): it ended, or {SERVER} names another place; "
                f"start it, then run the same command again"
            ) from error

    def _late(self, path: str, patience: float) -> EngineError:
        return EngineError(
            f"the vLLM server at {self.url} did not answer {path} within {patience:g} s; see its log, or set {TIMEOUT} to more seconds"
        )

    def call(self, method: str, **keywords: Any) -> Any:
        """What its one worker answers to a method of `vllm_worker.Weights`."""
        (answer,) = self.ask("/collective_rpc", {"method": method, "kwargs": keywords})["results"]
        return answer

    @contextlib.contextmanager
    def understood(self) -> Iterator[None]:
        """Answers that are read within are of the known form. Raises EngineError where one is not."""
        try:
            yield
        except UserError:
            raise
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise EngineError(
                f"the vLLM server at {self.url} answers in an unknown form ({type(error).__name__}: {error}); use the version of vLLM that "
                f"selbench[vllm] installs"
            ) from error


def _message(text: bytes) -> str:
    """The message in a server's error, in one line."""
    try:
        content = json.loads(text)
        said = content.get("error", content.get("detail", content))
        said = said.get("message", said) if isinstance(said, dict) else said
    except (ValueError, AttributeError):
        said = text.decode(errors="replace")
    return " ".join(str(said).split())[:300]
