"""One module per resource: parse, call, return."""
