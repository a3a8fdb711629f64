"""The records that stages pass to each other: results, as frozen JSON.

Settings are in the config class beside each function. Nothing here opens a file, imports a
training library or knows where the store is: every `uri` is `store:<key>/<path>`, `hub:<id>` or
`folder:<path>`, and `Store.path` resolves it to a path on disk.
"""
