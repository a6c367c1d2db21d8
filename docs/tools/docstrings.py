"""Docstrings are plain text, to be read in the file. Here they become what Sphinx reads.

What is indented is a formula or a table, and is kept as it stands; a paragraph that begins with an
equation keeps its lines; and a `*`, `|` or trailing `_` is that character. Args and Raises are
napoleon's.
"""

import itertools
import re

SECTION = re.compile(r"(Args|Returns|Raises|Example|Attributes):$")
EQUATION = re.compile(r"^[^\s`]+( [^\s`]+)? (=|≈|←|∈) ")
KEPT = r"`[^`]*`"
EMPHASIS = r"(?<!\S)\*\w[^*`]*?\w\*(?!\w)"  # and not the * of [T, *batch, n]
SPECIAL = re.compile(rf"({KEPT})|({EMPHASIS})|([*|\\])|(_)(?=\W|$)")


def escaped(lines: list[str]) -> list[str]:
    """Outside of backquotes no character means anything but itself, and they may touch any other."""
    said = lambda m: f"\\ {m[1]}\\ " if m[1] else m[2] or "\\" + m[0]
    return SPECIAL.sub(said, "\n".join(lines)).split("\n")


def paragraphs(lines: list[str]) -> list[list[str]]:
    """Runs of lines that are not blank."""
    runs = itertools.groupby(lines, key=lambda line: bool(line.strip()))
    return [list(run) for filled, run in runs if filled]


def text(block: list[str]) -> list[str]:
    """A paragraph outside of any section."""
    if EQUATION.match(block[0]):
        return [f"| {line}" for line in escaped(block)]
    if block[0].startswith("- "):
        return escaped(block)
    out: list[str] = []
    for indented, run in itertools.groupby(block, key=lambda line: line.startswith(" ")):
        if indented:
            out += ["", ".. code-block:: text", "", *("  " + line for line in run), ""]
        else:
            out += escaped(list(run))
    return out


def as_rst(lines: list[str]) -> list[str]:
    """The lines of one docstring, dedented -> reStructuredText."""
    out, inside = [], False
    for block in paragraphs(lines):
        first = block[0]
        inside = bool(SECTION.match(first)) or (inside and first.startswith(" "))
        if first.lstrip().startswith(">>>"):
            out += block
        elif first == "Returns:":  # napoleon would take what stands before a colon for a type
            out += [":returns:", *escaped(block[1:])]
        elif inside:
            out += escaped(block)
        else:
            out += text(block)
        out.append("")
    return out


def process(app, what, name, obj, options, lines):
    """Sphinx's event: lines are changed in place."""
    if lines and lines[0].startswith("Alias for field number"):
        lines.clear()
    lines[:] = as_rst(lines)
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]  # a comment; or napoleon takes what stands before a colon for a type


def setup(app):
    app.connect("autodoc-process-docstring", process, priority=400)  # before napoleon's 500
    return {"parallel_read_safe": True}
