#!/bin/sh
# The build of the project `hello`.
#
# Whatever is asked for, a build sees three directories:
#
#     /data/params      one file for each param: `mistry build … -- --name=world` makes params/name
#     /data/artifacts   what is left here is the result; `mistry build` brings it home
#     /data/cache       kept for the next build of the same group (`--group G`), never fetched
#
# What it prints is its log; its exit code decides whether it succeeded.
set -eu
data=${DATA:-/data}

name=world
if [ -f "$data/params/name" ]; then
    name=$(cat "$data/params/name")
fi

# In a build of a group, the cache and the artifacts begin as the group's last good build left them.
# Without a group both are empty, and every run is the first.
run=0
if [ -f "$data/cache/runs" ]; then
    run=$(cat "$data/cache/runs")
fi
run=$((run + 1))
echo "$run" > "$data/cache/runs"

echo "greeting $name, run $run"
echo "Hello, $name! (run $run of this group)" > "$data/artifacts/greeting.txt"
