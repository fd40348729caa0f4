"""The documentation runs: every Python block, the card example, and the commands that the README names."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import REPOSITORY

from radiolucent.models import read_card

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_python_blocks_run_in_order(page: Path, tmp_path: Path) -> None:
    script = "\n".join(blocks(page, "python"))
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_card_example_is_a_card(tmp_path: Path) -> None:
    (text,) = blocks(REPOSITORY / "docs" / "models.md", "toml")
    (tmp_path / "card.toml").write_text(text)
    card = read_card(tmp_path)
    assert card.network == "monai:UNet"
    assert card.preprocessing.size == (48, 64, 48)
    assert card.arguments == tomllib.loads(text)["arguments"]


def test_the_readme_s_commands_are_targets_of_the_makefile() -> None:
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    part = readme.split("<!-- commands -->")[1].split("<!-- end of commands -->")[0]
    named = re.findall(r"^make (\w+)", part, re.M)
    targets = re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(), re.M)
    assert named == ["demo", "test"]
    assert set(named) <= set(targets)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing
