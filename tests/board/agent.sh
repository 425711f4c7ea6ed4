#!/bin/sh
# Runs on the simulated board: each line from the console is a command of the shell; what it says goes back between two
# marks, the second with its exit status.
stty -echo
echo "@@READY"
while read -r line; do
    echo "@@BEGIN"
    sh -c "$line" </dev/null 2>&1
    echo "@@END $?"
done
