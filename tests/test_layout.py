"""The modules as text: what no behaviour shows until it is too late."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.py")), ids=lambda p: p.name)
def test_no_name_is_bound_twice(path):
    """verify.py has three sections; a constant of one once replaced that of another, and a bound was gone."""
    names = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [t.id for target in node.targets for t in ast.walk(target) if isinstance(t, ast.Name)]
    assert sorted(set(names)) == sorted(names)
