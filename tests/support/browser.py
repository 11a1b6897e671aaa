"""Headless Chromium over a pipe: opens a page of ours from `file://`, tells what went wrong in it, and moves its pointer.

Source: the Chrome DevTools Protocol, spoken through ``--remote-debugging-pipe``: JSON ended by a zero byte, on descriptors 3
and 4 of the browser.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 120
NARROW, WIDE = 400, 1280

LAUNCH = "import os, sys; [os.dup2(int(end), at) for at, end in zip((3, 4), sys.argv[1:])]; os.execvp(sys.argv[3], sys.argv[3:])"

# Text too faint for its ground, by WCAG 2: a ratio below 4.5, of what is seen.
CONTRAST = """
(() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, at) => sum + v * [.2126, .7152, .0722][at], 0);
  const ground = (element) => {
    for (; element; element = element.parentElement) {
      const colour = parse(getComputedStyle(element).backgroundColor);
      if (colour.length === 3) return colour;
    }
    return [255, 255, 255];
  };
  const faint = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    const unseen = !walk.currentNode.textContent.trim() || element.closest("option, script, style, noscript");
    if (unseen || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const colour = parse(element instanceof SVGElement ? style.fill : style.color);
    const [one, other] = [light(colour), light(ground(element))].sort((a, b) => b - a);
    if ((one + .05) / (other + .05) < 4.5) faint.push(`${walk.currentNode.textContent.trim().slice(0, 30)}: ${style.color}`);
  }
  return [...new Set(faint)];
})()
"""


def chromium() -> str:
    """Its binary. A test that needs it is skipped without, or fails where a browser is required."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        if os.environ.get("ALLCONV_REQUIRE_BROWSER", "0") not in ("", "0"):
            pytest.fail("no chromium, but ALLCONV_REQUIRE_BROWSER is set: apt-get install chromium")
        pytest.skip("no chromium on this machine: apt-get install chromium")
    return found


class Browser:
    """One process, in which pages are opened one after the other."""

    def __init__(self, profile: Path) -> None:
        words = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        words += ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
        words += [f"--user-data-dir={profile}", "--remote-debugging-pipe"]
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs_in, theirs_out)]

        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, *map(str, high), chromium(), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=high,
            env={**os.environ, "HOME": str(profile)},
        )
        for end in (theirs_in, theirs_out, *high):
            os.close(end)
        self._number, self._rest = 0, b""
        self._events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)

    def call(self, method: str, **words: Any) -> dict[str, Any]:
        """The answer to a command; events that come before it are kept."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": words}
        if not method.startswith("Target."):
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer)
                return dict(answer["result"])
            self._events.append(answer)

    def _read(self) -> dict[str, Any]:
        end = time.monotonic() + SECONDS
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0, end - time.monotonic()))
            assert ready, f"chromium said nothing for {SECONDS} s"
            part = os.read(self._in, 1 << 16)
            assert part, "chromium has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))

    def open(self, page: Path, *, width: int = WIDE, dark: bool = False, settle: bool = True) -> None:
        """Load a page, to its end. settle: wait until it is drawn; not where scripts are off."""
        self.show(width=width, dark=dark, settle=settle)
        self._events.clear()
        self.call("Page.navigate", url=page.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self._events):
            self._events.append(self._read())
        if settle:
            self.settle()

    def show(self, *, width: int, dark: bool, settle: bool = True) -> None:
        """Another window, another scheme of colours."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        if settle:
            self.settle()

    def settle(self) -> None:
        """Wait until what was asked for is drawn."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Until an expression is true."""
        end = time.monotonic() + SECONDS
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < end, f"{condition} was not true in {SECONDS} s"
            time.sleep(0.05)

    def problems(self) -> list[str]:
        """What the console said since the page was opened: warnings, errors, what was refused."""
        found = []
        for event in self._events:
            words = event.get("params", {})
            if event["method"] == "Runtime.consoleAPICalled":
                found.append(f"console: {words['type']}: {words['args']}")
            elif event["method"] == "Runtime.exceptionThrown":
                details = words["exceptionDetails"]
                found.append(f"exception: {details.get('exception', {}).get('description', details['text'])}")
            elif event["method"] == "Log.entryAdded":
                found.append(f"log: {words['entry']['text']}")
            elif event["method"] == "Network.loadingFailed":
                found.append(f"not loaded: {words['errorText']} {words.get('blockedReason', '')}")
        return found

    def requests(self) -> list[str]:
        """Addresses that were asked for since the page was opened, but for what stands in the page itself."""
        sent = [
            event["params"]["request"]["url"]
            for event in self._events
            if event["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in sent if not url.startswith("data:")]

    def move(self, x: float, y: float, kind: str = "mouseMoved", **more: Any) -> None:
        """The pointer, to a place in the window."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)
        self.settle()

    def place(self, selector: str) -> dict[str, float]:
        """Where an element stands in the window, after it was scrolled to: left, top, width, height."""
        found = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center'}}); "
            "const b = e.getBoundingClientRect(); return {left: b.left, top: b.top, width: b.width, height: b.height}; })()"
        )
        return dict(found)

    def click(self, selector: str) -> None:
        """As a hand would."""
        box = self.place(selector)
        where = {"x": box["left"] + box["width"] / 2, "y": box["top"] + box["height"] / 2}
        for kind in ("mousePressed", "mouseReleased"):
            self.move(where["x"], where["y"], kind, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """A key, on what has the focus."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)
        self.settle()

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """The page as PNG."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser that ends with the block."""
    opened = Browser(profile)
    try:
        yield opened
    finally:
        opened.close()


def faults(seen: Browser, page: Path) -> list[str]:
    """What is wrong with a page from `file://`, narrow and wide, light and dark: [] where it is sound."""
    found = []
    seen.open(page)
    for width in (NARROW, WIDE):
        for dark in (False, True):
            where = f"{page.name}, {width} px, {'dark' if dark else 'light'}"
            seen.show(width=width, dark=dark)
            if (needed := seen.run("document.documentElement.scrollWidth")) > width:
                found.append(f"{where}: {needed} px wide")
            if faint := seen.run(CONTRAST):
                found.append(f"{where}: too faint: {faint}")
    broken = "[...document.images].filter((e) => e.complete && !e.naturalWidth).map((e) => e.src)"
    found += [f"{page.name}: no picture {address}" for address in seen.run(broken)]
    found += [f"{page.name}: {problem}" for problem in seen.problems()]
    found += [f"{page.name}: asks for {url}" for url in seen.requests() if not url.startswith("file:///")]
    if "Content-Security-Policy" not in page.read_text(encoding="utf-8"):
        found.append(f"{page.name}: no content security policy")
    return found
