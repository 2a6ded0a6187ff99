"""The markup escapes what it is given, and the page needs nothing from elsewhere."""

from html.parser import HTMLParser

from distaug.report.page import Html, cards, details, join, note, page, picture, table, tag

BAD = '<script>alert("1")</script>&'
SAFE = "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;"


class Reader(HTMLParser):
    """Checks that every element is closed, in order; keeps the attributes of all."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((name, dict(attributes)))
        if name not in ("meta", "img", "br"):
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    def of(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.found if found == name]


def test_text_and_attributes_are_escaped_and_markup_is_not() -> None:
    assert tag("p", BAD) == f"<p>{SAFE}</p>"
    assert tag("p", tag("b", BAD), BAD) == f"<p><b>{SAFE}</b>{SAFE}</p>"
    assert tag("p", class_=BAD, aria_label="x") == f'<p class="{SAFE}" aria-label="x"></p>'
    assert join(BAD, Html("<br>")) == f"{SAFE}<br>"
    for part in (note(BAD), details(BAD, BAD), cards([(BAD, BAD, BAD)]), table([BAD], [[BAD]]), picture(b"", BAD)):
        assert "<script" not in part and SAFE in part


def test_numbers_have_one_decimal_at_most() -> None:
    assert tag("i", x=1.0, y=2.26) == '<i x="1" y="2.3"></i>'


def test_a_page_is_whole_and_alone() -> None:
    text = page(BAD, tag("h1", BAD), {"One part": note("x"), "Empty": Html(), BAD: note("y")})
    found = Reader(text)
    assert text.startswith("<!doctype html>") and "<script" not in text and "http" not in text.replace("http-equiv", "")
    policy = next(a["content"] for a in found.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'")
    sections = [a["id"] for a in found.of("section")]
    assert len(sections) == 2 and sections[0] == "one-part"
    assert [a["href"] for a in found.of("a")] == [f"#{name}" for name in sections]


def test_pictures_are_in_the_page() -> None:
    assert picture(b"\x89PNG\r\n", "x").startswith('<img src="data:image/png;base64,')
    assert picture(b"\xff\xd8\xff", "x").startswith('<img src="data:image/jpeg;base64,')
