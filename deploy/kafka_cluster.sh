#!/bin/sh
# Run the tests of a log in Kafka against a real cluster.
#
#     BOOTSTRAP=host:port[,host:port...] [REPLICAS=3] [PARAMETERS='security.protocol=SASL_SSL&...'] \
#     [KILL='command that kills a broker and starts it again'] [KILLS=50] deploy/kafka_cluster.sh
#
# It makes topics whose names begin with "everlearn-test-" and leaves them there.
set -eu
: "${BOOTSTRAP:?set BOOTSTRAP to host:port of a broker}"
cd "$(dirname "$0")/.."
EVERLEARN_KAFKA="kafka://$BOOTSTRAP"
EVERLEARN_KAFKA_PARAMETERS="replicas=${REPLICAS:-1}${PARAMETERS:+&$PARAMETERS}"
EVERLEARN_KAFKA_KILL="${KILL:-}"
EVERLEARN_KAFKA_KILLS="${KILLS:-50}"
export EVERLEARN_KAFKA EVERLEARN_KAFKA_PARAMETERS EVERLEARN_KAFKA_KILL EVERLEARN_KAFKA_KILLS
exec python -m pytest -q -s -m "slow or not slow" -k "cluster" tests/events tests/scale/test_kafka.py
