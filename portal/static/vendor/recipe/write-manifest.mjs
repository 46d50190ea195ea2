// manifest.json: every vendored file with package, version, licence and sha256. Usage: node write-manifest.mjs NODE_MODULES VENDOR_DIR
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';

const [modules, vendor] = process.argv.slice(2);
const files = {
  '@tabler/core': ['tabler/tabler.min.css', 'tabler/LICENSE'],
  '@tabler/icons': ['tabler-icons/tabler-icons.svg', 'tabler-icons/LICENSE'],
  'echarts': ['echarts/echarts.min.js', 'echarts/LICENSE', 'echarts/NOTICE'],
  'zrender': ['echarts/echarts.min.js', 'echarts/LICENSE.zrender'], // bundled into ECharts
  'htmx.org': ['htmx/htmx.min.js', 'htmx/LICENSE'],
};
const packages = Object.entries(files).map(([name, paths]) => {
  const { version, license } = JSON.parse(readFileSync(`${modules}/${name}/package.json`, 'utf8'));
  return {
    name, version, licence: license,
    files: paths.map((path) => ({ path, sha256: createHash('sha256').update(readFileSync(`${vendor}/${path}`)).digest('hex') })),
  };
});
writeFileSync(`${vendor}/manifest.json`, JSON.stringify({ packages }, null, 2) + '\n');
