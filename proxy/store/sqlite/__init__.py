"""The store in a SQLite file. `store` is the facade, `connection` the threads, `file` and `schema` the file itself.

The other modules hold the SQL by subject, with the names of the Redis scripts: accounts, assets, claims, feeds, jobs
and retention. `log` writes a job's record and its next event.
"""
