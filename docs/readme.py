"""README.md from nbs/index.ipynb, and the library notebooks' outputs. `python docs/readme.py [--execute [NOTEBOOK ...]]`"""
import os, re, sys
from pathlib import Path
import nbformat
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
DIRECTIVE = re.compile(r"^#\|\s*([\w-]+)\s*:?\s*(.*?)\s*$", re.M)
LINK = re.compile(r"(\]\(|src=\"|href=\")([^)\s\"#]+)")


def directives(cell):
    "Return nbdev's `#|` lines of a code cell as a dict."
    return dict(DIRECTIVE.findall(cell.source)) if cell.cell_type == "code" else {}


def is_hidden(cell):
    "Tell whether nbdev would leave a cell out of the documentation."
    d = directives(cell)
    return "hide" in d or "default_exp" in d or d.get("include", "").lower() == "false"


def relink(text, base, rename):
    "Replace every relative link in markdown: `rename` maps a path below the repository's root to the new target."
    def new(m):
        if re.match(r"[a-z+]+:|/", m[2]): return m[0]
        return m[1] + rename(Path(os.path.normpath(ROOT / base / m[2])).relative_to(ROOT))
    return LINK.sub(new, text)


def readme(path=ROOT / "nbs/index.ipynb"):
    "Return the text of README.md: prose, code and outputs of the index; links seen from the root."
    nb = nbformat.read(path, 4)
    nb.cells = [c for c in nb.cells if not is_hidden(c) and (c.source.strip() or c.get("outputs"))]
    for cell in nb.cells:
        if any("image/png" in o.get("data", {}) for o in cell.get("outputs", [])):
            raise ValueError("nbs/index.ipynb draws a picture: show a file of results/ by a markdown link instead")
        if directives(cell).get("echo", "").lower() == "false":
            cell.metadata["transient"] = {"remove_source": True}
        if cell.cell_type == "code": cell.source = "\n".join(l for l in cell.source.splitlines() if not l.startswith("#|"))
    text, _ = MarkdownExporter().from_notebook_node(nb)
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(l.rstrip() for l in text.splitlines())).strip()
    return relink(text, "nbs", lambda p: p.as_posix()) + "\n"


def execute(path):
    "Run a notebook in its own folder and keep its outputs, without what went to stderr: progress bars differ from run to run."
    nb = nbformat.read(path, 4)
    shown_only = [c for c in nb.cells if directives(c).get("eval", "").lower() == "false"]
    for cell in shown_only: cell.metadata["tags"] = ["skip-execution"]
    NotebookClient(nb, timeout=None, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
    for cell in shown_only: del cell.metadata["tags"]
    for cell in nb.cells:
        if cell.cell_type == "code": cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    nbformat.write(nb, path)


def main(argv):
    index = ROOT / "nbs/index.ipynb"
    if argv[:1] == ["--execute"]:
        found = [Path(a).resolve() for a in argv[1:]] or sorted((ROOT / "nbs").glob("[0-9][0-9]_*.ipynb")) + [index]
        for i, path in enumerate(found, 1):
            print(f"[{i}/{len(found)}] {path.name}", flush=True)
            execute(path)
    else: (ROOT / "README.md").write_text(readme(index), encoding="utf-8")


if __name__ == "__main__": main(sys.argv[1:])
