"""The page for people, in a real browser on a real daemon."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.browser import Browser, browser, complaints, until
from tests.content import write
from tests.daemon_process import DaemonProcess
from tests.slowfs import SlowFS
from tests.slowfs.model import WRITING

MiB = 1024 * 1024
FILM = "film.mp4"
PICTURE = "[...document.querySelectorAll('#copies svg')].map(svg => svg.getAttribute('aria-label'))"

ONE_OF_TWO_FAILS = """
const ask = window.fetch;
window.fetch = async (...what) => {
  const answer = await ask(...what);
  if (!answer.url.endsWith("/api/status")) return answer;
  const status = await answer.json();
  status.workers.push({ ...status.workers[0], name: "w2", disk_normal: false });
  status.cache.disk = { normal: false, failing: ["w2"], reason: "", stuck: 0 };
  return new Response(JSON.stringify(status), { headers: answer.headers });
};
"""


@pytest.fixture
def server(slowfs: SlowFS, daemon: Callable[..., DaemonProcess]) -> DaemonProcess:
    slowfs.set(latency=0.01, bandwidth=4 * MiB)  # it is seen, also by a page that is late
    write(slowfs.backing, FILM, 96 * MiB)
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        write(slowfs.backing, f"series/{name}", 1000)
    started = daemon(slowfs.path, "--admin", "127.0.0.1:0", workers=2)
    for name in ("a.mp4", "b.mp4", "c.mp4", "a.mp4"):
        fetch(started, f"series/{name}")
    wait_for(started, "/series/a.mp4", "/series/b.mp4", "/series/c.mp4")
    return started


@pytest.fixture
def page(server: DaemonProcess, tmp_path: Path) -> Iterator[Browser]:
    with browser(tmp_path / "profile") as driver:
        driver.get(admin_url(server))
        until(lambda: text(driver, "#state") == "Serving")
        yield driver
        assert complaints(driver) == [], "nothing is wrong by the console"


def fetch(server: DaemonProcess, path: str) -> bytes:
    with urllib.request.urlopen(server.url + path, timeout=30) as answer:
        body: bytes = answer.read()
        return body


def admin_url(server: DaemonProcess) -> str:
    return server.log.partition("admin listener url=")[2].split()[0]


def wait_for(server: DaemonProcess, *paths: str) -> None:
    """Until these are listed: that comes after the answer, and the page asks once."""

    def listed() -> set[str]:
        with urllib.request.urlopen(f"{admin_url(server)}api/entries", timeout=30) as answer:
            return {entry["path"] for entry in json.load(answer)["entries"]}

    until(lambda: set(paths) <= listed())


def text(driver: Browser, selector: str) -> str:
    return driver.find_element(By.CSS_SELECTOR, selector).text


def script(driver: Browser, expression: str) -> Any:
    return driver.execute_script(f"return {expression}")


def titles(driver: Browser) -> list[str]:
    return script(
        driver, "[...document.querySelectorAll('#titles td.path')].map(e => e.textContent)"
    )


def press(driver: Browser, *keys: str) -> None:
    driver.switch_to.active_element.send_keys(*keys)


def test_a_seek_is_seen_while_a_film_is_copied(page: Browser, server: DaemonProcess) -> None:
    assert text(page, "#no-copies") == "Nothing is being copied."
    gone = threading.Event()

    def watch(start: int) -> None:
        request = urllib.request.Request(
            server.url + FILM, headers={"Range": f"bytes={start}-{start + 40 * MiB - 1}"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            while answer.read(64 * 1024) and not gone.wait(0.01):
                pass

    viewers = [threading.Thread(target=watch, args=(start,)) for start in (0, 50 * MiB)]
    for viewer in viewers:
        viewer.start()
    try:
        first = until(lambda: [label for label in script(page, PICTURE) if "in 2 pieces" in label])
        assert f"/{FILM}: " in first[0] and "; readers at " in first[0]
        until(lambda: script(page, PICTURE) not in ([], first))  # it moves
        until(lambda: len(page.find_elements(By.CSS_SELECTOR, "#copies .blocks i")) == 2)
        before = script(page, "document.querySelector('#copies .present').getAttribute('d')")
        until(lambda: script(page, "document.querySelector('#copies .fresh').getAttribute('d')"))
        assert before.count("M") >= 2
        until(lambda: text(page, "#in").endswith(" MB/s"))
    finally:
        gone.set()
        for viewer in viewers:
            viewer.join()


def test_a_cache_disk_that_fails_is_seen(
    daemon: Callable[..., DaemonProcess], tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write(source, FILM, 1000)
    with SlowFS(writable=True, latency=0, meta_latency=0, bandwidth=0) as disk:
        server = daemon(source, "--admin", "127.0.0.1:0", cache_dir=disk.path / "cache")
        with browser(tmp_path / "profile") as driver:
            driver.get(admin_url(server))
            until(lambda: text(driver, "#state") == "Serving")
            disk.fault("EIO", operations=WRITING)
            fetch(server, FILM)
            said = "Serving – the cache disk is degraded (Input/output error); files come straight"
            until(lambda: text(driver, "#state").startswith(said))
            disk.release()
            until(lambda: text(driver, "#state") == "Serving")
            driver.execute_script(ONE_OF_TWO_FAILS)
            said = "Serving – the cache disk is degraded in w2; files come straight from the source"
            until(lambda: text(driver, "#state") == said)
            assert complaints(driver) == []


def test_titles_are_found_pinned_and_purged_with_the_keyboard(
    page: Browser, server: DaemonProcess
) -> None:
    until(lambda: len(titles(page)) == 3)
    page.find_element(By.ID, "pattern").send_keys("/series/[ab].mp4", Keys.ENTER)
    until(lambda: sorted(titles(page)) == ["/series/a.mp4", "/series/b.mp4"])

    pin = (By.CSS_SELECTOR, "[aria-label^='Pin /series/a.mp4']")
    page.find_element(*pin).send_keys(Keys.SPACE)
    until(lambda: text(page, "#done") == "/series/a.mp4 is pinned.")
    until(lambda: page.find_element(*pin).get_attribute("aria-pressed") == "true")

    page.find_element(By.CSS_SELECTOR, "[aria-label='Purge /series/b.mp4']").send_keys(Keys.ENTER)
    until(lambda: script(page, "document.getElementById('purge-dialog').open"))
    until(lambda: "/series/b.mp4: 1 file, " in text(page, "#purge-what"))
    press(page, Keys.ESCAPE)  # nothing was asked for
    until(lambda: not script(page, "document.getElementById('purge-dialog').open"))
    assert "/series/b.mp4" in titles(page)

    page.find_element(By.CSS_SELECTOR, "[aria-label='Purge /series/b.mp4']").send_keys(Keys.ENTER)
    until(lambda: script(page, "document.getElementById('purge-dialog').open"))
    page.find_element(By.CSS_SELECTOR, "input[value=hard]").send_keys(Keys.SPACE)
    page.find_element(By.CSS_SELECTOR, "button[value=purge]").send_keys(Keys.ENTER)
    until(lambda: text(page, "#done").startswith("1 file removed"))
    until(lambda: titles(page) == ["/series/a.mp4"])


def test_files_are_warmed(page: Browser, server: DaemonProcess, slowfs: SlowFS) -> None:
    write(slowfs.backing, "next/d.mp4", 1000)
    page.find_element(By.ID, "warm").click()
    until(lambda: script(page, "document.getElementById('warm-dialog').open"))
    page.find_element(By.ID, "warm-pattern").send_keys("/next/", Keys.ENTER)
    until(lambda: "1 of 1 files" in text(page, "#jobs"))
    wait_for(server, "/next/d.mp4")
    page.find_element(By.CSS_SELECTOR, "#find button[type=submit]").click()
    until(lambda: "/next/d.mp4" in titles(page))


def test_it_can_be_read_by_everybody(page: Browser) -> None:
    """Contrast, names and structure by axe, light and dark; and it fits a phone."""
    import axe_core_python

    until(lambda: len(titles(page)) == 3)
    page.execute_script((files(axe_core_python) / "axe.min.js").read_text())
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        found = page.execute_async_script(
            "const done = arguments[0]; axe.run().then(({violations}) =>"
            " done(violations.map(each => each.id + ': ' + each.nodes[0].html)))"
        )
        assert found == [], scheme
    phone = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    until(lambda: script(page, "document.documentElement.scrollWidth <= 360"))


def test_blocks_of_several_workers_are_one_picture(page: Browser) -> None:
    run = page.execute_async_script(
        "const [done] = [arguments[0]]; import('/static/copies.js').then(({combined, together}) =>"
        " done([combined([[1, 2], [0, 3]], [[0, 4], [1, 1]], (a, b) => a || b),"
        " combined([[1, 3], [0, 2]], [[1, 1], [0, 4]], (is, was) => is && !was),"
        " combined([], [], (a, b) => a || b), together([]).length]))"
    )
    assert run == [[[1, 2], [0, 2], [1, 1]], [[0, 1], [1, 2], [0, 2]], [], 0]


def test_a_name_is_text_whatever_is_in_it(
    page: Browser, server: DaemonProcess, slowfs: SlowFS
) -> None:
    name = "<img src=x onerror=alert(1)>.mp4"
    write(slowfs.backing, name, 100)
    fetch(server, "%3Cimg%20src=x%20onerror=alert(1)%3E.mp4")
    wait_for(server, f"/{name}")
    page.find_element(By.CSS_SELECTOR, "#find button[type=submit]").click()
    until(lambda: f"/{name}" in titles(page))
    assert page.find_elements(By.TAG_NAME, "img") == []
