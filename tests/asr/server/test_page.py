"""The page in a real browser (headless Chromium): upload, microphone, download, enhancement, canvas, no internet."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.server.transcript_view import STRONGEST, SURE
from tests.asr.server.conftest import start_server, stop_server

webdriver = pytest.importorskip("selenium.webdriver")
pytest.importorskip("gradio")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("chromium") and shutil.which("chromedriver")), reason="needs chromium"),
]

PATIENCE = int(os.environ.get("PAGE_TEST_SECONDS", "120"))  # for one step, on a busy machine


@pytest.fixture(scope="module")
def recording(tmp_path_factory, speech) -> Path:
    """Real speech twice, with a pause, as a browser would play it."""
    path = tmp_path_factory.mktemp("page") / "my talk.wav"
    soundfile.write(path, np.concatenate([speech, np.zeros(24_000, np.float32), speech]), 16_000)
    return path


@pytest.fixture(scope="module")
def page_server(tmp_path_factory):
    running = start_server(tmp_path_factory.mktemp("page_server"), key=None)
    yield running
    stop_server(running)
    assert not list(running.parent.iterdir())


@pytest.fixture(scope="module")
def browser(page_server, recording, tmp_path_factory):
    """Chromium with a microphone that plays the recording; its downloads go to `browser.folder`."""
    folder = tmp_path_factory.mktemp("downloads")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1100,1400",
        "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
        "--autoplay-policy=no-user-gesture-required",
        f"--use-file-for-fake-audio-capture={recording}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    driver.folder, driver.url = folder, page_server.url
    yield driver
    driver.quit()


@pytest.fixture
def page(browser):
    browser.get(browser.url)
    wait(browser, "#transcribe")
    yield browser
    if folder := os.environ.get("PAGE_TEST_SCREENSHOTS"):
        name = os.environ["PYTEST_CURRENT_TEST"].split("::")[1].split()[0]
        browser.save_screenshot(f"{folder}/{name}.png")


def wait(browser, selector: str, holds=lambda element: True):
    """The first visible element that matches and of which the condition holds."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        for element in browser.find_elements("css selector", selector):
            try:
                if element.is_displayed() and holds(element):
                    return element
            except Exception:  # replaced meanwhile
                continue
        time.sleep(0.2)
    browser.save_screenshot("/tmp/page_test_failed.png")
    pytest.fail(f"{selector}: not there within {PATIENCE} s")


def drop(browser, box: str, path: Path) -> None:
    """Choose a file as a drop does, and wait until it has arrived."""
    browser.find_element("css selector", f"{box} input[type=file]").send_keys(str(path))
    wait(browser, f"{box} button[aria-label*='lay'], {box} .waveform-container, {box} audio")


def open_tab(browser, name: str) -> None:
    wait(browser, "button[role=tab]", lambda tab: tab.text == name).click()


def words(browser) -> list[str]:
    script = "return [...document.querySelectorAll('#result .word')].map(word => word.textContent)"
    return browser.execute_script(script)


def test_drop_transcribe_follow_seek_and_download(page, recording, transcriber):
    own = transcriber(str(recording))
    drop(page, "#recording", recording)
    wait(page, "#transcribe").click()
    wait(page, "#result .downloads")
    assert words(page) == [word.text for word in own.words]
    state = "const a = document.querySelector('#result audio'); return [a.duration, a.currentTime, a.error]"
    page.execute_script("arguments[0].click()", page.find_elements("css selector", "#result .word")[-3])
    said = wait(page, "#result .word.said")
    assert said.text in [word.text for word in own.words[-3:]]
    seconds, now, error = page.execute_script(state)
    assert seconds == pytest.approx(own.duration, abs=0.1) and now >= own.words[-3].start - 0.01 and error is None
    colours = ("return [...document.querySelectorAll('#result .word')].map(word => word.classList.contains('said') "
               "? null : getComputedStyle(word).backgroundColor)")  # all at once: the recording plays
    for colour, word in zip(page.execute_script(colours), own.words, strict=True):
        if colour is not None:
            opacity = float(colour.rsplit(",", 1)[1].rstrip(")"))
            assert opacity == pytest.approx(STRONGEST * max(0.0, 1 - word.confidence / SURE), abs=0.02)
    for name in ("srt", "json"):
        wait(page, f'#result a[download="my talk.{name}"]').click()
    files = [page.folder / f"my talk.{name}" for name in ("srt", "json")]
    until = time.monotonic() + PATIENCE
    while not all(file.exists() for file in files) and time.monotonic() < until:
        time.sleep(0.2)
    assert files[0].read_text().startswith("1\n00:00:0")
    assert json.loads(files[1].read_text())["text"] == own.text


def test_record_with_a_microphone(page):
    wait(page, "#recording button[aria-label='Record audio']").click()
    wait(page, "#recording .record-button").click()
    time.sleep(6)
    wait(page, "#recording .stop-button").click()
    wait(page, "#recording button[aria-label*='lay']")
    wait(page, "#transcribe").click()
    wait(page, "#result .downloads")
    assert len(words(page)) > 3


def test_enhance(page, recording):
    open_tab(page, "Enhance")
    drop(page, "#noisy", recording)
    wait(page, "#enhance").click()
    picture = wait(page, "#spectrograms img")
    assert int(picture.get_property("naturalWidth")) > 500
    wait(page, "#after button[aria-label*='lay']")


def test_canvas(page, recording):
    open_tab(page, "Denoising decoder")
    drop(page, "#canvas_recording", recording)
    wait(page, "#denoise").click()
    table = wait(page, "#canvas table", lambda table: "text" in table.text.splitlines()[-1])
    assert table.text.startswith("draft") and "pass 1" in table.text


def test_bad_files_are_explained(page, tmp_path):
    wait(page, "#transcribe").click()
    wait(page, ".toast-body", lambda toast: "Choose a recording first" in toast.text)
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF this is no audio")
    page.find_element("css selector", "#recording input[type=file]").send_keys(str(broken))
    time.sleep(2)
    wait(page, "#transcribe").click()
    wait(page, ".toast-body", lambda toast: "broken.wav: " in toast.text)


def test_nothing_is_asked_of_other_hosts(page):
    """Of all that the tests of this file made the browser ask for."""
    asked = set()
    for entry in page.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.add(message["params"]["request"]["url"])
    assert asked
    here = (page.url, page.url.replace("127.0.0.1", "localhost"), "data:", "blob:", "chrome", "about:")
    assert [url for url in asked if not url.startswith(here)] == []
