"""The list of models as the API gives it."""

from __future__ import annotations

import datetime


def model_info(name: str, created_s: int) -> dict[str, object]:
    """One model."""
    created = datetime.datetime.fromtimestamp(created_s, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": "model", "id": name, "display_name": name, "created_at": created}


def model_page(models: list[dict[str, object]]) -> dict[str, object]:
    """All models, as the only page."""
    first, last = (models[0]["id"], models[-1]["id"]) if models else (None, None)
    return {"data": models, "has_more": False, "first_id": first, "last_id": last}
