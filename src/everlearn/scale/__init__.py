"""Homes of a loop beyond one folder, on engines that exist.

Each module implements protocols that the loop knows, and is reached by the URL in its settings: `postgres` is a log
(`everlearn.events.Log`) in a PostgreSQL database, `nats` a broker (`everlearn.scale.broker.Broker`), of which
`brokered` makes a log together with `index` and `tail`, and `objects` a store of snapshots
(`everlearn.version.blobs.Store`) in S3, Google Cloud Storage or Azure. Nothing distributed is written by hand here.
Each engine needs an extra, such as `everlearn[postgres]`, and is imported only when a URL names it.
"""
