"""The HTML page: everything inside, nothing outside, nothing unescaped."""

import base64
import io
from html.parser import HTMLParser
from importlib import resources

import numpy as np
import pytest
from markupsafe import Markup
from PIL import Image

from mediclip.reports.figures import grey_picture
from mediclip.reports.page import (
    RESEARCH_USE,
    Card,
    CardGroup,
    Chart,
    Charts,
    Gallery,
    MapGuide,
    Measure,
    Origin,
    Row,
    Section,
    Table,
    Tile,
    Tiles,
    data_uri,
    write_page,
)

NASTY = '<img src="https://example.org/x.png" onerror="alert(1)">'
PICTURE = grey_picture(np.linspace(0, 1, 32 * 32).reshape(32, 32))


class Reader(HTMLParser):
    """Collects tags, attributes and text, and checks that tags are closed in order."""

    VOID = frozenset({"meta", "img", "link", "br"})

    def __init__(self):
        super().__init__()
        self.tags, self.open, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(path):
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    assert reader.open == []
    return reader


def every_kind(text):
    """Make one section of each kind with a text wherever a text goes."""
    svg = Markup('<svg class="chart" viewBox="0 0 1 1"></svg>')
    return [
        Tiles(tiles=[Tile(text, Measure(0.9, (0.8, 1.0)), text), Tile(text, 12), Tile(text, text)]),
        Table(
            text,
            text,
            columns=["", text],
            rows=[Row([text, Measure(0.5, spread=0.01)], is_emphasised=True), Row([text, text])],
            legend=text,
        ),
        Charts(text, text, charts=[Chart(text, svg, text)]),
        MapGuide(text, text, value_range=(0.25, 0.75), has_masks=True),
        Gallery(
            text,
            text,
            groups=[
                CardGroup(text, [Card(text, {text: PICTURE, "map": PICTURE}, "abnormal", 0.6, text)], text)
            ],
        ),
        Origin(text, text, command=text, facts={text: text}),
    ]


@pytest.fixture
def page(tmp_path):
    def make(sections, **texts):
        path = tmp_path / "report.html"
        write_page(path, **{"title": "A title", "lede": "A lede.", **texts}, sections=sections)
        return path

    return make


def test_text_stays_text_everywhere(page):
    path = page(every_kind(NASTY), title=NASTY, lede=NASTY)
    assert '<img src="https' not in path.read_text(encoding="utf-8")
    reader = read(path)
    assert {tag for tag, _ in reader.tags} & {"script", "iframe", "object", "link", "form"} == set()
    assert [a for _, attrs in reader.tags for a in attrs if a.startswith("on")] == []
    assert "".join(reader.text).count(NASTY) > 20


def test_a_browser_has_nothing_to_fetch(page):
    path = page(every_kind("text"))
    reader = read(path)
    addresses = [a[k] for _, a in reader.tags for k in ("src", "href", "srcset", "poster") if k in a]
    assert addresses
    assert all(a.startswith(("data:image/jpeg;base64,", "#")) for a in addresses)
    html = path.read_text(encoding="utf-8")
    assert "url(" not in html
    assert "@import" not in html
    policy = next(a["content"] for t, a in reader.tags if t == "meta" and "http-equiv" in a)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_the_links_at_the_top_lead_to_their_sections(page):
    reader = read(page([Tiles(), Table("One"), Tiles(), Origin("Two")]))
    ids = {a["id"] for t, a in reader.tags if t == "section"}
    links = [a["href"] for t, a in reader.tags if t == "a"]
    assert links == ["#part-2", "#part-4"]
    assert {link[1:] for link in links} <= ids


def test_the_page_says_what_it_is_not_for(page):
    assert "".join(read(page([])).text).count(RESEARCH_USE) == 2


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        (Measure(0.12345), "0.123"),
        (Measure(0.5, spread=0.0123), "0.500 ± 0.012"),
        (Measure(0.5, (0.4, 0.61)), "0.5000.400 – 0.610"),
        (Measure(0.5, is_flagged=True), "▼ 0.500"),
        (Measure(None), "–"),
        (None, "–"),
        (0, "0"),
        (120, "120"),
        ("words", "words"),
    ],
)
def test_cells_are_shown_the_same_way_everywhere(page, cell, shown):
    reader = read(page([Table("T", columns=["", "value"], rows=[Row(["name", cell])])]))
    text = "".join(reader.text)
    assert f"name{shown}" in text.replace("\n", "")


def test_the_guide_says_what_the_colours_mean(page):
    shared = "".join(read(page([MapGuide(value_range=(0.25, 0.75), has_masks=True)])).text)
    assert "0.250 and below" in shared
    assert "0.750 and above" in shared
    assert "cyan" in shared
    own = "".join(read(page([MapGuide()])).text)
    assert "one scale for all its pictures" in own
    assert "cyan" not in own


def test_a_picture_comes_back_out_of_its_address():
    address = data_uri(PICTURE)
    head, _, body = address.partition(",")
    assert head == "data:image/jpeg;base64"
    again = Image.open(io.BytesIO(base64.b64decode(body)))
    assert (again.size, again.mode) == (PICTURE.size, "RGB")
    difference = np.abs(np.asarray(again).astype(int) - np.asarray(PICTURE))
    assert difference.mean() < 2


def test_an_earlier_page_survives_one_that_cannot_be_made(page, tmp_path):
    path = page([Tiles(tiles=[Tile("first", 1)])])
    before = path.read_bytes()

    class Unknown(Section):
        kind = "unknown"

    with pytest.raises(Exception, match="unknown"):
        page([Unknown()])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_the_same_content_gives_the_same_file(page):
    first = page(every_kind("text")).read_bytes()
    assert page(every_kind("text")).read_bytes() == first


def test_templates_are_part_of_the_package():
    folder = resources.files("mediclip.reports") / "templates"
    assert {f.name for f in folder.iterdir()} == {"page.html", "page.css", "sections.html"}
