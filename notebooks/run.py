"""Execute the notebooks: the Markdown beside each is the source, the .ipynb is what it printed.

    python notebooks/run.py                # all of them, start_here first
    python notebooks/run.py start_here     # those named
"""

import pathlib
import sys

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = pathlib.Path(__file__).parent
FIRST = "start_here"


def chosen(names: list[str]) -> list[pathlib.Path]:
    """The sources of these notebooks, or of all, the first one first."""
    there = sorted(HERE.glob("*.md"), key=lambda path: (path.stem != FIRST, path.stem))
    unknown = set(names) - {path.stem for path in there}
    if unknown:
        sys.exit(f"no such notebook: {', '.join(sorted(unknown))}; "
                 f"there are {', '.join(path.stem for path in there)}")  # fmt: skip
    return [path for path in there if not names or path.stem in names]


def main() -> None:
    for source in chosen(sys.argv[1:]):
        notebook = jupytext.read(source)
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": HERE}}).execute()
        for index, cell in enumerate(notebook.cells):
            cell["id"] = f"cell-{index}"  # stable, so that a rerun changes only what it prints
            cell.metadata.pop("execution", None)
        nbformat.write(notebook, source.with_suffix(".ipynb"))
        print(f"{source.stem}: {len(notebook.cells)} cells", file=sys.stderr)


if __name__ == "__main__":
    main()
