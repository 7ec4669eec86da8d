"""docs/choices.md names keys that exist, and the values that the profiles have."""
import re
from pathlib import Path
import pytest
import yaml
from dap.config import GUIDED, METHODS

ROOT = Path(__file__).parents[1]

ROWS = [[c.strip() for c in line.strip("|\n ").split(" | ")] for line in (ROOT / "docs/choices.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ") and not line.startswith(("| what", "| ---"))]
PROFILES = {name: yaml.safe_load((ROOT / f"conf/profile/{name}.yaml").read_text()) for name in ("default", "paper")}
SINGLE = [(row[0], row[1].strip("`"), name, row[2 + i]) for row in ROWS for i, name in enumerate(PROFILES) if re.fullmatch(r"`\w+`", row[1]) and re.fullmatch(r"[\w.-]+( of 6)?", row[2 + i])]


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r[1])
def test_keys_exist(row):
    "Every key in the second column is one of the profile, of a guided method, or a method."
    for key in re.findall(r"`([\w-]+)`", row[1]): assert key in PROFILES["default"] or key in GUIDED or key in METHODS, key


@pytest.mark.parametrize("what,key,name,said", SINGLE, ids=lambda v: str(v)[:20])
def test_values_are_those_of_the_profile(what, key, name, said):
    "A value named for a key is the profile's; for a table, the value that `dap` has."
    value = PROFILES[name][key]
    value = value.get("dap") if isinstance(value, dict) else value
    assert str(value) in (said.removesuffix(" of 6"), f"{said}.0"), f"docs/choices.md says {said}, {name}.yaml {value}"


def test_enough_is_checked(): assert len(SINGLE) >= 14
