"""What a build has to be: `python docs/tools/check.py out/site`.

Every link inside the site leads to a file and a place in it, nothing that a page needs is fetched from
elsewhere, and every public name is in the reference.
"""

import pathlib
import sys
from html.parser import HTMLParser
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from tools import public


class Page(NamedTuple):
    anchors: set[str]
    links: list[str]
    needs: list[str]
    """what the browser loads by itself"""


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.page = Page(set(), [], [])

    def handle_starttag(self, tag, attrs):
        given = {name: value or "" for name, value in attrs}
        self.page.anchors.update(given[x] for x in ("id", "name") if x in given)
        if tag == "a" and "href" in given:
            self.page.links.append(given["href"])
        if tag == "link" and given.get("rel") in ("stylesheet", "preload", "icon"):
            self.page.needs.append(given.get("href", ""))
        self.page.needs.extend([given["src"]] if "src" in given else [])


def read(path: pathlib.Path) -> Page:
    reader = _Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader.page


def dead_links(site: pathlib.Path) -> list[str]:
    """Every link or resource of a page that leads nowhere."""
    pages = {path.resolve(): read(path) for path in site.rglob("*.html")}
    found = []
    for path, page in pages.items():
        for link in page.links + page.needs:
            to = urlsplit(link)
            if to.scheme or to.netloc:
                continue
            target = (path.parent / unquote(to.path)).resolve() if to.path else path
            place = unquote(to.fragment)
            known = pages[target].anchors if target in pages else None
            if not target.exists() or (place and known is not None and place not in known):
                found.append(f"{path.relative_to(site.resolve())}: {link}")
    return found


def foreign(site: pathlib.Path) -> list[str]:
    """What a page would fetch from elsewhere."""
    needed = {(path, x) for path in site.rglob("*.html") for x in read(path).needs}
    return [f"{path}: {x}" for path, x in needed if urlsplit(x).netloc]


def missing(site: pathlib.Path) -> list[str]:
    """The public names that the reference does not have."""
    pages = [read(path).anchors for path in (site / "docs" / "reference").glob("*.html")]
    told = set().union(*pages)
    return [name for name in public.all_names() if name not in told]


def main(site: pathlib.Path) -> int:
    problems = [
        *(f"leads nowhere: {x}" for x in dead_links(site)),
        *(f"fetched from elsewhere: {x}" for x in foreign(site)),
        *(f"not in the reference: {x}" for x in missing(site)),
    ]
    print("\n".join(problems) or f"{len(list(site.rglob('*.html')))} pages, every link resolves")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
