"""The server: processes around one log.

    worker (N of them)   answers /predict, takes /feedback and /learn, appends to the log; never waits for anyone else
    learner              tails the log, learns, decides, publishes what serves
    admin                pages, versions, decisions, metrics: whatever is not the hot path

`supervise` starts them and keeps them running. They share the loop's home (log and blobs) and one folder in memory:
what serves, its version word, counters, the learner's status.
"""
