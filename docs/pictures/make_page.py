#!/usr/bin/env python3
"""Draws the pictures of docs/page.md anew: drives the page of `signalbox serve builtin` in Chromium.

  python3 docs/pictures/make_page.py [--signalbox build/signalbox] [--url URL]

Needs chromium on PATH, playwright and pillow.
"""
import argparse
import io
import json
import pathlib
import shutil
import subprocess

from PIL import Image
from playwright.sync_api import sync_playwright

here = pathlib.Path(__file__).resolve().parent / "page"


def picture(page, name, clip):
    """A part of the page, in few colours: a third of the bytes."""
    page.mouse.move(3, 3)
    page.wait_for_timeout(300)
    image = Image.open(io.BytesIO(page.screenshot(clip=clip, full_page=True))).convert("RGB")
    here.mkdir(exist_ok=True)
    image.quantize(96, dither=Image.Dither.NONE).save(here / f"{name}.png", optimize=True)


def finished(page):
    page.locator("#page:not(.busy) .status", has_text="tokens in").wait_for()
    page.wait_for_timeout(500)


def draw(page, url):
    page.goto(url)
    page.locator(".status", has_text="Ready.").wait_for()
    page.get_by_label("Prompt", exact=True).fill("The capital of Rulfar is")
    page.get_by_label("Max tokens").fill("6")
    page.get_by_role("button", name="Run", exact=True).click()
    finished(page)
    page.locator(".token[data-t='6']").click()
    page.locator(".expert").nth(5).wait_for()
    page.get_by_role("button", name="Worst", exact=True).click()
    picture(page, "cell", {"x": 0, "y": 0, "width": 1280, "height": 840})
    page.get_by_role("button", name="Run fork").click()
    finished(page)
    page.get_by_label("Colour of cells").select_option("changed")
    page.locator(".expert").nth(5).wait_for()
    picture(page, "fork", {"x": 0, "y": 0, "width": 1280, "height": 640})
    page.locator(".fork").first.click()
    page.get_by_role("tab", name="Experts").click()
    page.locator(".part-board .cell-focus").focus()
    for key in ("ArrowRight",) * 7 + ("Enter",) + ("ArrowRight",) * 12 + ("Enter", "ArrowDown", "ArrowLeft", "Enter"):
        page.keyboard.press(key)
    page.wait_for_timeout(400)
    finished(page)
    picture(page, "board", page.locator(".part-board").bounding_box())
    page.get_by_role("button", name="Keep as a fork").click()
    page.get_by_role("tab", name="Patterns").click()
    page.get_by_role("button", name="Run five domains").click()
    page.locator(".part-patterns", has_text="5 texts").wait_for(timeout=90000)
    finished(page)
    picture(page, "patterns", page.locator(".part-patterns").bounding_box())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--signalbox", default=here.parent.parent.parent / "build/signalbox")
    parser.add_argument("--url", help="a server that runs already")
    arguments = parser.parse_args()
    server, url = None, arguments.url
    if not url:
        server = subprocess.Popen([arguments.signalbox, "serve", "builtin", "--port", "0", "--json", "--quiet"], stdout=subprocess.PIPE, text=True)
        url = json.loads(server.stdout.readline())["url"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        draw(browser.new_page(viewport={"width": 1280, "height": 1700}), url.rstrip("/") + "/")
        browser.close()
    if server:
        server.terminate()
        server.wait(15)


if __name__ == "__main__":
    main()
