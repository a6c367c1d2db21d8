"""Execute every notebook: the Markdown beside it is the source, the .ipynb is what it printed."""

import pathlib
import sys

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = pathlib.Path(__file__).parent


def main() -> None:
    for source in sorted(HERE.glob("*.md")):
        notebook = jupytext.read(source)
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": HERE}}).execute()
        for index, cell in enumerate(notebook.cells):
            cell["id"] = f"cell-{index}"  # stable, so that a rerun changes only what it prints
            cell.metadata.pop("execution", None)
        nbformat.write(notebook, source.with_suffix(".ipynb"))
        print(f"{source.stem}: {len(notebook.cells)} cells", file=sys.stderr)


if __name__ == "__main__":
    main()
