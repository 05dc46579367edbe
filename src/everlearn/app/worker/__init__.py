"""Serve the hot path over HTTP: predictions, feedback and examples, in groups.

Requests come in; replies, and rows of the log, go out. `application` routes requests and `fast_path` reads most of
them, `requests` and `body_reader` decode them, `groups` collects them, `predict` and `feedback` handle them, `commit`
writes their rows. The steps themselves live in `everlearn.predict` and `everlearn.feedback`; all other routes live in
`app/admin`, behind `proxy`.
"""
