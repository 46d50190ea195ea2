// Drop the variants of Tabler's components and the custom properties that no page uses, and give custom properties Tabler's prefix.
// Usage: node prune-css.mjs IN.css OUT.css VERSION
import { readFileSync, writeFileSync } from 'node:fs';
import postcss from 'postcss';

const UNUSED = new RegExp(
  '\\.(' + [
    'was-validated', 'navbar-expand(?!-lg)', 'navbar-(floating|overlap|vertical|transparent|side|glass)', 'table-mobile', 'card-gradient',
    'bg-gradient', 'divide-', 'form-(floating|range|colorinput|imagecheck|fieldset|footer)', 'layout-boxed', 'btn-(ghost|animate|floating|link|pill|square|loading|list-center)',
    'hr-text', 'card-(img|group|stacked|tabs|rotate|link|avatar|sponsor|cover|borderless|mask|stamp|progress|options|chart)', 'text-bg-', 'bg-gray', 'text-gray', 'row-cols', 'steps',
    'table-sort', 'theme-dark', 'placeholder', 'input-group-flat', 'nav-bordered', 'dropdown-menu-(columns|card|arrow|dark|end-)',
    '[a-z-]*-(sm|xl|xxl|print)-(?!auto|hidden)(none|inline|block|flex|grid|table|center|start|end|between|around|evenly|fill|row|column|grow|shrink|wrap|nowrap|baseline|stretch)',
    '[mp][tbsexy]?-(sm|xl|xxl)-', 'gap-(sm|xl|xxl)-', 'g[xy]?-(sm|xl|xxl)-', 'offset-', 'col-xxl', 'dropup', 'dropstart', 'dropend', 'avatar', 'breadcrumb-(dots|arrows|bullets|muted)',
    'datagrid-[a-z]+-', 'img-', 'display-\\d', 'blockquote', 'shape-', 'nav-segmented', 'card-(active|inactive)', 'card-status-(?!start|top)',
  ].join('|') + ')',
);

const root = postcss.parse(readFileSync(process.argv[2], 'utf8').replace(/^\uFEFF/, ''));
root.walkRules((rule) => {
  if (rule.parent.type === 'atrule' && rule.parent.name.endsWith('keyframes')) return;
  const kept = rule.selectors.filter((selector) => !UNUSED.test(selector.replace(/:not\([^)]*\)/g, '')));
  if (!kept.length) rule.remove();
  else if (kept.length < rule.selectors.length) rule.selectors = kept;
});
root.walkAtRules((atRule) => { if (atRule.nodes && !atRule.nodes.length) atRule.remove(); });
// Merge a repeated @media that directly follows the same @media.
root.each((node) => {
  let next = node.next();
  while (node.type === 'atrule' && node.name === 'media' && next?.type === 'atrule' && next.params === node.params) {
    node.append(next.nodes); next.remove(); next = node.next();
  }
});
// Custom properties that nothing reads any more. The portal's own style sheets set some of Tabler's, but read none.
for (let removed = true; removed;) {
  const read = new Set([...root.toString().matchAll(/var\(\s*(--[\w-]+)/g)].map((match) => match[1]));
  removed = false;
  root.walkDecls(/^--/, (declaration) => {
    if (!read.has(declaration.prop)) { declaration.remove(); removed = true; }
  });
}
root.walkRules((rule) => { if (!rule.nodes.length) rule.remove(); });
const prefixed = root.toString().replace(/(?<![\w-])--(?=[a-z])(?!tblr-)/g, '--tblr-');
const banner = `/*! Tabler v${process.argv[4]} (https://tabler.io), Copyright 2018-2026 The Tabler Authors, MIT; reduced build, see ../README.md */\n`;
writeFileSync(process.argv[3], banner + prefixed);
