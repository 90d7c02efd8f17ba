"""Parameters of a tool as the JSON Schema that models are told, from a pydantic model. Pure.

Plain: references are written out where they stand, titles and defaults are left out, descriptions stay. Strict (what
`strict: true` of OpenAI's function tools wants): every property is required, those that were not may be null, and no
object takes more than it names.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from libs.contracts.tool import ToolDescription

Json = dict[str, Any]
M = TypeVar("M", bound=BaseModel)
MOST_DEPTH = 20
_LEFT_OUT = ("title", "default", "$defs", "examples")
_NULL: Json = {"type": "null"}
_STRICT_LEAVES_OUT = frozenset(("minLength", "maxLength", "uniqueItems", "contains", "propertyNames"))


class SchemaError(ValueError):
    """Parameters that no model can be told of."""


def parameters_schema(model: type[BaseModel]) -> Json:
    """The plain schema of a model's fields.

    Raises:
        SchemaError: it refers to itself, or is nested too deeply.
    """
    schema = model.model_json_schema()
    plain: Json = _written_out(schema, schema.get("$defs", {}), ())
    plain.setdefault("properties", {})
    plain.pop("description", None)  # the class's docstring: the tool has a description of its own
    return plain


def _written_out(node: Any, definitions: Json, inside: tuple[str, ...]) -> Any:
    if len(inside) > MOST_DEPTH:
        raise SchemaError(f"the parameters are nested more than {MOST_DEPTH} levels deep")
    if isinstance(node, list):
        return [_written_out(entry, definitions, inside) for entry in node]
    if not isinstance(node, dict):
        return node
    if isinstance(reference := node.get("$ref"), str):
        name = reference.rpartition("/")[2]
        if name in inside:
            raise SchemaError(f"the parameters refer to themselves ({name}), which a tool's schema cannot say")
        target = {**definitions.get(name, {}), **{key: value for key, value in node.items() if key != "$ref"}}
        return _written_out(target, definitions, (*inside, name))
    plain: Json = {}
    for key, value in node.items():
        if key == "properties":
            plain[key] = {name: _written_out(entry, definitions, inside) for name, entry in value.items()}
        elif key not in _LEFT_OUT:
            plain[key] = _written_out(value, definitions, inside)
    return _without_null(plain)


def _without_null(plain: Json) -> Json:
    """`X | None` is told as X: what is not known is left out."""
    choices = plain.get("anyOf")
    if not isinstance(choices, list) or _NULL not in choices:
        return plain
    rest = [choice for choice in choices if choice != _NULL]
    kept = {key: value for key, value in plain.items() if key != "anyOf"}
    return {**rest[0], **kept} if len(rest) == 1 else {**kept, "anyOf": rest}


def strict(schema: Json) -> Json:
    """The same parameters for a tool with `strict: true`."""
    result = {key: _strict_value(value) for key, value in schema.items() if key not in _STRICT_LEAVES_OUT}
    if schema.get("type") == "object" or "properties" in schema:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        result["properties"] = {
            name: strict(entry) if name in required else _or_null(strict(entry)) for name, entry in properties.items()
        }
        result["required"] = list(properties)
        result["additionalProperties"] = False
    return result


def _strict_value(value: Any) -> Any:
    if isinstance(value, dict):
        return strict(value)
    return [_strict_value(entry) for entry in value] if isinstance(value, list) else value


def _or_null(entry: Json) -> Json:
    kind = entry.get("type")
    if isinstance(kind, str) and "enum" not in entry:
        return {**entry, "type": [kind, "null"]}
    description = {"description": entry["description"]} if "description" in entry else {}
    bare = {key: value for key, value in entry.items() if key != "description"}
    return {**description, "anyOf": [*bare.get("anyOf", [bare]), _NULL]}


def openai_tool(tool: ToolDescription, *, is_strict: bool = False) -> Json:
    """The tool as the Realtime and Responses APIs take it (API reference, `tools`); chat wraps it in `function`."""
    parameters = strict(tool.parameters) if is_strict else tool.parameters
    told: Json = {"type": "function", "name": tool.name, "description": tool.description, "parameters": parameters}
    return {**told, "strict": True} if is_strict else told


def read_arguments(model: type[M], arguments: Json) -> M:
    """The arguments that a model wrote; a null for what may be left out means that it was.

    Raises:
        pydantic.ValidationError: they do not fit.
    """
    required = {name for name, field in model.model_fields.items() if field.is_required()}
    known = {field.alias or name: name for name, field in model.model_fields.items()}
    given = {key: value for key, value in arguments.items() if value is not None or known.get(key, "") in required}
    return model.model_validate(given)


def sentence(tool: str, error: ValidationError) -> str:
    """What is wrong with arguments, for the model to do better."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "arguments"
    if first["type"] == "missing":
        return f"{tool} needs {field}."
    return f"{tool}: {field} is not right: {first['msg'].removeprefix('Value error, ')}."
