"""A headless Chromium for tests, by chromedriver's plain HTTP protocol (W3C WebDriver) and the standard library alone.

`python -m tests.browser results/tiny/report.html results/tiny/report` takes the screenshots of a report.
"""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip
KEYS = {
    "left": "\ue012",
    "up": "\ue013",
    "right": "\ue014",
    "down": "\ue015",
    "home": "\ue011",
    "end": "\ue010",
    "enter": "\ue007",
    "tab": "\ue004",
}
WIDTH, HEIGHT = 1280, 900
SHOTS = ("leaderboard", "learning", "atlas", "overlap", "costs", "tokens")  # sections of the page


def missing() -> str:
    """Why there is no browser here; empty where there is one."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"no {' and no '.join(absent)} here (Debian: chromium chromium-driver)" if absent else ""


class Browser:
    """One session. Every method raises AssertionError with what the driver said when it refuses."""

    def __init__(self, port: int, profile: str) -> None:
        self._base = f"http://127.0.0.1:{port}"
        options = {"args": [*FLAGS, f"--user-data-dir={profile}", f"--window-size={WIDTH},{HEIGHT}"], "binary": shutil.which("chromium")}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        found = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._base += f"/session/{found['sessionId']}"

    def _call(self, method: str, path: str, content: Any = None) -> Any:
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self._base + path, body, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.read().decode()[:600]}") from error

    def open(self, page: Path) -> None:
        """Load a file and wait until its scripts are through."""
        self._call("POST", "/url", {"url": page.resolve().as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        """The value that a function body returns in the page."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def later(self, script: str, *arguments: Any) -> Any:
        """The value that a function body hands to its last argument, a callback."""
        return self._call("POST", "/execute/async", {"script": script, "args": list(arguments)})

    def press(self, *keys: str) -> None:
        """Keys one after the other, by name (KEYS) or as a character, to what has the focus."""
        actions = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")]
        self._call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def click(self, selector: str) -> None:
        """Click the first element that a CSS selector finds."""
        found = self._call("POST", "/element", {"using": "css selector", "value": selector})
        self._call("POST", f"/element/{next(iter(found.values()))}/click", {})

    def type(self, selector: str, text: str) -> None:
        found = self._call("POST", "/element", {"using": "css selector", "value": selector})
        self._call("POST", f"/element/{next(iter(found.values()))}/value", {"text": text})

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def scheme(self, name: str) -> None:
        """Prefer "dark" or "light"."""
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def width(self, pixels: int, height: int = HEIGHT) -> None:
        self.devtools("Emulation.setDeviceMetricsOverride", width=pixels, height=height, deviceScaleFactor=1, mobile=False)

    def console(self) -> list[str]:
        """Warnings and errors of the console since the last call."""
        return [entry["message"] for entry in self._call("POST", "/se/log", {"type": "browser"}) if entry["level"] in ("WARNING", "SEVERE")]

    def screenshot(self, path: Path, selector: str | None = None) -> Path:
        """The window, or one element, as PNG."""
        more: dict[str, Any] = {}
        if selector:
            box = self.run(
                "const b = document.querySelector(arguments[0]).getBoundingClientRect();"
                "return {x: b.x + scrollX, y: b.y + scrollY, width: b.width, height: b.height, scale: 1}", selector
            )  # fmt: skip
            more = {"clip": box, "captureBeyondViewport": True}
        path.write_bytes(base64.b64decode(self.devtools("Page.captureScreenshot", format="png", **more)["data"]))
        return path

    def close(self) -> None:
        self._call("DELETE", "")


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A session with a new, empty profile, ended with the driver that was started for it."""
    with socket.socket() as free, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
        free.close()
        driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            for _ in range(200):
                with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=2) as answer:
                    if json.load(answer)["value"]["ready"]:
                        break
                time.sleep(0.05)
            browser = Browser(port, profile)
            try:
                yield browser
            finally:
                browser.close()
        finally:
            driver.terminate()
            driver.wait(timeout=20)


def screenshots(page: Path, folder: Path) -> list[Path]:
    """Every section in light, leaderboard and viewer in dark too."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with chromium() as browser:
        for scheme, names in (("light", SHOTS), ("dark", ("leaderboard", "tokens"))):
            browser.scheme(scheme)
            browser.open(page)
            written += [browser.screenshot(folder / f"{name}-{scheme}.png", f"#{name}") for name in names]
    return written


if __name__ == "__main__":
    if why := missing():
        sys.exit(why)
    for shot in screenshots(Path(sys.argv[1]), Path(sys.argv[2])):
        print(shot)
