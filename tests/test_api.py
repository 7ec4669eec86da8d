"""docs/api.md promises names and arguments; this holds the package to them."""
import importlib, inspect, re
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[1]
PROMISED = re.findall(r"\| `(dap\.[\w.]+)(?:\(([^)]*)\))?` \|$", (ROOT / "docs/api.md").read_text(), re.M)


def find(name):
    module, *path = name.removeprefix("dap.").split(".")
    found = importlib.import_module(f"dap.{module}")
    for part in path: found = getattr(found, part)
    return found


def test_something_is_promised():
    assert len(PROMISED) > 30 and len({n for n, _ in PROMISED}) == len(PROMISED)


@pytest.mark.parametrize("name, arguments", PROMISED, ids=[n for n, _ in PROMISED])
def test_what_is_promised_is_there(name, arguments):
    found = find(name)
    taken = inspect.signature(found).parameters
    free = any(p.kind is p.VAR_KEYWORD for p in taken.values())
    absent = [a for a in arguments.split(", ") if a and a not in taken and not free]
    assert callable(found) and not absent, f"{name} takes {list(taken)}"


@pytest.mark.parametrize("name, arguments", [(n, a) for n, a in PROMISED if a], ids=[n for n, a in PROMISED if a])
def test_arguments_stand_in_the_order_of_the_page(name, arguments):
    taken = [p for p in inspect.signature(find(name)).parameters if p in arguments.split(", ")]
    assert taken == [a for a in arguments.split(", ") if a in taken]


def test_every_promised_name_has_a_docstring():
    assert not [n for n, _ in PROMISED if not (inspect.getdoc(find(n)) or "").strip()]
