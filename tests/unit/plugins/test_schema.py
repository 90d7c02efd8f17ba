"""Parameters as models are told of them."""

from __future__ import annotations

import jsonschema
import pytest
from openai.types.realtime import RealtimeFunctionTool
from openai.types.responses import FunctionTool
from pydantic import BaseModel

from libs.plugins import ExternalPlugin, PluginDefinitionError
from libs.plugins.loading import load
from libs.plugins.schema import openai_tool, parameters_schema, strict
from tests.unit.plugins.samples import Params, Stock


class Tree(BaseModel):
    children: list[Tree] = []


def test_references_are_written_out_and_descriptions_stay():
    schema = parameters_schema(Params)
    text = str(schema)
    assert "$ref" not in text
    assert "title" not in text
    assert schema["properties"]["article"]["description"] == "The article number"
    assert schema["properties"]["size"]["description"] == "Which one"
    assert schema["properties"]["size"]["properties"]["value"]["description"] == "in millimetres"
    assert schema["properties"]["tags"]["items"]["type"] == "object"
    assert schema["required"] == ["article"]


def test_strict_requires_everything_and_lets_the_optional_be_null():
    schema = strict(parameters_schema(Params))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["required"] == ["article", "size", "tags"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["size"]["type"] == ["object", "null"]
    assert schema["properties"]["size"]["required"] == ["value", "kind"]
    jsonschema.validate({"article": "1", "size": {"value": 2, "kind": None}, "tags": None}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"article": "1"}, schema)


def test_a_plug_in_is_a_tool_of_the_api():
    RealtimeFunctionTool.model_validate(openai_tool(Stock.describe()), strict=True)
    tool = FunctionTool.model_validate(Stock.openai_tool(), strict=True)
    assert tool.strict
    assert tool.name == "stock"


def test_what_cannot_be_a_tool_is_said_when_it_is_loaded():
    class Recursive(Stock):
        parameters = Tree

    class Nameless(Stock):
        name = "two words"

    class Silent(Stock):
        description = " "

    class Endless(Stock):
        timeout_s = 600

    for wrong, why in ((Recursive, "themselves"), (Nameless, "letters"), (Silent, "description"), (Endless, "60")):
        with pytest.raises(PluginDefinitionError, match=why):
            wrong.describe()


def test_a_plug_in_that_cannot_be_loaded_costs_no_other():
    here = "tests.unit.plugins.samples"
    loaded = load(
        [f"{here}:Stock", f"{here}:Params", f"{here}:Missing", "no.such:Module", "unheard_of", f"{here}:Stock"]
    )
    assert [plugin.name for plugin in loaded.plugins] == ["stock"]
    assert len(loaded.problems) == 4
    assert isinstance(loaded.plugins[0], ExternalPlugin)
