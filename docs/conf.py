"""Sphinx settings; docs/stage.py puts this file beside the pages it lays out. Nothing is loaded from a network."""
import re
from docutils.nodes import SkipNode
from latex2mathml.converter import convert

project = "dap"
author = "The DAP contributors"
copyright = "2026, The DAP contributors"
extensions = ["myst_nb"]
html_theme = "sphinx_book_theme"
html_title = "dap"
html_theme_options = {"show_navbar_depth": 2, "navbar_persistent": [], "use_download_button": False, "use_fullscreen_button": False}
html_static_path = ["_static"]
html_css_files = ["dap.css"]
html_copy_source = False
html_math_renderer = "mathml"
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}
nb_render_markdown_format = "myst"
myst_enable_extensions = ["dollarmath", "attrs_inline", "colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["docutils", "myst.header", "mystnb.unknown_mime_type"]


def mathml(tex, display):
    "Convert a formula to MathML; ValueError for a command the converter does not know."
    tex = tex.replace("{aligned}", "{align*}")                                  # the converter's word
    out = convert(tex, display=display).replace(">\\{<", ">{<").replace(">\\}<", ">}<")
    if re.search(r">[^<]*(\\|&(?!#?\w+;))", out): raise ValueError(f"this formula cannot be shown offline, write it more simply: {tex}")
    return out


def inline_math(self, node):
    "Write an inline formula."
    self.body.append(f'<span class="formula">{mathml(node.astext(), "inline")}</span>')
    raise SkipNode


def block_math(self, node):
    "Write a displayed formula, in a box that scrolls on a narrow screen."
    self.body.append(f'<div class="formula">{mathml(node.astext(), "block")}</div>\n')
    raise SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", inline_renderers=(inline_math, None), block_renderers=(block_math, None))
