"""The command line: the operator's side of every part.

`main` is the entry point and the only place that turns errors into exit statuses; `lazy`
loads a command's module when it is used, and `output` renders what commands show. A
command module imports nothing but click, `legation.errors` and its siblings here at its
top; whatever is heavier is imported where it is needed, so that help and completion stay
instant and offline commands never load a server.
"""
