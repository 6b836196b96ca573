import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fedrouter.errors import RunError
from fedrouter.report import write_report


class Page(HTMLParser):
    """What a report holds: its headings, captions, links to elsewhere and scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.titles: list[str] = []
        self.outside: list[str] = []
        self.images = 0
        self.scripts = 0
        self._open = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag
        self.scripts += tag in {"script", "iframe", "object"}
        self.images += tag == "img"
        for name, value in attrs:
            if name in {"src", "href"} and not str(value).startswith("data:image/svg+xml;base64,"):
                self.outside.append(str(value))

    def handle_data(self, data: str) -> None:
        if self._open in {"h1", "h2", "figcaption"} and data.strip():
            self.titles.append(data)


@pytest.fixture(scope="module")
def run_copy(toy_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(toy_run, tmp_path_factory.mktemp("report") / "run"))


def test_a_run_report_has_all_its_parts_and_needs_nothing_else(run_copy: Path) -> None:
    path = write_report(run_copy)
    page = Page(path)
    assert path == run_copy / "report.html"
    for title in (
        "Scores on the test rows",
        "Training loss",
        "Training loss by task",
        "ROUGE-1 on test rows",
        "ROUGE-1",
        "Discovered tasks",
        "By true task",
        "By discovered task",
        "Test prompts of all clients, by task (100.0% right)",
        "Bytes per round",
        "Training loss over bytes, up and down",
        "Configuration",
    ):
        assert title in page.titles
    assert (page.outside, page.scripts) == ([], 0)
    assert page.images == 10
    assert 'name="viewport"' in path.read_text()


def test_the_same_run_gives_the_same_bytes(run_copy: Path) -> None:
    first = write_report(run_copy).read_bytes()
    assert write_report(run_copy).read_bytes() == first


def test_images_ask_for_nothing_from_elsewhere(run_copy: Path) -> None:
    text = write_report(run_copy).read_text()
    for image in re.findall(r'base64,([^"]+)"', text):
        svg = base64.b64decode(image).decode()
        assert "<svg" in svg
        assert "<script" not in svg
        assert not re.search(r'(?:href|src)="(?!#|data:image/png)', svg)


def test_texts_from_data_are_escaped(run_copy: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run_copy, tmp_path / "<b>run"))
    summary = json.loads((run / "summary.json").read_text())
    summary["tasks"][0]["true_tasks"] = {"<script>alert(1)</script>": 3}
    (run / "summary.json").write_text(json.dumps(summary))
    text = write_report(run).read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; 3" in text
    assert "&lt;b&gt;run" in text


def test_without_the_data_the_map_says_why(run_copy: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run_copy, tmp_path / "run"))
    config = run / "config.toml"
    config.write_text(config.read_text().replace("train.jsonl", "gone.jsonl"))
    text = write_report(run).read_text()
    assert "Not drawn: " in text
    assert "gone.jsonl" in text


def test_what_cannot_be_reported(tmp_path: Path, run_copy: Path) -> None:
    with pytest.raises(RunError, match="does not exist"):
        write_report(tmp_path / "nothing")
    unfinished = Path(shutil.copytree(run_copy, tmp_path / "run"))
    (unfinished / "summary.json").unlink()
    with pytest.raises(RunError, match="fedrouter resume"):
        write_report(unfinished)


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser_it_fits_the_screen(run_copy: Path, tmp_path: Path, width: int) -> None:
    """Headless Chromium, without a network, shows every image and needs no sideways scrolling."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    probe = tmp_path / "probe.html"
    probe.write_text(
        f'<iframe id="f" src="{write_report(run_copy).as_uri()}" '
        f'style="width:{width}px;height:900px;border:0"></iframe><script>'
        "onload = () => { const d = f.contentDocument, images = [...d.images];"
        "document.title = JSON.stringify([d.documentElement.scrollWidth, images.length,"
        "images.filter(i => i.naturalWidth > 0).length]); }</script>"
    )
    shown = subprocess.run(
        [
            chromium,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--allow-file-access-from-files",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=5000",
            "--dump-dom",
            probe.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r"<title>(\[.*?\])</title>", shown.stdout)
    assert found, shown.stderr[-500:]
    scroll_width, images, loaded = json.loads(found[1])
    assert scroll_width <= width
    assert images == loaded == 10


def test_the_run_of_a_deployment_is_drawn_without_what_only_its_nodes_have(
    run_copy: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(run_copy, tmp_path / "run"))
    summary = json.loads((run / "summary.json").read_text())
    summary["data"], summary["metrics"]["global"] = "", None
    for scores in summary["metrics"]["by_task"].values():
        del scores["global"]
    (run / "summary.json").write_text(json.dumps(summary))
    (run / "predictions.jsonl").unlink()
    path = write_report(run)
    assert "Not drawn: the rows of this run are with its clients" in path.read_text()
    assert "Examples" not in Page(path).titles
    bars = [
        base64.b64decode(one).decode() for one in re.findall(r'base64,([^"]+)"', path.read_text())
    ]
    legends = [svg for svg in bars if "own tasks (local)" in svg]
    assert legends
    assert not [svg for svg in legends if "all tasks (global)" in svg]
