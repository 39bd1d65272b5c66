"""Write ``docs/provenance.schema.json`` from the code."""

from __future__ import annotations

import json
from pathlib import Path

from nudging_llm import Provenance

if __name__ == "__main__":
    path = Path(__file__).parents[1] / "docs" / "provenance.schema.json"
    path.write_text(json.dumps(Provenance.json_schema(), indent=2) + "\n")
    print(path)
