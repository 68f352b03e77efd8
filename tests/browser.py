"""A headless Chromium, driven by selenium: what a person would have in front of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from tests.requirements import program

WAIT = 30.0  # s

Browser = Chrome


@contextmanager
def browser(profile: Path, *, width: int = 1280, height: int = 900) -> Iterator[Browser]:
    """A browser with a window of this size in CSS pixels, and a profile of its own."""
    options = ChromeOptions()
    options.binary_location = program("chromium")
    for argument in (
        "--headless=new",
        "--no-sandbox",  # root has none
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--mute-audio",
        "--autoplay-policy=no-user-gesture-required",
        f"--user-data-dir={profile}",
        f"--window-size={width},{height}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Service(program("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def until(condition: Callable[[], Any], wait: float = WAIT) -> Any:
    """Wait for the condition; what it returned. What the page replaces is looked up anew."""
    deadline = time.monotonic() + wait
    while True:
        with suppress(StaleElementReferenceException):
            if result := condition():
                return result
        assert time.monotonic() < deadline, f"still not so after {wait:g} s"
        time.sleep(0.05)


def complaints(driver: Browser) -> list[str]:
    """What stands in the console that is worse than a remark, since the last look."""
    lines = driver.get_log("browser")
    return [line["message"] for line in lines if line["level"] in ("WARNING", "SEVERE")]
