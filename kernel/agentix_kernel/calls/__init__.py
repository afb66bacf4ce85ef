"""Handlers of system calls, by family. Each gets (kernel, process, *checked arguments) and returns the result.

`handlers.HANDLERS` maps the names of the table to them; a row without one answers ENOSYS.
"""
