"""Docstrings of fields, read from the source: pydantic could collect them too, but at the cost of every import."""

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping
from functools import cache

from pydantic import BaseModel


def field_docs(model: type[BaseModel]) -> Mapping[str, str]:
    """By field name; fields without a docstring are left out."""
    return _docs_of_module(model.__module__).get(model.__name__, {})


@cache
def _docs_of_module(module: str) -> Mapping[str, Mapping[str, str]]:
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: dict(_field_docs(node)) for node in tree.body if isinstance(node, ast.ClassDef)}


def _field_docs(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, document in zip(node.body, node.body[1:], strict=False):
        match field, document:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, " ".join(text.split())
