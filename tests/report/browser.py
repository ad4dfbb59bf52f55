"""A headless Chromium driven through its debugging pipe: what a reader of a page would see and do."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
_SECONDS = 60.0


class Page:
    """One tab."""

    def __init__(self, reads: Any, writes: Any):
        self._reads, self._writes, self._number = reads, writes, 0
        self.events: list[dict[str, Any]] = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self._ask(f"{domain}.enable", self._session)

    def _ask(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        self._writes.write(json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        self._writes.flush()
        while True:
            letters = bytearray()
            while (letter := self._reads.read(1)) != b"\0":
                assert letter, "the browser has ended"
                letters += letter
            answer = json.loads(letters)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def show(self, address: str) -> None:
        """Opens an address."""
        self._ask("Page.navigate", self._session, url="about:blank")
        self._ask("Page.navigate", self._session, url=address)

    def go(self, address: str) -> None:
        """Opens an address and waits for the first row, or for what stands in place of rows."""
        self.show(address)
        self.wait("document.querySelector('.pager output')?.textContent")

    def value(self, expression: str) -> Any:
        """What JavaScript makes of an expression."""
        answer = self._ask("Runtime.evaluate", self._session, expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Until an expression is true."""
        deadline = time.monotonic() + _SECONDS
        while not self.value(expression):
            assert time.monotonic() < deadline, f"never true: {expression}"
            time.sleep(0.02)

    def allow_scripts(self, is_allowed: bool) -> None:
        """Whether the pages opened from now on run theirs."""
        self._ask("Emulation.setScriptExecutionDisabled", self._session, value=not is_allowed)

    def resize(self, width: int) -> None:
        """As on a screen so wide."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self._ask("Emulation.setDeviceMetricsOverride", self._session, **size)

    def media(self, name: str) -> None:
        """As print, or by an empty name as the screen has it."""
        self._ask("Emulation.setEmulatedMedia", self._session, media=name)

    def colours(self, scheme: str) -> None:
        """As who prefers "light" or "dark"."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self._ask("Emulation.setEmulatedMedia", self._session, features=[feature])

    def press(self, key: str, code: int, text: str = "") -> None:
        """One key, as the keyboard has it."""
        common = {"key": key, "windowsVirtualKeyCode": code}
        self._ask("Input.dispatchKeyEvent", self._session, type="keyDown", text=text, **common)
        self._ask("Input.dispatchKeyEvent", self._session, type="keyUp", **common)

    def type(self, text: str) -> None:
        """A text into what has the focus."""
        self._ask("Input.insertText", self._session, text=text)

    def requests(self) -> list[str]:
        """All that was asked for."""
        sent = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def complaints(self) -> list[Any]:
        """Exceptions, and what the browser blocked or warned of."""
        names = ("Runtime.exceptionThrown", "Log.entryAdded", "Page.javascriptDialogOpening")
        return [event["params"] for event in self.events if event.get("method") in names]


@contextlib.contextmanager
def opened(profile: pathlib.Path) -> Iterator[Page]:
    """A tab of a browser of its own."""
    assert CHROMIUM
    (its_input, writes), (reads, its_output) = os.pipe(), os.pipe()
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run",
        "--disable-background-networking", "--disable-extensions", f"--user-data-dir={profile}",
    ]  # fmt: skip
    # The browser reads from descriptor 3 and writes to 4.
    shell = ["/bin/bash", "-c", f'exec 3<&{its_input} 4>&{its_output}; exec "$@"', "browser", *command]
    process = subprocess.Popen(
        shell, pass_fds=(its_input, its_output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(its_input)
    os.close(its_output)
    try:
        with os.fdopen(writes, "wb") as to_it, os.fdopen(reads, "rb") as from_it:
            yield Page(from_it, to_it)
    finally:
        process.kill()
        process.wait()
