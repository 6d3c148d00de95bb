"""The shape of report.json: one type for each of its parts, and the JSON Schema made from them."""
