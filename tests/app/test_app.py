"""The page as its users meet it: in a browser, from a server of its own process."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import runs

from pyeqgan import cli
from pyeqgan.app.reading import MOST_BYTES
from pyeqgan.options import AppOptions

pytest.importorskip("gradio", reason="the app needs Gradio: pip install 'pyeqgan[app]'")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 120_000  # milliseconds


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return runs.write_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "run"
    assert runs.run(photos, path, steps=1)[0] == 0
    return path


@contextlib.contextmanager
def serving(checkpoint, folder):
    """The address of a page, and the process that serves it with `folder` for its temporary files."""
    command = [sys.executable, "-m", "pyeqgan", "app", "--checkpoint", str(checkpoint), "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(folder)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        line = process.stdout.readline()
        found = re.fullmatch(r"open (http://127\.0\.0\.1:\d+) in a browser; Ctrl-C ends it\n", line)
        assert found, line
        yield found[1], process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def address(trained, tmp_path_factory):
    with serving(trained, tmp_path_factory.mktemp("temporary")) as (address, _):
        yield address


@pytest.fixture
def page(address):
    """The page in a browser that reports whatever is asked of another server."""
    if BROWSER is None:
        pytest.skip("no Chromium here to open the page in (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 1400})
        page.set_default_timeout(PATIENCE)
        elsewhere: list[str] = []
        page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else elsewhere.append(r.url))
        page.goto(address)
        page.get_by_role("button", name="Generate").wait_for()
        yield page
        assert elsewhere == []
        browser.close()


def drop(page, path: Path) -> None:
    """Give a file to the first place that has none, and wait for what it says of it."""
    page.locator("input[type=file]").first.set_input_files(path)


def test_images_go_in_and_others_come_back(page, photos, tmp_path):
    for index in range(2):
        drop(page, photos / "d" / f"{index}.png")
        page.get_by_text("its central square").nth(index).wait_for()
    page.get_by_label("number input for How many").fill("5")
    page.get_by_role("button", name="Generate").click()
    page.locator("button.thumbnail-item").nth(4).wait_for()
    assert page.locator("button.thumbnail-item").count() == 5
    with page.expect_download() as download:
        page.get_by_text("Download all").click()
    download.value.save_as(tmp_path / "all.zip")
    assert len(zipfile.ZipFile(tmp_path / "all.zip").namelist()) == 5
    if where := os.environ.get("APP_SCREENSHOT"):
        page.screenshot(path=where)


def test_what_is_no_image_is_refused_politely(page, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    drop(page, tmp_path / "text.png")
    page.get_by_text("text.png is no image that can be read").wait_for()


def test_a_huge_file_is_refused_politely(page, tmp_path):
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate(MOST_BYTES + 1)
    drop(page, tmp_path / "huge.png")
    page.get_by_text(re.compile("exceed|too large|maximum", re.IGNORECASE)).first.wait_for()


def test_without_an_image_it_says_what_it_expects(page):
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("expected at least one image with a share above 0").wait_for()


def test_only_this_machine_is_listened_to(address):
    port = int(address.rpartition(":")[2])
    socket.create_connection(("127.0.0.1", port), timeout=60).close()
    with pytest.raises(ConnectionRefusedError):  # it would answer, were all addresses listened on
        socket.create_connection(("127.0.0.2", port), timeout=60)
    assert AppOptions(Path()).host == "127.0.0.1"


def test_a_port_that_is_taken_is_one_line(address, trained, capsys):
    status = cli.main(["app", "--checkpoint", str(trained), "--port", address.rpartition(":")[2]])
    told = capsys.readouterr().err
    assert status == 2 and "Address already in use; --port takes another" in told and told.count("\n") == 1


def test_a_host_that_is_none_is_one_line(trained, capsys):
    status = cli.main(["app", "--checkpoint", str(trained), "--host", "no.such.host.invalid", "--port", "0"])
    told = capsys.readouterr().err
    assert status == 2 and "cannot listen on no.such.host.invalid:0: " in told and told.count("\n") == 1
    assert "Unknown error" not in told


def test_without_gradio_or_a_checkpoint_there_is_one_line(trained, capsys, monkeypatch, tmp_path):
    assert cli.main(["app", "--checkpoint", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("pyeqgan: no checkpoint in ")
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert cli.main(["app", "--checkpoint", str(trained)]) == 2
    assert capsys.readouterr().err == "pyeqgan: the app needs Gradio: pip install 'pyeqgan[app]'\n"


def test_a_signal_ends_it_and_leaves_no_files(trained, tmp_path):
    with serving(trained, tmp_path) as (address, process):
        assert len(list(tmp_path.glob("pyeqgan-app-*"))) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=240) == 0
    assert not list(tmp_path.glob("pyeqgan-app-*"))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=60)
