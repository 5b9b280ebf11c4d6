#!/bin/sh
# A model in awk that logs its metrics to an MLflow server by REST. Where it is to log stands in
# MLFLOW_TRACKING_URI and MLFLOW_RUN_ID, as under any `mlflow run`; needs sh, awk and curl.
set -eu
noise=$1 examples=$2 seed=$3

# A threshold is learnt from examples of two classes, at 0 and 1 with noise, and tried on others.
set -- $(LC_ALL=C awk -v noise="$noise" -v n="$examples" -v seed="$seed" '
    function draw(label,  i, sum) {  # nearly normal: a sum of uniform numbers
        sum = -6
        for (i = 0; i < 12; i++) sum += rand()
        return label + noise * sum
    }
    BEGIN {
        srand(seed)
        for (i = 0; i < 20; i++) threshold += draw(i % 2) / 20
        for (i = 0; i < n; i++) {
            correct = (draw(i % 2) > threshold) == i % 2
            hits[i % 2] += correct
        }
        printf "%.6f %.6f", (hits[0] + hits[1]) / n, hits[1] / int(n / 2)
    }')

log() {
    printf '{"run_id": "%s", "key": "%s", "value": %s, "timestamp": %s000}' \
        "$MLFLOW_RUN_ID" "$1" "$2" "$(date +%s)" |
        curl --fail --silent --show-error --header 'Content-Type: application/json' --data @- \
            --output /dev/null "$MLFLOW_TRACKING_URI/api/2.0/mlflow/runs/log-metric"
}
log accuracy "$1"
log accuracy_of_ones "$2"
echo "accuracy $1, of ones $2"
