"""One module a resource: its bodies, its handlers and its routes."""
