"""Watching a folder: every reconstruction that lands in it is labelled, and shown on a page.

::

    folder ─► arrivals ─► ledger ─► watcher ─► outputs
    (what is there)  (is it complete)  (SQLite: who has what, and how it ended)
                                  └─► page (what a browser sees of it)

The ledger is the only thing that they share, so that any of them can be killed at any instant.
"""
