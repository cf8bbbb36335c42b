"""What all records share: strictness, safe text, size limits, and the translation of validation errors."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Strict, ValidationError
from pydantic_core import PydanticCustomError

from memory_mcp.errors import InvalidInputError, InvalidTextError, TooLargeError, UnknownArgumentError

MAX_DESCRIPTION = 10_000
MAX_OBSERVATION = 10_000
MAX_STEPS = 1_000
MAX_TAGS = 32
MAX_JSON_BYTES = 64 * 1024
MAX_NAME = 200
MAX_ITEMS = 100

Json = dict[str, Any]


class Record(BaseModel):
    """Plain typed data. Unknown fields are an error, values do not change after construction."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def dumps(value: Any) -> str:
    """Compact JSON with sorted keys: equal values give equal text."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def check_text(value: str) -> str:
    """Refuse what no store and no peer handles alike: NUL and lone surrogates."""
    if "\x00" in value:
        raise PydanticCustomError("invalid_text", "contains a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise PydanticCustomError(
            "invalid_text", "contains a lone surrogate at character {at}", {"at": error.start}
        ) from None
    return value


def _safe_string(value: Any) -> Any:
    # before pydantic's own check, whose message for a lone surrogate names neither place nor remedy
    return check_text(value) if isinstance(value, str) else value


def at_most(limit: int) -> Callable[[str], str]:
    """A validator for text of at most `limit` characters."""

    def check(value: str) -> str:
        if len(value) > limit:
            raise PydanticCustomError(
                "too_large", "has {length} characters; the limit is {limit}", {"length": len(value), "limit": limit}
            )
        return value

    return check


def _check_tree(value: Any, depth: int = 0) -> None:
    if depth > 64:
        raise PydanticCustomError("too_large", "is nested more than 64 levels deep")
    if isinstance(value, str):
        check_text(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _check_tree(key, depth + 1)
            _check_tree(item, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_tree(item, depth + 1)


def _check_json(value: Json) -> Json:
    _check_tree(value)
    try:
        size = len(dumps(value).encode())
    except (TypeError, ValueError) as error:
        raise PydanticCustomError("not_json", "cannot be written as JSON: {why}", {"why": str(error)}) from None
    if size > MAX_JSON_BYTES:
        raise PydanticCustomError(
            "too_large", "has {size} bytes as JSON; the limit is {limit}", {"size": size, "limit": MAX_JSON_BYTES}
        )
    return value


def _not_blank(value: str) -> str:
    if not value.strip():
        raise PydanticCustomError("blank", "must not be empty")
    return value


def _items(limit: int) -> Callable[[list[str]], list[str]]:
    def check(value: list[str]) -> list[str]:
        if len(value) > limit:
            raise PydanticCustomError(
                "too_large", "has {length} items; the limit is {limit}", {"length": len(value), "limit": limit}
            )
        return value

    return check


def _unique(value: list[str]) -> list[str]:
    return list(dict.fromkeys(item.strip() for item in value))


SafeStr = Annotated[str, Strict(), BeforeValidator(_safe_string)]
Name = Annotated[SafeStr, AfterValidator(at_most(MAX_NAME))]
RequiredName = Annotated[Name, AfterValidator(_not_blank)]
LongText = Annotated[SafeStr, AfterValidator(at_most(MAX_DESCRIPTION))]
RequiredText = Annotated[LongText, AfterValidator(_not_blank)]
Observation = Annotated[SafeStr, AfterValidator(at_most(MAX_OBSERVATION))]
JsonObject = Annotated[Json, AfterValidator(_check_json)]
Tag = Annotated[SafeStr, AfterValidator(at_most(100)), AfterValidator(_not_blank)]
Tags = Annotated[list[Tag], AfterValidator(_items(MAX_TAGS)), AfterValidator(_unique)]
Items = Annotated[list[LongText], AfterValidator(_items(MAX_ITEMS))]

_R = TypeVar("_R", bound=BaseModel)


def parse(model: type[_R], data: Mapping[str, Any]) -> _R:
    """Validate `data`, raising errors of our own tree.

    Raises:
        UnknownArgumentError, TooLargeError, InvalidTextError, InvalidInputError: with the name of the field.
    """
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        raise_invalid(error, list(model.model_fields))


def raise_invalid(error: ValidationError, known: list[str]) -> NoReturn:
    """Translate a pydantic error into ours; the first problem decides the type, all are named."""
    problems = error.errors(include_url=False, include_context=False)
    first = problems[0]
    text = "; ".join(_sentence(problem) for problem in problems[:5])
    if len(problems) > 5:
        text += f"; and {len(problems) - 5} more"
    kind = first["type"]
    if kind in {"extra_forbidden", "unexpected_keyword_argument"}:
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Known arguments: {', '.join(known)}."
        raise UnknownArgumentError(text, hint=hint) from None
    if kind == "too_large":
        raise TooLargeError(text) from None
    if kind in {"invalid_text", "string_unicode"}:
        raise InvalidTextError(text) from None
    raise InvalidInputError(text) from None


def _sentence(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"]) or "arguments"
    if problem["type"] == "extra_forbidden":
        return f"{where}: there is no such argument"
    if problem["type"] == "missing":
        return f"{where}: is required"
    return f"{where}: {problem['msg'][0].lower()}{problem['msg'][1:]}"
