# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Pages of MLflow in a browser: opened, waited for, and taken as pictures for the docs."""

from __future__ import annotations

import io
import os
from typing import Any, Final

from tests import ROOT

PATIENCE: Final = 90.0
"""Seconds until something has to be on the page; no measure of anything."""
PICTURES: Final = ROOT / "docs" / "pictures"
MAX_PICTURE_BYTES: Final = 200_000
WRITE_PICTURES: Final = "WRITE_PICTURES"
"""Environment variable: if set, the tests write the pictures of the docs."""


def open_page(browser: Any, address: str) -> None:
    """Load an address: pages that differ in their fragment only are not loaded again."""
    browser.get("about:blank")
    browser.get(address)


def wait_for(browser: Any, *texts: str) -> str:
    """All the text on the page, once it has all of these in it."""
    from selenium.webdriver.support.wait import WebDriverWait

    def shown(browser: Any) -> str:
        text = browser.find_element("tag name", "body").text
        return text if all(wanted in text for wanted in texts) else ""

    return WebDriverWait(browser, PATIENCE).until(shown, f"not shown: {texts}")


def take_picture(browser: Any, name: str, size: tuple[int, int]) -> None:
    """Write a picture of the page for the docs, if the environment asks for it.

    Args:
        browser: The browser with the page.
        name: The name of the picture's file, without its ending.
        size: Width and height of the part in the upper left of the page, in pixels.
    """
    if not os.environ.get(WRITE_PICTURES):
        return
    from PIL import Image

    page = Image.open(io.BytesIO(browser.get_screenshot_as_png()))
    PICTURES.mkdir(exist_ok=True)
    path = PICTURES / f"{name}.png"
    page.crop((0, 0, *size)).quantize(128).save(path, optimize=True)
    assert path.stat().st_size <= MAX_PICTURE_BYTES, path
