"""docs/choices.md names keys that exist, and the values that the profiles have."""
import re
from pathlib import Path
import pytest
import yaml
from dap.config import GUIDED, METHODS

ROOT = Path(__file__).parents[1]

ROWS = [[c.strip() for c in line.strip("|\n ").split(" | ")] for line in (ROOT / "docs/choices.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ") and not line.startswith(("| what", "| ---"))]
PROFILES = {name: yaml.safe_load((ROOT / f"conf/profile/{name}.yaml").read_text()) for name in ("default", "paper")}
RANGE = {"0 to 5": [0, 1, 2, 3, 4, 5], "0": [0]}
FREE = {"variants (kernel)", "variants (shift)", "variants (start, stop)", "variants (energy), method dap-mmd", "backbone (of the SD sets of the grid)", "real_order", "layer"}      # said in words


def values(row):
    "Return (key, profile, what the table says, what the profile has) for each key and profile of a row."
    keys = re.findall(r"`([\w-]+)`", row[1])
    for i, name in enumerate(PROFILES):
        said = row[2 + i].split(", ")
        assert len(said) == len(keys), f"{row[0]}: {len(keys)} keys, {len(said)} values"
        for key, word in zip(keys, said):
            value = PROFILES[name][key]
            yield key, name, RANGE.get(word, word) if isinstance(value, list) else word, value.get("dap") if isinstance(value, dict) else value


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r[1])
def test_keys_exist(row):
    "Every key in the second column is one of the profile, of a guided method, or a method."
    for key in re.findall(r"`([\w-]+)`", row[1]): assert key in PROFILES["default"] or key in GUIDED or key in METHODS, key


@pytest.mark.parametrize("row", [r for r in ROWS if "`" in r[1] and r[1].replace("`", "") not in FREE], ids=lambda r: r[1])
def test_values_are_those_of_the_profiles(row):
    "A value named for a key is the profile's; for a table by method, the value that `dap` has."
    for key, name, said, value in values(row):
        if not isinstance(value, list): said, value = yaml.safe_load(said), yaml.safe_load(str(value)) if value is not None else None
        assert said == value, f"docs/choices.md says {key} = {said}, {name}.yaml {value}"


@pytest.mark.parametrize("name", PROFILES)
def test_words_about_layer_and_order(name):
    row = {r[1]: r for r in ROWS}
    at = 2 + list(PROFILES).index(name)
    assert row["`layer`"][at].split()[0] == PROFILES[name]["layer"] and row["`real_order`"][at].split(":")[0] == PROFILES[name]["real_order"]["dap"]
