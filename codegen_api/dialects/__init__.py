"""What clients speak. Each dialect is a module with a ``router`` and a ``render_error``; it translates and
decides nothing.
"""
