"""A page opened as a user opens it: from the disk, offline, in a real browser."""

import io
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def browsing() -> Iterator[Any]:
    """A Chromium without a network; the test is skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("no Chromium on this machine (Debian: apt install chromium)")
    with sync_api.sync_playwright() as playwright, tempfile.TemporaryDirectory() as profile:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=chromium, args=FLAGS, viewport={"width": 1120, "height": 900}
        )
        context.set_offline(True)
        yield context
        context.close()


class Page:
    """A page that is open, with everything that it asked for and complained about."""

    def __init__(self, browser: Any, path: Path, anchor: str = "") -> None:
        self.page = browser.new_page()
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.on("dialog", lambda d: self.errors.append(f"dialog: {d.message}"))
        self.page.goto(path.resolve().as_uri() + anchor)
        end = time.monotonic() + 60
        while not self.page.evaluate("document.body.dataset.ready || ''"):  # the CSP forbids wait_for_function
            assert time.monotonic() < end, (self.errors, self.page.inner_text("body")[:500])
            time.sleep(0.1)

    def picture(self, selector: str) -> np.ndarray:
        time.sleep(0.3)
        content = self.page.locator(selector).screenshot()
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), float)
