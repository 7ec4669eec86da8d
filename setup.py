"""Everything about the distribution is read from settings.ini; the embedded priors travel inside the package."""
from configparser import ConfigParser
from pathlib import Path
import shlex, shutil
from setuptools import setup
from setuptools.command.build_py import build_py

parser = ConfigParser(delimiters=["="])
parser.read("settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
LICENSES = {"apache2": "Apache-2.0"}     # nbdev's word -> SPDX
PRIORS = (Path("assets/mini-dit"), Path("assets/mini-sd"))


class BuildWithPriors(build_py):
    "Copy the priors in assets to dap/assets of what is built; an editable install reads them where they lie."
    def run(self):
        super().run()
        if self.editable_mode: return
        for prior in PRIORS:
            if not (prior / "model_index.json").is_file(): raise SystemExit(f"{prior}/model_index.json is missing: a wheel without its priors would be broken")
            shutil.copytree(prior, Path(self.build_lib) / cfg["lib_path"] / prior, dirs_exist_ok=True)


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    license=LICENSES[cfg["license"]],
    license_files=["LICENSE", "NOTICE"],
    keywords=cfg["keywords"],
    packages=[cfg["lib_path"]],
    package_data={cfg["lib_path"]: ["*.json"]},
    python_requires=">=" + cfg["min_python"],
    install_requires=shlex.split(cfg["requirements"]),
    extras_require={"dev": shlex.split(cfg["dev_requirements"]), "docs": shlex.split(cfg["docs_requirements"])},
    entry_points={"console_scripts": cfg["console_scripts"].split(), "nbdev": [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"]},
    cmdclass={"build_py": BuildWithPriors},
)
