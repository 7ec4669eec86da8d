"""Everything about the distribution is read from settings.ini; the embedded priors and the judge travel inside the package."""
from configparser import ConfigParser
from pathlib import Path
import shlex, shutil
from setuptools import setup
from setuptools.command.build_py import build_py

parser = ConfigParser(delimiters=["="])
parser.read("settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
LICENSES = {"apache2": "Apache-2.0"}     # nbdev's word -> SPDX
SHIPPED = {Path("assets/mini-dit"): "model_index.json", Path("assets/mini-sd"): "model_index.json", Path("assets/judge"): "manifest.json"}     # folder -> what it cannot lack


class BuildWithAssets(build_py):
    "Copy what ships from assets to dap/assets of what is built; an editable install reads them where they lie."
    def run(self):
        super().run()
        if self.editable_mode: return
        for folder, needed in SHIPPED.items():
            if not (folder / needed).is_file(): raise SystemExit(f"{folder}/{needed} is missing: a wheel without it would be broken")
            shutil.copytree(folder, Path(self.build_lib) / cfg["lib_path"] / folder, dirs_exist_ok=True)


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
    cmdclass={"build_py": BuildWithAssets},
)
