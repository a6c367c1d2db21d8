"""The site: `make docs`. Its sources are the repository's own files, where they lie, so that a relative
link is right in the repository and on the site alike. A browser fetches nothing from elsewhere.
"""

import importlib
import pathlib
import sys
import tomllib

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

# Found by the line above, and so no import of this file's head.
importlib.import_module("tools.public").as_ej()

about = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
project, version = about["name"], about["version"]
html_title = f"{project} {version}"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "tools.docstrings",
    "tools.formulas",
]
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "notebooks/*.ipynb",  # with what they printed; the Markdown beside each is its source
    "benchmarks/results/*.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "eprop_jax/data/README.md",
]
exclude_patterns = [".*", "out", "dist", "**/.*"]

nb_execution_mode = "off"
myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]
smartquotes_action = "D"  # dashes; quotes stay as they are typed
default_role = "py:obj"  # `ej.eprop` in a docstring leads to its page
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
maximum_signature_line_length = 80
napoleon_use_ivar = True  # the fields of a NamedTuple are told once

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["wide.css"]
html_extra_path = ["extra"]  # the site's address leads to docs/index.html
html_copy_source = html_show_copyright = False
html_math_renderer = "mathml"
pygments_style, pygments_dark_style = "default", "github-dark"
if "Repository" in about.get("urls", {}):
    html_theme_options = {
        "source_repository": about["urls"]["Repository"],
        "source_branch": "main",
        "source_directory": "",
    }
