"""The image has every package that the distribution lists, and starts a program that there is."""

import re
import tomllib
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_what_is_copied_is_what_is_packaged():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    files = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    lines = re.findall(r"^COPY (.+) (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert {name for sources, _ in lines for name in sources.split()} == packages | files
    assert all(target == "./" or sources == target for sources, target in lines)
    assert all((ROOT / name).exists() for name in packages | files)


def test_what_is_started_is_there():
    entry = re.search(r'^ENTRYPOINT \["python", "-m", "([\w.]+)"', (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert find_spec(entry[1])
