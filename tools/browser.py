"""Look at the built pages in a headless Chromium that cannot reach the outside.

    python tools/browser.py [page ...] [--out FOLDER]     screenshots, and what is wrong, per page

Pages are named as in the built book (`book/index.html`); all of them by default. The tests use
`Browser` for the same checks (`tests/test_browser.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import functools
import http.server
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
KEYS = {
    "Backspace": 8, "Tab": 9, "Enter": 13, "Escape": 27, "End": 35, "Home": 36, "ArrowRight": 39,
    "ArrowDown": 40,
}  # fmt: skip
SIZES = {"desktop": (1280, 900), "tablet": (768, 1024), "phone": (390, 844)}
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars
--disable-background-networking --disable-component-update --disable-sync --disable-extensions
--force-color-profile=srgb --remote-debugging-port=0""".split()

# Wait until formulas and widgets stand, then report what a reader would stumble over.
READY = """(async () => {
  const still = document.createElement('style');
  still.textContent = '*, *::before, *::after { transition: none !important; }';
  document.head.append(still);
  if (window.MathJax && MathJax.startup) {
    await MathJax.startup.promise;
    await MathJax.startup.document.lazyTypesetAll?.();  // those that are not in view, too
  }
  const views = document.querySelectorAll('script[type$="widget-view+json"]').length;
  for (let i = 0; i < 100 && views > document.querySelectorAll('.widget-subarea').length; i++)
    await new Promise(done => setTimeout(done, 50));
  await document.fonts.ready;
  await new Promise(done => setTimeout(done, 150));
  const article = document.querySelector('article') || document.body;
  const skip = 'pre, code, script, style, mjx-container, .highlight';
  const walker = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
  const tex = [];
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (!node.parentElement.closest(skip) && /\\\\\\(|\\\\\\[|\\\\begin\\{|\\$\\$/.test(node.data))
      tex.push(node.data.trim().slice(0, 60));
  }
  const wide = [...document.querySelectorAll('article *')]
    .filter(e => e.getBoundingClientRect().right > window.innerWidth + 1)
    .filter(e => {
      for (let p = e; p && p !== article; p = p.parentElement)
        if (getComputedStyle(p).overflowX !== 'visible') return false;
      return true;
    })
    .map(e => e.tagName.toLowerCase() + '.' + e.className);
  // what is cut off at the side, and no sign at the edge tells of it
  const cut = [...article.querySelectorAll('*')].filter(e => {
    const inner = e.matches('span.math') && e.querySelector('mjx-math');  // seen, not only said
    const width = inner ? inner.getBoundingClientRect().width : e.scrollWidth;
    if (e.clientWidth < 2 || width <= e.clientWidth + 1 || !e.checkVisibility()) return false;
    if (e.closest('mjx-container *')) return false;  // parts of a formula
    if (getComputedStyle(e).overflowX === 'visible' || e.matches('input, select')) return false;
    const frame = e.parentElement;
    const signed = frame.matches('[data-more~=right], [data-more~=left]') && e.tabIndex >= 0;
    return !signed || getComputedStyle(frame, '::after').display === 'none';
  }).map(e => e.outerHTML.slice(0, 60));
  return {
    tex, cut: cut.slice(0, 5), wide: wide.slice(0, 5),
    maths_errors: [...document.querySelectorAll('mjx-merror, [data-mjx-error]')]
      .map(e => e.getAttribute('data-mjx-error') || e.textContent),
    scroll: Math.max(document.documentElement.scrollWidth, window.innerWidth) - screen.width,
    height: Math.ceil(document.documentElement.scrollHeight),
    maths: document.querySelectorAll('mjx-container').length,
    widgets: document.querySelectorAll('.widget-subarea .jupyter-widgets').length,
    images: [...document.images].filter(e => !e.alt).map(e => e.src.slice(-60)),
    broken: [...document.images].filter(e => e.complete && !e.naturalWidth).map(e => e.src),
  };
})()"""


@dataclass
class Visit:
    """What was seen on one page at one size."""

    facts: dict
    console: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    screenshot: bytes = b""
    result: object = None

    def problems(self) -> list[str]:
        """What a reader would stumble over, one line each."""
        found = [f"console: {text}" for text in self.console]
        found += [f"not loaded: {url}" for url in self.failed]
        found += [f"raw TeX: {text}" for text in self.facts["tex"]]
        found += [f"formula: {text}" for text in self.facts["maths_errors"]]
        found += [f"image without text: {src}" for src in self.facts["images"]]
        found += [f"broken image: {src}" for src in self.facts["broken"]]
        found += [f"cut off: {html}" for html in self.facts["cut"]]
        if self.facts["scroll"] > 0:
            found.append(f"scrolls sideways by {self.facts['scroll']} px: {self.facts['wide']}")
        return found


def chromium() -> str | None:
    """The Chromium of this machine, if it has one."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((found for name in names if (found := shutil.which(name))), None)


class Browser:
    """A Chromium and a server for one folder.

    with Browser(HTML) as browser:
        visit = browser.visit("book/index.html", size="phone")
    """

    def __init__(self, folder: Path = HTML):
        self.folder = folder

    def __enter__(self):
        handler = functools.partial(_Quiet, directory=str(self.folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.home = f"http://127.0.0.1:{self.server.server_address[1]}/"
        self.profile = tempfile.mkdtemp()
        block = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
        command = [chromium(), *FLAGS, block, f"--user-data-dir={self.profile}", "about:blank"]
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdout=quiet, stderr=quiet)
        self.loop = asyncio.new_event_loop()
        self.number = 0
        self.socket = self.loop.run_until_complete(self._connect())
        return self

    def __exit__(self, *_):
        self.socket.close()
        self.process.terminate()
        self.process.wait()
        self.server.shutdown()
        self.loop.close()
        shutil.rmtree(self.profile, ignore_errors=True)

    async def _connect(self):
        from tornado.websocket import websocket_connect

        port = Path(self.profile, "DevToolsActivePort")
        for _ in range(300):
            if port.exists() and len(port.read_text(encoding="utf-8").split()) == 2:
                break
            time.sleep(0.1)
        number, path = port.read_text(encoding="utf-8").split()
        return await websocket_connect(f"ws://127.0.0.1:{number}{path}", max_message_size=1 << 28)

    def visit(self, page: str, size: str = "desktop", dark: bool = False, script="") -> Visit:
        """Open `page` (a path in the folder) and report; the screenshot shows the whole page.

        script: JavaScript that is run on the page at the end; its value is the visit's `result`.
        """
        return self.loop.run_until_complete(self._visit(page, size, dark, script))

    def press(self, page: str, keys: list[str], state: str) -> list:
        """Open `page`, press `keys` one after the other; the value of `state` after each.

        keys: names out of KEYS. state: JavaScript; a promise is waited for.
        """
        with self.tab(page) as tab:
            return [tab.key(key).run(state) for key in keys]

    @contextlib.contextmanager
    def tab(self, page: str, size: str = "desktop", dark: bool = False, slower: int = 1):
        """`page` in a tab that stays open, for a reader's hands: a Tab.

        slower: the processor is slowed down by this factor.
        """
        wait = self.loop.run_until_complete
        prepare = [*_looks(size, dark), ("Emulation.setCPUThrottlingRate", {"rate": slower})]
        target, call, events = wait(self._open(page, prepare))
        yield Tab(lambda method, **more: wait(call(method, **more)),
                  lambda script: wait(self._run(call, script)), events)  # fmt: skip
        wait(self._call("Target.closeTarget", targetId=target))

    async def _open(self, page, prepare=()):
        """A fresh tab that has loaded `page`: (its target, a caller of its methods, its events).

        prepare: (method, parameters) that are called before the page is asked for.
        """
        events: list[dict] = []
        target = (await self._call("Target.createTarget", url="about:blank"))["targetId"]
        session = (await self._call("Target.attachToTarget", targetId=target, flatten=True))[
            "sessionId"
        ]
        call = functools.partial(self._call, session=session, events=events)
        for domain in ("Page", "Runtime", "Network", "Log"):
            await call(f"{domain}.enable")
        for method, parameters in prepare:
            await call(method, **parameters)
        await call("Page.navigate", url=self.home + page)
        while not any(event.get("method") == "Page.loadEventFired" for event in events):
            await self._receive(events)
        return target, call, events

    @staticmethod
    async def _run(call, expression):
        """The value of a JavaScript expression on the page."""
        result = await call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in result:
            raise RuntimeError(json.dumps(result["exceptionDetails"])[:500])
        return result["result"].get("value")

    async def _visit(self, page, size, dark, script) -> Visit:
        target, call, events = await self._open(page, _looks(size, dark))
        width, _ = SIZES[size]
        facts = await self._run(call, READY)
        clip = {"x": 0, "y": 0, "width": width, "height": min(facts["height"], 12000), "scale": 1}
        shot = await call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        answer = await self._run(call, script) if script else None
        await self._call("Target.closeTarget", targetId=target)
        console, failed = _complaints(events)
        return Visit(facts, console, failed, base64.b64decode(shot["data"]), answer)

    async def _call(self, method, session=None, events=None, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        await self.socket.write_message(json.dumps(message))
        while True:
            answer = await self._receive(events)
            if answer.get("id") == message["id"]:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    async def _receive(self, events):
        raw = await asyncio.wait_for(self.socket.read_message(), 180)
        if raw is None:
            raise RuntimeError("Chromium went away")
        answer = json.loads(raw)
        if events is not None and "method" in answer:
            events.append(answer)
        return answer


@dataclass
class Tab:
    """An open page under a reader's hands. What it does not return can be chained."""

    call: Callable
    run: Callable  # the value of a JavaScript expression; a promise is waited for
    events: list

    def click(self, selector: str, where: str = "") -> Tab:
        """Press the mouse on the first thing that `selector` finds (of which the text is `where`).

        A thing that is not there, or that another one covers, is an error.
        """
        x, y = self.run(POINT % (json.dumps(selector), json.dumps(where)))
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        return self

    def key(self, name: str) -> Tab:
        """Press a key out of KEYS."""
        text = {"text": "\r"} if name == "Enter" else {}
        how = {"key": name, "code": name, "windowsVirtualKeyCode": KEYS[name]}
        kind = "keyDown" if text else "rawKeyDown"
        self.call("Input.dispatchKeyEvent", type=kind, **how, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **how)
        return self

    def write(self, selector: str, text: str) -> Tab:
        """Click into a field and type `text` in place of what stands there."""
        self.click(selector).run("document.activeElement.select()")
        self.call("Input.insertText", text=text)
        return self

    def reload(self) -> Tab:
        """Load the page again."""
        self.run("window.old = true")
        self.call("Page.reload")
        while True:
            with contextlib.suppress(RuntimeError):  # between the two pages there is none
                if self.run("!window.old && document.readyState === 'complete'"):
                    return self
            time.sleep(0.05)

    def problems(self) -> list[str]:
        """Errors on the console and requests that failed, so far."""
        return [text for found in _complaints(self.events) for text in found]


POINT = """(async () => {
  const [selector, text] = [%s, %s];
  const found = [...document.querySelectorAll(selector)]
    .find(e => e.getClientRects().length && (!text || e.textContent.trim() === text));
  if (!found) throw new Error(`nothing to click: ${selector} ${text}`);
  found.scrollIntoView({block: 'nearest', inline: 'nearest', behavior: 'instant'});
  await new Promise(requestAnimationFrame);
  const box = found.getBoundingClientRect();
  const point = [box.x + box.width / 2, box.y + box.height / 2];
  const top = document.elementFromPoint(...point);
  if (!found.contains(top) && !top?.contains(found))
    throw new Error(`covered by ${top?.outerHTML.slice(0, 80)}: ${selector} ${text}`);
  return point;
})()"""


def _looks(size: str, dark: bool) -> list:
    """What makes the window as large, and as dark, as is asked."""
    width, height = SIZES[size]
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1}
    metrics |= {"screenWidth": width, "screenHeight": height, "mobile": size != "desktop"}
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    return [
        ("Emulation.setDeviceMetricsOverride", metrics),
        ("Emulation.setEmulatedMedia", {"features": [scheme]}),
    ]


def _complaints(events) -> tuple[list[str], list[str]]:
    """Errors on the console, and requests that failed."""
    console, failed, urls = [], [], {}
    for event in events:
        name, data = event["method"], event["params"]
        if name == "Network.requestWillBeSent":
            urls[data["requestId"]] = data["request"]["url"]
        elif name == "Network.responseReceived" and data["response"]["status"] >= 400:
            failed.append(data["response"]["url"])
        elif name == "Network.loadingFailed" and not data.get("canceled"):
            failed.append(urls.get(data["requestId"], "?"))
        elif name == "Runtime.exceptionThrown":
            details = data["exceptionDetails"]
            text = details.get("exception", {}).get("description") or details["text"]
            console.append(text.splitlines()[0])
        elif name == "Runtime.consoleAPICalled" and data["type"] == "error":
            console.append(" ".join(str(arg.get("value", "")) for arg in data["args"]))
        elif name == "Log.entryAdded" and data["entry"]["level"] == "error":
            if data["entry"]["source"] != "network":
                console.append(data["entry"]["text"])
    return console, [url for url in failed if not url.endswith("/favicon.ico")]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def all_pages(folder: Path = HTML) -> list[str]:
    """The pages of the built book, with its search and its index."""
    found = [*(folder / "book").rglob("*.html"), folder / "search.html", folder / "genindex.html"]
    return sorted(path.relative_to(folder).as_posix() for path in found)


def not_built(root: Path = ROOT) -> str:
    """Why the built pages cannot be looked at; empty if they are there and up to date."""
    home = root / "_build" / "html" / "index.html"
    if not home.exists():
        return "the book is not built (make html)"
    sources = [root / "_config.yml", root / "_toc.yml", *(root / "book").rglob("*.*")]
    if max(path.stat().st_mtime for path in sources if path.is_file()) > home.stat().st_mtime:
        return "the built book is older than its sources (make html)"
    return ""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", nargs="*", help="for example book/index.html; all by default")
    parser.add_argument("--out", type=Path, help="where screenshots go; _build/screenshots")
    parser.add_argument("--html", type=Path, default=HTML, help="the built book; _build/html")
    parser.add_argument("--dark", action="store_true", help="dark mode")
    options = parser.parse_args(argv)
    if chromium() is None:
        raise SystemExit("no Chromium here; on Debian: apt install chromium")
    out = options.out or ROOT / "_build" / "screenshots"
    out.mkdir(parents=True, exist_ok=True)
    bad = 0
    with Browser(options.html) as browser:
        for page in options.pages or all_pages(options.html):
            for size in SIZES:
                visit = browser.visit(page, size, options.dark)
                tone = "-dark" if options.dark else ""
                name = f"{page.replace('/', '-').removesuffix('.html')}-{size}{tone}.png"
                (out / name).write_bytes(visit.screenshot)
                seen = f"{visit.facts['maths']} formulas, {visit.facts['widgets']} widgets"
                print(f"{page} {size}: {seen}, {visit.facts['height']} px -> {out / name}")
                for problem in visit.problems():
                    bad += 1
                    print(f"  {problem}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
