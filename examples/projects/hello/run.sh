#!/bin/sh
# The build of the project `hello`.
#
# Each build has three directories:
#
#     /data/params      one file for each param: `mistry build … -- --name=world` makes params/name
#     /data/artifacts   the files here are the result; `mistry build` fetches them
#     /data/cache       kept for the next build of the same group (`--group G`), never fetched
#
# Its output is the log; its exit code decides whether it succeeded.
set -eu
data=${DATA:-/data}

name=world
if [ -f "$data/params/name" ]; then
    name=$(cat "$data/params/name")
fi

# In a build of a group, the cache starts as the group's last successful build left it; without a group it
# starts empty. The artifacts start empty in both cases, because mistry.json says so: the result must not
# depend on earlier builds.
run=0
if [ -f "$data/cache/runs" ]; then
    run=$(cat "$data/cache/runs")
fi
run=$((run + 1))
echo "$run" > "$data/cache/runs"

echo "greeting $name, run $run"
echo "Hello, $name! (run $run of this group)" > "$data/artifacts/greeting.txt"
