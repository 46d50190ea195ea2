// One SVG sprite with the icons named in icons.txt. Usage: node build-sprite.mjs ICONS_DIR icons.txt OUT.svg
import { readFileSync, writeFileSync } from 'node:fs';

const [iconsDir, listFile, outFile] = process.argv.slice(2);
const symbols = readFileSync(listFile, 'utf8').split('\n').filter(Boolean).map((name) => {
  const source = readFileSync(`${iconsDir}/${name}.svg`, 'utf8').replace(/<!--[\s\S]*?-->/g, '');
  const body = source.replace(/^[\s\S]*?<svg[^>]*>/, '').replace(/<\/svg>\s*$/, '').replace(/\s*\n\s*/g, '')
    .replace(/<path stroke="none" d="M0 0h24v24H0z" fill="none"\s*\/>/, '');
  return `<symbol id="${name}" viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.75" stroke-linecap="round" stroke-linejoin="round">${body}</symbol>`;
});
writeFileSync(outFile, `<svg xmlns="http://www.w3.org/2000/svg">\n${symbols.join('\n')}\n</svg>\n`);
