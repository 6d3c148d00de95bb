"""`python -m repro.report.schema > repro/report/schema/report.schema.json`: the JSON Schema of report.json."""

from __future__ import annotations

import json

from repro.report.schema.document import json_schema

print(json.dumps(json_schema(), indent=1, sort_keys=True))
