"""Configuration documents that the end-to-end tests apply."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

MODEL = "smollm2"


def one_engine(url: str) -> dict[str, Any]:
    """An engine that somebody else runs, one tenant, one person with a key."""
    return {
        "sources": [
            {
                "name": "workshop",
                "kind": "llamacpp",
                "url": url,
                "granted_to": ["acme"],
                "labels": {"region": "eu", "on_prem": True},
            }
        ],
        "tenants": [
            {
                "name": "acme",
                "teams": [{"name": "research"}],
                "principals": [{"name": "alice", "teams": ["research"]}],
                "keys": [{"name": "alice-laptop", "principal": "alice"}],
                "policies": [
                    {
                        "id": "research-models",
                        "template": "team-may-use-models",
                        "parameters": {"team": "research", "models": "*"},
                    }
                ],
            }
        ],
    }


def written(folder: Path, document: object, name: str = "conf.yaml") -> str:
    """A document as a YAML file; returns its path."""
    path = folder / name
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document, sort_keys=False))
    return str(path)
