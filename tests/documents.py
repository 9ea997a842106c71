"""Read HTML pages that need no browser."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """The text of a page and the addresses that it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.asked, self.open = "", list[str](), list[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.asked += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
