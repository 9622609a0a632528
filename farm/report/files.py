"""The charts of a page as files for papers: SVG, PNG (300 dots per inch) and PDF, in the light theme's colours.

They are taken from the page itself, so every page of this package gives its charts the same way, whichever command
made it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from html import unescape
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from farm.errors import DataError
from farm.report import plots

Kind = Literal["svg", "png", "pdf"]
_PIECE = re.compile(
    r'<h2>(?P<h2>.*?)</h2>|<h3[^>]*>(?P<h3>.*?)</h3>|(?P<svg><svg [^>]*class="chart".*?</svg>)', re.DOTALL
)
_DRAWN = {"svg", "g", "defs", "clipPath", "rect", "path", "line", "text", "tspan", "circle", "title", "desc", "style"}
_DRAWN |= {"linearGradient", "stop"}
_XMLNS = 'xmlns="http://www.w3.org/2000/svg"'
_SCALE = 300 / 96  # pixels of a PNG per pixel of the page


def charts(page: str, source: str = "the page") -> dict[str, str]:
    """Name -> SVG of every chart in a page of this package, named after the headings above it, in order.

    Raises DataError when a chart is not what this package draws (it refers to something outside itself).
    """
    found: dict[str, str] = {}
    section = title = ""
    for piece in _PIECE.finditer(page):
        if piece["h2"] is not None:
            section, title = piece["h2"], ""
        elif piece["h3"] is not None:
            title = piece["h3"]
        else:
            base = "-".join(filter(None, (_slug(section), _slug(title)))) or "chart"
            name, number = base, 1
            while name in found:
                number += 1
                name = f"{base}-{number}"
            found[name] = _alone(piece["svg"], f"{source}, chart {name}")
    return found


def _slug(heading: str) -> str:
    text = unescape(re.sub(r"<[^>]*>", " ", heading))
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:48].rstrip("-")


def _alone(svg: str, where: str) -> str:
    """A chart of a page as a file of its own: the theme's variables back to colours, the name space declared."""
    for colour, variable in plots.THEME.items():
        svg = svg.replace(f"var(--{variable})", colour)
    svg = svg.replace("<svg ", f"<svg {_XMLNS} ", 1)
    try:
        root = ElementTree.fromstring(svg)  # noqa: S314  (no document type can precede the element)
    except ElementTree.ParseError as e:
        raise DataError(f"{where}: not well-formed ({e}); was the page changed by hand?") from None
    for element in root.iter():
        name = element.tag.rpartition("}")[2]
        outside = [a for a, v in element.attrib.items() if "href" in a or re.search(r"url\((?!#)", v)]
        if name not in _DRAWN or outside or "url(" in (element.text or "") + (element.tail or ""):
            raise DataError(f"{where}: holds {outside[0] if outside else name!r}, which no chart of farm does")
    return svg


def _on_white(svg: str) -> str:
    """Programs differ in what they put behind a half-transparent pixel."""
    end = svg.index(">") + 1
    return f'{svg[:end]}<rect width="100%" height="100%" fill="#ffffff"/>{svg[end:]}'


def save(drawn: Mapping[str, str], folder: Path, kind: Kind) -> list[Path]:
    """Write every chart as ``<name>.<kind>`` into ``folder``; returns the files. Raises DataError when it cannot."""
    import vl_convert

    files = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, svg in drawn.items():
            path = folder / f"{name}.{kind}"
            if kind == "svg":
                path.write_text(svg, encoding="utf-8")
            elif kind == "png":
                path.write_bytes(vl_convert.svg_to_png(_on_white(svg), scale=_SCALE))
            else:
                path.write_bytes(vl_convert.svg_to_pdf(svg))
            files.append(path)
    except OSError as e:
        raise DataError(f"{folder}: charts cannot be written ({e.strerror}); choose another folder") from None
    return files
