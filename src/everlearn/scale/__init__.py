"""Places for logs, keys and snapshots beyond one machine, reached by the URL in the settings of a loop.

`postgres` holds a log in a PostgreSQL database, `nats` and `kafka` hold the events of one in a broker
(`everlearn.scale.broker.Broker`), of which `brokered` makes a log, and `objects` a store of snapshots in S3, Google
Cloud Storage or Azure. `encrypted` encrypts any log with `keys` of subjects. Nothing distributed is written by hand
here. Each engine needs an extra, such as `everlearn[postgres]`.
"""
