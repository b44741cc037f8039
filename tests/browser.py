"""A real browser for the tests of what is drawn, with nothing outside it.

with open_lab(folder, dark=True) as lab:  # JupyterLab, its files in an empty folder
    page = lab.run(["x = 2", "x + 1"])  # a notebook of these cells, opened and run to its end
    assert lab.output(1).inner_text() == "3" and lab.python("x") == 2
    assert lab.errors == [] and lab.outside == [] and lab.axe(".jp-OutputArea") == []
    lab.screenshot("sum", lab.output(1))

with open_tab() as tab:  # no server: the network is off
    tab.page.goto(file.as_uri())
"""

import ast
import base64
import ctypes
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat
import numpy as np
import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]
# No name resolves but the machine's own: whatever else is asked for fails.
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-component-update",
]
OPTIONS += [
    "--disable-background-networking",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
# axe-core, the accessibility rules: fetched by npm when a test asks; no part of the project
AXE = "4.14.1"
AXE_SHA512 = (
    "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
)


def chromium() -> str:
    "Path of Chromium. Without it, or without Playwright, the test is skipped."
    pytest.importorskip(
        "playwright.sync_api", reason="Playwright is missing: pip install playwright"
    )
    names = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    found = next((path for path in (shutil.which(name) for name in names if name) if path), None)
    return found or pytest.skip(
        "Chromium is missing: apt-get install chromium, or name it in the variable CHROMIUM"
    )


def axe_source() -> str:
    "axe-core's JavaScript, from npm into out/cache the first time. Else the test is skipped."
    archive = ROOT / "out" / "cache" / f"axe-core-{AXE}.tgz"
    if not archive.exists():
        archive.parent.mkdir(parents=True, exist_ok=True)
        command = [
            "npm",
            "pack",
            f"axe-core@{AXE}",
            "--silent",
            "--pack-destination",
            archive.parent,
        ]
        if not shutil.which("npm") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip(f"axe-core {AXE} is not to be had here: it takes npm and its registry")
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    assert digest == AXE_SHA512, (
        f"{archive.name} in out/cache is not the published one: delete it and run again"
    )
    with tarfile.open(archive) as packed:
        return packed.extractfile("package/axe.min.js").read().decode()


def shot_path(name: str) -> Path:
    "Where the picture NAME goes: out/screenshots/NAME.png; the folder is made."
    path = ROOT / "out" / "screenshots" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


class Tab:
    "A page, the errors on its console and what it asked of other servers (which was refused)."

    def __init__(self, page, own: str | None = None):
        self.page, self.errors, self.outside = page, [], []
        own = (
            "data:",
            "blob:",
            "about:",
            *((f"http://{own}/", f"ws://{own}/") if own else ("file:",)),
        )
        for asked in ("request", "websocket"):
            page.on(asked, lambda r: None if r.url.startswith(own) else self.outside.append(r.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on(
            "console", lambda line: self.errors.append(line.text) if line.type == "error" else None
        )

    def axe(self, selector: str = "body", impacts: tuple = ("serious", "critical")) -> list[str]:
        "What axe-core finds inside `selector`: the rule, what it asks for, where it is broken."
        if not self.page.evaluate("'axe' in window"):
            self.page.evaluate(axe_source())
        found = self.page.evaluate("selector => axe.run(selector)", selector)["violations"]
        where = {
            finding["id"]: [node["html"][:120] for node in finding["nodes"][:5]]
            for finding in found
        }
        return [
            f"{f['id']}: {f['help']}: {where[f['id']]}" for f in found if f["impact"] in impacts
        ]

    def screenshot(self, name: str, of=None) -> Path:
        "out/screenshots/NAME.png of a locator, or of what the window shows."
        path = shot_path(name)
        (of or self.page).screenshot(path=path)
        return path


class Lab(Tab):
    "The page of a running JupyterLab, in which one notebook at a time is open."

    def __init__(self, page, own: str, folder: Path):
        super().__init__(page, own)
        self.folder, self.count = folder, 0

    def run(self, cells: list[str], timeout: float = 120):
        "The page with a notebook of these cells, run. A cell's exception is raised here."
        self.count += 1
        self.notebook = self.folder / f"notebook_{self.count}.ipynb"
        written = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(source) for source in cells]
        )
        written.metadata.kernelspec = dict(
            name="python3", display_name="python3", language="python"
        )
        nbformat.write(written, self.notebook)
        self.page.evaluate(CLOSE)
        self.errors.clear()
        self.outside.clear()
        self.page.evaluate(OPEN, self.notebook.name)
        self.page.wait_for_function(
            "window.ran && kernel.status === 'idle'", timeout=timeout * 1000
        )
        for number, outputs in enumerate(self.page.evaluate(OUTPUTS)):
            for output in outputs:
                trace = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(output.get("traceback", [])))
                assert output["output_type"] != "error", f"cell {number}: {trace}"
        return self.page

    def output(self, number: int):
        "Locator of what cell `number` has put out, each output an element."
        return (
            self.page.locator(".jp-NotebookPanel .jp-CodeCell")
            .nth(number)
            .locator(".jp-OutputArea-output")
        )

    def python(self, expression: str):
        "Value of an expression in the kernel, after all that the page has told it; as JSON has it."
        got = self.page.evaluate(ASK, f"__import__('json').dumps({expression})")
        assert got["status"] == "ok", f"{expression}: {got.get('ename')}: {got.get('evalue')}"
        return json.loads(ast.literal_eval(got["data"]["text/plain"]))

    def wait(self, expression: str, timeout: float = 20):
        "Ask for the value of an expression until it is true."
        end = time.monotonic() + timeout
        while not (value := self.python(expression)):
            assert time.monotonic() < end, f"after {timeout} s still not: {expression}"
            self.page.wait_for_timeout(50)
        return value

    def save(self) -> nbformat.NotebookNode:
        "The notebook as JupyterLab saves it."
        self.page.evaluate("panel.context.save()")
        return nbformat.read(self.notebook, as_version=4)


CLOSE = """(async () => {
    if (window.panel) { await panel.sessionContext.shutdown(); panel.dispose(); }
})()"""
OPEN = """async name => {
    const { commands, restored } = window.jupyterapp;
    await restored;
    window.panel = await commands.execute('docmanager:open', { path: name, factory: 'Notebook' });
    await panel.context.ready;
    await panel.sessionContext.ready;
    window.kernel = panel.sessionContext.session.kernel;
    window.ran = false;
    commands.execute('notebook:run-all-cells').finally(() => { window.ran = true; });
}"""
OUTPUTS = "panel.content.widgets.map(cell => cell.model.outputs.toJSON())"
# A widget waits with what it says until its last message is dealt with: hence two requests.
ASK = """async expression => {
    const ask = wanted => kernel.requestExecute(
        { code: '', store_history: false, user_expressions: wanted }
    ).done;
    await ask({});
    return (await ask({ value: expression })).content.user_expressions.value;
}"""
# Milliseconds from a key or a click to the frame after the change that answers it, in window.waits.
WAITS = """([answer, changes]) => {
    window.waits = [];
    let start = 0;
    const now = () => { start = performance.now(); };
    for (const name of ['keydown', 'click']) document.addEventListener(name, now, true);
    const painted = () => new Promise(done => requestAnimationFrame(() => setTimeout(done)));
    new MutationObserver(async () => {
        const since = start;
        start = 0;
        await painted();
        if (since) waits.push(performance.now() - since);
    }).observe(document.querySelector(answer), changes);
}"""
NEAR_THE_END = "box => box.setSelectionRange(box.value.length - 3, box.value.length - 3)"


def time_keys(page, box: str, view: str, letters: str) -> list[float]:
    "Milliseconds from each key, near the end of a text, to new colours; each waits for the last."
    page.evaluate(WAITS, [view, {"childList": True, "subtree": True}])
    page.locator(box).first.focus()
    page.locator(box).first.evaluate(NEAR_THE_END)
    for n, letter in enumerate(letters):
        page.keyboard.press(letter)
        end = time.monotonic() + 20
        while page.evaluate("waits.length") <= n:
            assert time.monotonic() < end, f"nothing answered the key {letter}"
            page.wait_for_timeout(10)
        page.wait_for_timeout(100)
    return page.evaluate("waits")


def report(name: str, times: list[float], limit: float) -> None:
    "Prints what was measured; the limit is for the quicker quarter: other work only adds."
    low, middle, high = np.quantile(times, [0.25, 0.5, 1])
    print(f"{name}: quarter {low:.0f} ms, median {middle:.0f}, longest {high:.0f} (limit {limit})")
    assert low <= limit, name


SETTINGS = {
    "apputils-extension/themes": lambda dark: {
        "theme": f"JupyterLab {'Dark' if dark else 'Light'}"
    },
    "apputils-extension/notification": lambda dark: {
        "fetchNews": "false",
        "checkForUpdates": False,
    },
    "docmanager-extension/plugin": lambda dark: {"autosave": False},
    "notebook-extension/tracker": lambda dark: {
        "windowingMode": "none"
    },  # cells out of sight are there too
}


@contextmanager
def open_tab(dark: bool = False, own: str | None = None, size: tuple = (1280, 900), **more):
    "A fresh Chromium with one page. `own` is the only server it may talk to, as host:port."
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        try:
            more |= dict(
                viewport=dict(width=size[0], height=size[1]),
                color_scheme="dark" if dark else "light",
            )
            yield Tab(browser.new_context(offline=own is None, **more).new_page(), own)
        finally:
            browser.close()


@contextmanager
def serve(folder: Path, dark: bool):
    "host:port and token of a JupyterLab server of `folder`; its own files are in .home there."
    home, token = folder / ".home", secrets.token_hex(8)
    for name, setting in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(setting(dark)))
    places = dict(
        JUPYTERLAB_SETTINGS_DIR="settings",
        JUPYTERLAB_WORKSPACES_DIR="workspaces",
        IPYTHONDIR="ipython",
    )
    places |= dict(
        JUPYTER_CONFIG_DIR="config", JUPYTER_DATA_DIR="data", JUPYTER_RUNTIME_DIR="runtime"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = f"--ip=127.0.0.1 --port={port} --ServerApp.port_retries=0 --no-browser"
    flags += f" --IdentityProvider.token={token} --LabApp.expose_app_in_browser=True"
    flags += " --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--allow-root",
        *flags.split(),
        f"--ServerApp.root_dir={folder}",
    ]
    own = f"127.0.0.1:{port}"
    with open(home / "server.log", "wb") as log:
        env = os.environ | {name: str(home / place) for name, place in places.items()}
        server = subprocess.Popen(
            command, env=env, stdout=log, stderr=log, preexec_fn=die_with_parent
        )
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://{own}/api/status?token={token}", timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, (home / "server.log").read_text()[-2000:]
                time.sleep(0.1)
        yield own, token
    finally:
        family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        server.terminate()
        _, left = psutil.wait_procs(family, timeout=5)
        for process in left:
            process.kill()
        server.wait()


def die_with_parent() -> None:
    "Ask Linux to end this process when the tests are killed."
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


@contextmanager
def offline(lab):
    "A fresh profile with the network off, in the theme of the lab."
    context = lab.page.context.browser.new_context(offline=True, color_scheme=lab.theme)
    try:
        yield Tab(context.new_page())
    finally:
        context.close()


@contextmanager
def open_lab(folder: Path, dark: bool = False, size: tuple = (1400, 1000)):
    "JupyterLab in its light or dark theme, working in `folder`, in a browser of its own."
    chromium()
    with serve(folder, dark) as (own, token), open_tab(dark, own, size) as tab:
        tab.page.goto(f"http://{own}/lab?token={token}&reset")
        tab.page.wait_for_function("window.jupyterapp", timeout=60_000)
        yield Lab(tab.page, own, folder)
