"""README as the package's description.

Its links are relative, which is right in the repository. Where a package is shown without it,
they have to be absolute, and are, as soon as pyproject.toml has the address (`Repository`).
"""

import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)\s]+)\)")


def absolute(text: str, repository: str | None) -> str:
    """Every relative link of a Markdown page, as one into the repository's main branch."""
    if repository is None:
        return text
    of = {"!": "raw", "": "blob"}
    root = repository.rstrip("/")
    return LINK.sub(lambda m: f"{m[1]}[{m[2]}]({root}/{of[m[1]]}/main/{m[3]})", text)


class ReadmeHook(MetadataHookInterface):
    def update(self, metadata: dict) -> None:
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        text = absolute(text, metadata.get("urls", {}).get("Repository"))
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
