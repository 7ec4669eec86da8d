"""Lay out the pages of the site for Sphinx: library notebooks as nbdev processes them, executed experiments, results, log.
`python docs/stage.py DST`, from the repository's root."""
import ast, os, re, shutil, sys, tempfile
from pathlib import Path
import nbformat, pandas as pd, yaml
from execnb.nbio import read_nb, write_nb
from nbdev.config import get_config
from nbdev.processors import FilterDefaults, exec_show_docs
from dap.report import markdown
from readme import ROOT, directives, relink

HOST = get_config().doc_host + get_config().doc_baseurl
CSS = """div.formula { overflow-x: auto; overflow-y: hidden; margin: 1em 0; }
@media (max-width: 700px) { span.formula { display: inline-block; max-width: 100%; overflow-x: auto; overflow-y: hidden; vertical-align: middle; } }
.cell_output, .cell_output .output { overflow-x: auto; }
td { white-space: nowrap; }
td:last-child { white-space: normal; min-width: 6.5em; }
.bd-article img { max-width: 100%; height: auto; }
h1, h2, h3, p, li { overflow-wrap: break-word; }
"""


def leave_mixed(cell):
    "Keep nbdev from running, out of its context, a shown cell only because it imports something among other statements."
    if cell.cell_type != "code" or {"export", "exports", "exporti"} & set(cell.directives_): return
    kinds = {type(n) for n in ast.walk(ast.parse(cell.source))} if "import " in cell.source else set()
    if kinds & {ast.Import, ast.ImportFrom} and kinds & {ast.Expr, ast.Assign}: cell.directives_["eval:"] = ["false"]


class Processors(FilterDefaults):
    "nbdev's own processors of documentation: show_doc for what is exported, hidden cells out."
    def base_procs(self):
        procs = super().base_procs()
        procs.insert(procs.index(exec_show_docs), leave_mixed)
        return procs


def process(source, folder):
    "Write a library notebook as nbdev processes it for documentation, and return the file."
    nb = nbformat.read(source, 4)
    head, text = re.match(r"(# .*\n*(?:> .*\n?)?)((?s:.*))", nb.cells[0].source).groups()
    nb.cells[0].source = head.strip()                          # nbdev keeps only title and description of the first cell
    if text.strip(): nb.cells.insert(1, nbformat.v4.new_markdown_cell(text.strip()))
    nbformat.write(nb, Path(folder) / source.name)
    nb = read_nb(Path(folder) / source.name)
    os.environ["IN_TEST"] = "1"                                # nbdev's sign: export nothing
    try: Processors()(nb)
    finally: del os.environ["IN_TEST"]
    write_nb(nb, Path(folder) / source.name)
    return Path(folder) / source.name


class Stage:
    "Writes pages below one folder and copies what they link to; `pages` maps files of the repository to page names."
    def __init__(self, dst, pages): self.dst, self.pages = dst, pages

    def rename(self, depth):
        def target(path):
            if path in self.pages: return "../" * depth + self.pages[path]
            if (ROOT / path).is_file():
                (self.dst / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / path, self.dst / path)
            return "../" * depth + path.as_posix()
        return target

    def markdown(self, text, source, page):
        "Turn links to files into links to pages, and nbdev's links to a documentation host into links to our own pages."
        own = {p.stem[3:]: name for p, name in self.pages.items() if p.parent == Path("nbs")}
        text = re.sub(re.escape(HOST) + r"/(\w+)\.html(#[\w.]+)?", lambda m: f"/{own.get(m[1], 'index.ipynb')}", text)
        return relink(text, source.parent, self.rename(page.count("/")))

    def write(self, page, text):
        (self.dst / page).parent.mkdir(parents=True, exist_ok=True)
        (self.dst / page).write_text(text, encoding="utf-8")

    def notebook(self, file, source, page, extra=""):
        "Write the notebook `file` as `page`; its links are those of `source`."
        nb = nbformat.read(file, 4)
        nb.cells = [c for c in map(self.cell, nb.cells) if c is not None]
        if extra: nb.cells.append(nbformat.v4.new_markdown_cell(extra))
        for c in nb.cells:
            if c.cell_type == "markdown": c.source = self.markdown(c.source, source, page)
            for o in c.get("outputs", []):
                if "text/markdown" in o.get("data", {}): o.data["text/markdown"] = self.markdown("".join(o.data["text/markdown"]), source, page)
        (self.dst / page).parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nb, self.dst / page)

    def cell(self, c):
        "Translate what nbdev wrote for Quarto into what MyST-NB reads."
        if c.cell_type == "raw":
            head = next(yaml.safe_load_all(c.source.strip().removeprefix("---")), None) or {}
            return nbformat.v4.new_markdown_cell(f"# {head['title']}\n\n{head.get('description', '')}") if "title" in head else None
        if c.cell_type == "code":
            if directives(c).get("echo", "").lower() == "false": c.metadata["tags"] = [*c.metadata.get("tags", []), "remove-input"]
            c.source = "\n".join(l for l in c.source.splitlines() if not l.startswith("#|"))
            for o in c.outputs:
                if "text/markdown" in o.get("data", {}):       # show_doc: a source link, attributes and a rule
                    text = re.sub(r'\[source\]\([^)]*\)(\{[^}]*\})?\s*|\{target="_blank"[^}]*\}', "", "".join(o.data["text/markdown"]))
                    o.data["text/markdown"] = text.strip().removeprefix("---").lstrip()
        return c


def experiments():
    "Return the experiment notebooks in the order in which dvc.yaml runs them; others follow by name."
    chain = ROOT / "dvc.yaml"
    order = list(dict.fromkeys(re.findall(r"nbs/experiments/(\w+)\.ipynb", chain.read_text() if chain.exists() else "")))
    found = sorted((ROOT / "nbs/experiments").glob("*.ipynb"), key=lambda p: p.stem)
    return sorted(found, key=lambda p: order.index(p.stem) if p.stem in order else len(order))


def copies_of(stem):
    "Return the executed copies of an experiment, those of the default run first."
    return sorted((ROOT / "results").glob(f"*/notebooks/{stem}.ipynb"), key=lambda p: (p.parts[-3] != "default", p))


def results(folder):
    "Return the page of all tables and pictures of the default run, and of the full grid."
    report, grid = folder / "report.md", folder.parent / "full/table3.md"
    text = report.read_text(encoding="utf-8") if report.exists() else "# Results\n\nNone yet: run the chain.\n"
    if (judged := folder / "baselines.md").exists(): text += f"\n## The field's methods\n\n{judged.read_text(encoding='utf-8')}\n![The field's methods, the same seed](baselines.png)\n"
    if grid.exists(): text += f"\n## The full grid\n\n{grid.read_text(encoding='utf-8').split('### The paper')[0]}"
    if (picture := grid.with_name("claim_gallery.png")).exists(): text += f"\n![Every method of the claim, the same seeds](../full/{picture.name})\n"
    return text


def claims(table):
    "Return the front page's list of all claims with their verdicts, from claims.csv."
    if not table.exists(): return ""
    rows = pd.read_csv(table)
    said = ", ".join(f"{n} {verdict}" for verdict, n in rows.verdict.value_counts().items())
    expected = f"{len(rows) / 40:.1f}".removesuffix(".0")
    return (f"\n## What each claim came to\n\n{len(rows)} claims, each with a 95 % interval: {said}. If none of them had an effect, {expected} would be said to hold by chance, and as many not to: one false alarm in twenty. "
            f"`paper_value` is the paper's own number, of other data and weights; `our_value` is ours, `diff` ours against our baseline. How they were judged: [claims](nbs/experiments/claims.ipynb).\n\n"
            + markdown(rows.astype(object).where(rows.notna(), "–")) + "\n\n")


def toctree(caption, pages):
    return f"```{{toctree}}\n:hidden:\n:caption: {caption}\n" + "\n".join(re.sub(r"\.\w+(>?)$", r"\1", p) for p in pages) + "\n```\n\n" if pages else ""


def main(dst="docs/_src"):
    dst = (ROOT / dst).resolve()
    shutil.rmtree(dst, ignore_errors=True)
    library = {p.relative_to(ROOT): p.name for p in sorted((ROOT / "nbs").glob("[0-9][0-9]_*.ipynb"))}
    runs = {p.relative_to(ROOT): f"experiments/{p.name}" for p in experiments()}
    own = {p.relative_to(ROOT): f"examples/{p.name}" for p in sorted((ROOT / "nbs/examples").glob("*.ipynb"))}
    several = {p.relative_to(ROOT): f"experiments/{p.name}" for stem in ("sweep-*", "minimax-*", "surrogate-*", "teacher", "fig5-*") for p in copies_of(stem) if p.parts[-3] == "default"}
    texts = {Path(k): v for k, v in {"nbs/experiments/log.md": "experiments/log.md", "CHANGELOG.md": "changelog.md", "docs/choices.md": "choices.md", "docs/api.md": "api.md", "CONTRIBUTING.md": "contributing.md"}.items() if (ROOT / k).exists()}
    index, report = Path("nbs/index.ipynb"), Path("results/default/report.md")
    stage = Stage(dst, library | runs | own | texts | {index: "index.ipynb", report: "results.md", Path("results/full/table3.md"): "results.md", Path("results/default/baselines.md"): "results.md"})
    tree = toctree("Results", ["results.md", *(["experiments/log.md"] if Path("nbs/experiments/log.md") in texts else [])])
    tree += toctree("Bring your own", list(own.values())) + toctree("Experiments", list(runs.values())) + toctree("Sweeps and other runs", [f"{source.stem} <{page}>" for source, page in several.items()]) + toctree("Library", list(library.values()))
    tree += toctree("About", [page for file, page in (("docs/choices.md", "choices.md"), ("docs/api.md", "api.md"), ("CONTRIBUTING.md", "contributing.md"), ("CHANGELOG.md", "changelog.md")) if Path(file) in texts])
    with tempfile.TemporaryDirectory() as folder:
        for source, page in library.items(): stage.notebook(process(ROOT / source, folder), source, page)
        stage.notebook(process(ROOT / index, folder), index, "index.ipynb", stage.markdown(claims(ROOT / "results/default/claims.csv"), Path("README.md"), "index.ipynb") + tree)
    for source, page in (runs | own).items():
        copies = copies_of(source.stem)
        if not copies: print(f"{source}: no executed copy in results, shown without outputs")
        stage.notebook(copies[0] if copies else ROOT / source, source, page)
    for source, page in several.items(): stage.notebook(ROOT / source, Path("nbs/experiments") / source.name, page)
    for source, page in texts.items(): stage.write(page, stage.markdown((ROOT / source).read_text(encoding="utf-8"), source, page))
    stage.write("results.md", stage.markdown(results(ROOT / report.parent), report, "results.md"))
    stage.write("_static/dap.css", CSS)
    shutil.copy(ROOT / "docs/conf.py", dst)


if __name__ == "__main__": main(*sys.argv[1:])
