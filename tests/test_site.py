"""The site and README, as far as no build is needed: `make docs` builds, and looks at every page."""

import fnmatch
import importlib.util
import inspect
import pathlib
import re
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
# What a reader of the repository may open; the Markdown of a notebook is held by its own run.
MARKDOWN = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *PAGES,
    *sorted(ROOT.glob("benchmarks/results/*.md")),
]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def load(path):
    """A module of docs/tools, which is no package of the library."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prose(path):
    """The text of a page, without its code."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(path):
    """GitHub's and MyST's names of a page's headings."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in heads}


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(path):
    for link in LINK.findall(prose(path)):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        file, _, place = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{path.name}: {link}"
        if place and target.suffix == ".md":
            assert place in anchors(target), f"{path.name}: {link}"


def test_readme_is_short_and_has_a_picture():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert len(pictures) == 1
    assert (ROOT / pictures[0]).stat().st_size < 150_000
    assert (ROOT / pictures[0]).with_suffix(".py").exists()  # what draws it


def toctree(path):
    """The documents that a page's toctrees name, patterns among them, as paths from the root."""
    for block in re.findall(
        r"^```\{toctree\}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE
    ):
        for line in block.splitlines():
            if line.strip() and not line.startswith(":"):
                at = pathlib.Path(path.parent, line.strip()).resolve(strict=False)
                yield str(at.relative_to(ROOT))


def test_every_page_is_in_a_toctree():
    named = [pattern for page in PAGES for pattern in toctree(page)]
    sources = [*PAGES, *ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("benchmarks/results/*.md")]
    documents = {str(p.relative_to(ROOT).with_suffix("")) for p in sources} - {"docs/index"}
    lost = {d for d in documents if not any(fnmatch.fnmatchcase(d, p) for p in named)}
    assert not lost, "in no toctree: add a line to the page that lists its kind"
    assert len(documents) > 40


def test_every_public_name_is_in_the_reference():
    """By its own name, or by its module with `:members:`; `make docs` looks whether it came out."""
    public = load(DOCS / "tools" / "public.py")
    text = "\n".join(path.read_text() for path in (DOCS / "reference").glob("*.md"))
    told = set(re.findall(r"^\.\. auto(?:function|class):: (\S+)$", text, re.MULTILINE))
    told |= {f"ej.{name}" for name in re.findall(r"^\.\. autoclass:: (\w+)$", text, re.MULTILINE)}
    whole = set(re.findall(r"^\.\. automodule:: (\S+)\n   :members:$", text, re.MULTILINE))
    names = public.all_names()
    lost = [n for n in names if n not in told and n.rpartition(".")[0] not in whole]
    assert not lost, "not in docs/reference/"
    assert len(names) > 120
    assert {name for name, module in public.modules().items() if name != "ej"} <= whole


def test_every_command_is_in_the_reference():
    from eprop_jax.cli.main import COMMANDS

    text = (DOCS / "reference" / "command_line.md").read_text()
    assert set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE)) == set(COMMANDS)


def test_every_benchmark_is_told_of():
    text = (DOCS / "BENCHMARKS.md").read_text()
    results = {path.name for path in ROOT.glob("benchmarks/results/*.md")}
    assert results == set(re.findall(r"benchmarks/results/(\w+\.md)", text))


def test_a_page_fetches_nothing_and_runs_no_notebook():
    conf = (DOCS / "conf.py").read_text()
    assert 'nb_execution_mode = "off"' in conf
    assert "://" not in conf
    assert len(conf.splitlines()) < 80


# -- docs/tools ------------------------------------------------------------------------------------

DOCSTRING = """What it is: [T, *batch, n], c_ and *not* that.

    ε^t = α ε^{t-1} + 1        Eq. 8

v^t = α v^{t-1}
z^t = |v^t|; as `i*` says

Args:
  net: a network: [*batch].

Returns:
  A pair: both.

>>> print("a_ * b_")
a_ * b_
"""
AS_RST = r"""What it is: [T, \*batch, n], c\_ and *not* that.

.. code-block:: text

      ε^t = α ε^{t-1} + 1        Eq. 8

| v^t = α v^{t-1}
| z^t = \|v^t\|; as \ `i*`\  says

Args:
  net: a network: [\*batch].

:returns:
  A pair: both.

>>> print("a_ * b_")
a_ * b_
"""


def test_a_docstring_says_on_the_site_what_it_says_in_the_file():
    docstrings = load(DOCS / "tools" / "docstrings.py")
    lines = inspect.cleandoc(DOCSTRING).splitlines()
    squeezed = re.sub(r"\n{2,}", "\n\n", "\n".join(docstrings.as_rst(lines)))
    assert squeezed == AS_RST


def test_dead_links_are_found(tmp_path):
    sys.path.insert(0, str(DOCS))
    try:
        check = load(DOCS / "tools" / "check.py")
    finally:
        sys.path.remove(str(DOCS))
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.html").write_text(
        '<h1 id="top">a</h1><a href="sub/b.html#there">1</a><a href="#top">2</a>'
        '<a href="sub/b.html#not">3</a><a href="c.html">4</a><a href="https://x.example">5</a>'
        '<img src="no.png"><script src="https://x.example/s.js"></script>'
    )
    (tmp_path / "sub" / "b.html").write_text('<p id="there"><a href="../a.html">6</a>')
    dead = [line.split(": ")[1] for line in check.dead_links(tmp_path)]
    assert dead == ["sub/b.html#not", "c.html", "no.png"]
    assert len(check.foreign(tmp_path)) == 1


# -- the package -----------------------------------------------------------------------------------


def test_links_of_the_description_are_absolute_where_the_address_is_known():
    pytest.importorskip("hatchling", reason="hatchling builds the package (the extra `test`)")
    hook = load(ROOT / "hatch_build.py")
    text = (ROOT / "README.md").read_text()
    assert hook.absolute(text, None) == text
    there = hook.absolute(text, "https://code.example/e/")
    assert "](https://code.example/e/blob/main/docs/LIMITS.md)" in there
    assert "](https://code.example/e/raw/main/docs/pictures/three_rules.png)" in there
    assert all(link.startswith("https://") for link in LINK.findall(there))
    assert hook.absolute("[a](https://b.example) [c](#d)", "https://e.example") == (
        "[a](https://b.example) [c](#d)"
    )


def test_the_citation_is_of_this_version():
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {about['version']}\n" in text
    assert f"\nlicense: {about['license']}\n" in text
    assert "A Taxonomy of Recurrent Learning Rules" in text
