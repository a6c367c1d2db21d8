"""LaTeX as MathML, which browsers draw by themselves: no script, nothing from elsewhere."""

import re

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml

DOTS = re.compile(r"\\dots\b")  # the one command of the notebooks that docutils does not know


def mathml(node, as_block):
    return tex2mathml(DOTS.sub(r"\\ldots", node.astext()), as_block=as_block)


def inline(writer, node):
    writer.body.append(mathml(node, as_block=False))
    raise SkipNode


def display(writer, node):
    writer.body.append(f'<div class="math">{mathml(node, as_block=True)}</div>')
    raise SkipNode


def setup(app):
    app.add_html_math_renderer(
        "mathml", inline_renderers=(inline, None), block_renderers=(display, None)
    )
    return {"parallel_read_safe": True}
