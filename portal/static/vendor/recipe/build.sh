#!/usr/bin/env bash
# Rebuild portal/static/vendor from the npm packages pinned in package.json. Needs Node.js 20 and npm; leaves the
# working copy clean but for the rebuilt files.
set -euo pipefail

recipe=$(cd "$(dirname "$0")" && pwd)
vendor=$(dirname "$recipe")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cp "$recipe"/* "$work"
cd "$work"
npm install --no-audit --no-fund --ignore-scripts
mkdir -p "$vendor"/{tabler,tabler-icons,echarts,htmx}

npx sass --no-source-map --style=compressed --load-path=node_modules tabler.scss tabler.css
node prune-css.mjs tabler.css "$vendor/tabler/tabler.min.css" "$(node -p "require('./node_modules/@tabler/core/package.json').version")"
npx esbuild echarts.js --bundle --minify --format=iife --global-name=echarts --target=es2020 --legal-comments=none \
  --define:process.env.NODE_ENV='"production"' --outfile=echarts.bundle.js
# A second pass by terser saves another 6 KB gzipped.
npx terser echarts.bundle.js --compress passes=3 --mangle \
  --format "preamble='/*! Apache ECharts and ZRender, reduced build; Apache-2.0 and BSD-3-Clause, see the licence files beside this one */'" \
  --output "$vendor/echarts/echarts.min.js"
node build-sprite.mjs node_modules/@tabler/icons/icons/outline icons.txt "$vendor/tabler-icons/tabler-icons.svg"
cp node_modules/htmx.org/dist/htmx.min.js "$vendor/htmx/htmx.min.js"

for part in tabler/core:tabler tabler/icons:tabler-icons; do
  source="node_modules/@${part%:*}/LICENSE"
  [ -f "$source" ] || source="$recipe/LICENSE.tabler"
  cp "$source" "$vendor/${part#*:}/LICENSE"
done
cp node_modules/htmx.org/LICENSE "$vendor/htmx/LICENSE"
cp node_modules/echarts/{LICENSE,NOTICE} "$vendor/echarts/"
cp node_modules/zrender/LICENSE "$vendor/echarts/LICENSE.zrender"
node write-manifest.mjs node_modules "$vendor"
