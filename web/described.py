"""What the API's OpenAPI document says of its answers: their form, and the statuses that every request may get."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from web.guard import OPEN
from web.problems import ERRORS, PROBLEM

TEXT: dict[str, Any] = {"type": "string"}
NUMBER: dict[str, Any] = {"type": "number"}
COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
ANY: dict[str, Any] = {"type": "object"}
SHARE: dict[str, Any] = {"type": "number", "minimum": 0, "maximum": 1}


def _object(needed: dict[str, Any], more: dict[str, Any] | None = None) -> dict[str, Any]:
    """An object's schema: fields that are always there, and some that may be."""
    return {"type": "object", "required": list(needed), "properties": {**needed, **(more or {})}}


def _list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "type": [schema["type"], "null"]}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


SCHEMAS: dict[str, Any] = {
    "Problem": _object(
        {"error": TEXT, "type": TEXT, "title": TEXT, "status": {"type": ["integer", "string"]}, "detail": TEXT},
        {"file": TEXT, "file_status": TEXT},
    ),
    "Result": _object(
        {
            "file": TEXT,
            "status": {"type": "string", "enum": ["judged", "no face", "unreadable"]},
            "headline": TEXT,
            "seconds": NUMBER,
        },
        {
            "verdict": {"type": "string", "enum": ["REAL", "FAKE", "UNSURE"]},
            "probability": SHARE, "threshold": SHARE, "unsure_low": NUMBER, "logit": NUMBER,
            "false_alarm_rate": _or_null(SHARE), "validation_reals": _or_null(COUNT),
            "says": TEXT, "reason": TEXT, "note": TEXT, "error": TEXT,
            "face": ANY, "photo": ANY, "views": ANY, "video": ANY, "stability": ANY, "explain": ANY,
            "frames": _list(ANY), "evidence": _list(ANY),
        },
    ),
    "Answer": _object(
        {
            "detector": _object({"file": TEXT, "sha256": TEXT, "resolution": COUNT}, {"caution": TEXT}),
            "runtime": {"type": "string", "enum": ["onnx", "torch"]},
            "faces": ANY,
            "operating_point": ANY,
            "measured": ANY,
            "results": _list(_ref("Result")),
            "summary": _object(
                dict.fromkeys(("real", "fake", "unsure", "unreadable", "no_face", "files", "exit_code"), COUNT)
                | {"seconds": NUMBER, "interrupted": {"type": "boolean"}}
            ),
        }
    ),
    "Model": _object(
        {
            "detector": ANY, "runtime": TEXT, "face": TEXT, "faces": ANY, "operating_point": ANY, "in_words": TEXT,
            "measured": ANY, "preprocess": ANY, "calibration": ANY, "meta": ANY, "points": _list(ANY), "words": ANY,
            "maps": _list(TEXT), "known_failures": _list(TEXT), "limits": ANY, "allow_urls": {"type": "boolean"},
            "compare": {"type": "boolean"}, "generator": _or_null(ANY),
        }
    ),
    "Faces": _object(
        {"generator": ANY, "pictures": _list(_object({"name": TEXT, "caption": TEXT, "picture": TEXT}))}
    ),
    "Health": _object({"status": TEXT, "waiting": COUNT}, {"seconds": COUNT}),
}  # fmt: skip


def as_json(name: str, description: str) -> dict[str, Any]:
    """An answer as JSON of a form of `SCHEMAS`."""
    return {"description": description, "content": {"application/json": {"schema": _ref(name)}}}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The answers of some of `web.problems.ERRORS`."""
    kinds = {kind: {"schema": _ref("Problem")} for kind in ("application/json", PROBLEM)}
    return {status: {"description": ERRORS[status], "content": kinds} for status in statuses}


def describe(app: FastAPI, *, token: bool) -> dict[str, set[str]]:
    """Complete an application's OpenAPI document with what stands in front of all its routes. token: whether requests
    must bring one. Returns the names of the options in the query of each path."""
    told = app.openapi()
    told.setdefault("components", {}).setdefault("schemas", {}).update(SCHEMAS)
    if token:
        told["components"]["securitySchemes"] = {
            "token": {"type": "http", "scheme": "bearer"},
            "password": {"type": "http", "scheme": "basic", "description": "the token as the password of any name"},
        }
    options: dict[str, set[str]] = {}
    for path, operations in told["paths"].items():
        for operation in operations.values():
            closed = token and path not in OPEN
            operation["responses"] |= {str(k): v for k, v in refusals(*([401] if closed else []), 421, 431).items()}
            if closed:
                operation["security"] = [{"token": []}, {"password": []}]
            given = operation.get("parameters", ())
            options.setdefault(path, set()).update(one["name"] for one in given if one["in"] == "query")
    return options
