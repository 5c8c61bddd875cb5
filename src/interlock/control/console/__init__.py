"""The console: pages over the services of the admin API, rendered here, without logic of their own.

`app` has the list of pages; `visit` is one request with who makes it; `render` makes HTML. Nothing is loaded from other
hosts, and the content security policy allows no inline code.
"""
