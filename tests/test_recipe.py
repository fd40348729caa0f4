"""Recipes: TOML in, the same TOML out, and words for what is wrong with one."""

import re
import tomllib
from pathlib import Path

import pytest
from conftest import REPOSITORY

from radiolucent.errors import BadInput
from radiolucent.methods import Gradient, SmoothGrad
from radiolucent.study.recipe import from_tables, read_recipe

SMALL = {
    "cohort": {"manifest": "cases.csv"},
    "model": {"model": "net:Net"},
    "explain": {"methods": [{"method": "gradient"}]},
}
WHOLE = """
[study]
name = "all"
seed = 3
[cohort]
nnunet = "raw"
split = "test"
[model]
model = "nnunet:folder/trained"
weights = "w.safetensors"
trust = true
window = [32, 32, 16]
overlap = 0.5
device = "cuda"
[explain]
targets = ["liver", "2"]
reduce = "mean"
methods = [{ method = "gradient" }, { method = "smooth-grad", samples = 3, of = { method = "grad-cam", layer = "full" } }]
[regions]
parcellation = "atlas/{case}.nii.gz"
names = "names.tsv"
joined = { both = ["left", "right"] }
near_mm = [2, 5.5]
[keep]
maps = true
reports = true
thumbnails = false
[analysis]
reference = "age < 40"
covariates = ["age", "site"]
pairs = [["left", "right"]]
alpha = 0.01
level = 0.9
folds = 10
anomalous = 0.2
"""


def test_a_whole_recipe_survives_toml(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(WHOLE)
    recipe = read_recipe(tmp_path / "recipe.toml")
    assert recipe.cohort.nnunet == tmp_path / "raw"
    assert (recipe.analysis.level, recipe.analysis.folds, recipe.analysis.anomalous) == (0.9, 10, 0.2)
    assert recipe.analysis.seed == recipe.study.seed == 3
    assert recipe.model.model == f"nnunet:{tmp_path}/folder/trained"
    assert recipe.model.weights == tmp_path / "w.safetensors"
    assert recipe.model.window == (32, 32, 16)
    assert recipe.regions.parcellation == f"{tmp_path}/atlas/{{case}}.nii.gz"
    assert recipe.regions.near_mm == (2.0, 5.5)
    assert recipe.analysis.pairs == (("left", "right"),)
    again = from_tables(tomllib.loads(recipe.to_toml()), Path("/elsewhere"))
    assert again == recipe
    assert repr(again) == repr(recipe)  # types too: 2 is not 2.0


def test_what_is_left_out_has_defaults() -> None:
    recipe = from_tables(SMALL, Path("/base"))
    assert recipe.explain.methods == (Gradient(),)
    assert (recipe.regions.parcellation, recipe.keep.thumbnails, recipe.keep.maps) == ("predicted", True, False)
    assert recipe.model.model == "net:Net"
    assert from_tables(tomllib.loads(recipe.to_toml()), Path("/")) == recipe


def test_a_method_keeps_its_empty_settings() -> None:
    methods = [{"method": "smooth-grad", "of": {"method": "grad-cam", "layer": ""}}]
    recipe = from_tables(SMALL | {"explain": {"methods": methods}}, Path("/"))
    assert isinstance(recipe.explain.methods[0], SmoothGrad)
    assert from_tables(tomllib.loads(recipe.to_toml()), Path("/")) == recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"regions": {"near": [5]}}, r"near_mm, streamed; got 'near'. Did you mean near_mm"),
        ({"region": {}}, r"tables of a recipe among: study, cohort.*Did you mean regions"),
        ({"keep": True}, r"a table \[keep\]"),
        ({"keep": {"maps": "yes"}}, r"bool for keep.maps; got 'yes'"),
        ({"study": {"seed": 1.5}}, "int for study.seed"),
        ({"analysis": {"seed": 1}}, r"keys of \[analysis\] among: reference, .*; got 'seed'"),
        ({"analysis": {"level": 95.0}}, "shares between 0 and 1, .*; got level=95.0"),
        ({"explain": {"methods": [{"method": "gradcam"}]}}, "grad-cam"),
        ({"explain": {"methods": [{"method": "gradient"}, {"method": "gradient"}]}}, "each once"),
        ({"explain": {"methods": []}}, "one or more methods"),
        ({"explain": {"targets": ["1"]}}, r"the key methods in \[explain\]"),
        ({"explain": {"methods": [{"method": "gradient"}], "reduce": "median"}}, "median"),
        ({"explain": {"methods": [{"method": "gradient"}], "targets": ["1", "1"]}}, "each target once"),
        ({"model": {}}, r"the key model in \[model\]"),
        ({"model": {"model": "net:Net", "window": [0]}}, "window"),
        ({"cohort": {}}, "exactly one of manifest, bids and nnunet.*none"),
        ({"cohort": {"manifest": "a", "bids": "b"}}, "manifest, bids"),
        ({"regions": {"near_mm": [-1]}}, "above 0 mm"),
        ({"analysis": {"pairs": [["left"]]}}, r"analysis.pairs; got \[\['left'\]\]"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said(change: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        from_tables(SMALL | change, Path("/"))


def test_a_file_that_is_no_toml(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("[study\n")
    for path in (tmp_path / "recipe.toml", tmp_path / "absent.toml"):
        with pytest.raises(BadInput, match="a recipe in TOML"):
            read_recipe(path)


def test_the_recipes_of_documentation_and_example_are_recipes(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```toml\n(.*?)^```", (REPOSITORY / "docs" / "studies.md").read_text("utf-8"), re.M | re.S)
    recipe = from_tables(tomllib.loads(text), tmp_path)
    assert recipe.analysis.covariates == ("age", "site")
    example = read_recipe(REPOSITORY / "examples" / "hippocampus" / "study.toml")
    assert (Path(example.model.model) / "card.json").exists()
    assert len(example.explain.methods) == 4
