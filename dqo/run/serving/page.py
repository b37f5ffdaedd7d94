"""The service's own page, without a CDN: Swagger's and ReDoc's load theirs from the network."""

import json
from collections.abc import Mapping
from html import escape
from typing import Any

HEAD = """<!doctype html><html lang="en"><meta charset="utf-8"><title>dqo-serve</title>
<style>body{font:16px/1.5 sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem}
pre{background:#8881;padding:.8rem;overflow:auto}:root{color-scheme:light dark}</style>
<h1>dqo-serve</h1>"""


def page(api: Mapping[str, Any]) -> str:
    """HTML of an OpenAPI description: each request, and the schemas."""
    parts = [HEAD, f"<p>{escape(api['info']['description'])} <a href='openapi.json'>openapi.json</a></p>"]
    for path, operations in api["paths"].items():
        for method, operation in operations.items():
            parts.append(f"<h2>{method.upper()} {escape(path)}</h2><p>{escape(operation.get('description', ''))}</p>")
            parts += [f"<p>{kind}: {_links(of)}</p>" for kind, of in _schemas(operation) if of]
    for name, schema in api.get("components", {}).get("schemas", {}).items():
        text = escape(json.dumps(schema, indent=1, ensure_ascii=False))
        parts.append(f"<h3 id='{escape(name)}'>{escape(name)}</h3><pre>{text}</pre>")
    return "\n".join(parts)


def _schemas(operation: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is sent and what is answered, by the names of their schemas."""
    return [
        ("request", _name(operation.get("requestBody", {}))),
        ("reply", _name(operation.get("responses", {}).get("200", {}))),
    ]


def _name(body: Mapping[str, Any]) -> str:
    return body.get("content", {}).get("application/json", {}).get("schema", {}).get("$ref", "").rpartition("/")[2]


def _links(name: str) -> str:
    return f"<a href='#{escape(name)}'>{escape(name)}</a>"
