"""A headless Chromium, driven by Selenium, and what tests ask of the page that it shows."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

DRIVER = shutil.which("chromedriver")
ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--window-size=1200,900",
)  # fmt: skip


@contextmanager
def open_chromium(profile: Path) -> Iterator[Any]:
    """Start a Chromium, yield its Selenium driver, and end it.

    Args:
        profile: A new folder for the files of the browser.
    """
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@contextmanager
def emulated(
    driver: Any,
    *,
    width: int = 1200,
    height: int = 900,
    mobile: bool = False,
    scheme: Literal["light", "dark"] = "light",
) -> Iterator[None]:
    """Emulate a screen of *width* x *height* pixels and a colour scheme inside the block."""
    screen = {"width": width, "height": height, "deviceScaleFactor": 1 + mobile, "mobile": mobile}
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    try:
        yield
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def page_width(driver: Any) -> int:
    """Return the width of the page in pixels; it scrolls sideways if the screen is narrower."""
    return int(driver.execute_script("return document.documentElement.scrollWidth"))


def images_without_text(driver: Any) -> list[str]:
    """Return the HTML of the images that have no text alternative."""
    script = "return [...document.images].filter(i => !i.alt).map(i => i.outerHTML.slice(0, 200))"
    return list(driver.execute_script(script))


def rgb(driver: Any, selector: str, property_name: str) -> tuple[int, ...]:
    """Return a colour of the first element that a CSS selector matches, as 8-bit RGB."""
    script = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    value = driver.execute_script(script, selector, property_name)
    return tuple(int(float(channel)) for channel in value.strip("rgba()").split(",")[:3])


def contrast(first: tuple[int, ...], second: tuple[int, ...]) -> float:
    """Return the contrast ratio of two 8-bit RGB colours, as WCAG 2 defines it."""

    def luminance(colour: tuple[int, ...]) -> float:
        parts = [value / 255 for value in colour]
        parts = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    lighter, darker = sorted((luminance(first), luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)
