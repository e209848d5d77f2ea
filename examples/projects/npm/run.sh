#!/bin/sh
# The build of the project `npm`: params package and lockfile in, node_modules out.
set -eu
data=${DATA:-/data}

for param in package lockfile; do
    if [ ! -f "$data/params/$param" ]; then
        echo "the param '$param' is missing: give it as --$param=@FILE" >&2
        exit 2
    fi
done

# Kept for the next build of the group. The user of a build may have no home directory.
cache="$data/cache/npm"
export npm_config_cache="$cache"
export HOME="$data/cache"
if [ -d "$cache/_cacache" ]; then
    echo "npm cache: found, $(find "$cache/_cacache/content-v2" -type f | wc -l) packages"
else
    echo "npm cache: empty"
fi

cd "$data/artifacts"
cp "$data/params/package" package.json
cp "$data/params/lockfile" package-lock.json
# `npm ci` installs exactly what the lock file says, and fails if that does not match package.json.
# --prefer-offline: cached packages are not requested again; their integrity is checked nevertheless.
npm ci --prefer-offline --no-audit --no-fund --no-update-notifier
# The client has these two files; they are not part of the result.
rm package.json package-lock.json
echo "installed $(find node_modules -name package.json -path '*node_modules/*' | wc -l) package files"
