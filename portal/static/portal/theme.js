// Loaded in <head> before the first paint: sets the theme, so that no page flashes in the wrong one.
(() => {
  'use strict';

  const KEY = 'portal-theme';
  const root = document.documentElement;
  const systemDark = window.matchMedia('(prefers-color-scheme: dark)');
  root.classList.add('js');

  const readChoice = () => {
    try {
      const stored = window.localStorage.getItem(KEY);
      return stored === 'light' || stored === 'dark' ? stored : 'auto';
    } catch { // storage is blocked: the choice lasts for this page only
      return root.dataset.themeChoice || 'auto';
    }
  };

  const apply = (choice) => {
    const theme = choice === 'auto' ? (systemDark.matches ? 'dark' : 'light') : choice;
    const changed = root.dataset.bsTheme !== theme;
    root.dataset.bsTheme = theme;
    root.dataset.themeChoice = choice;
    for (const button of document.querySelectorAll('[data-theme-choice-button]')) {
      button.setAttribute('aria-pressed', String(button.dataset.themeChoiceButton === choice));
    }
    if (changed) document.dispatchEvent(new CustomEvent('portal:theme', { detail: { theme } }));
  };

  apply(readChoice());
  systemDark.addEventListener('change', () => apply(readChoice()));
  window.addEventListener('storage', (event) => { if (event.key === KEY) apply(readChoice()); });
  document.addEventListener('DOMContentLoaded', () => apply(readChoice()));
  document.addEventListener('click', (event) => {
    const button = event.target.closest('[data-theme-choice-button]');
    if (!button) return;
    const choice = button.dataset.themeChoiceButton;
    root.dataset.themeChoice = choice;
    try { window.localStorage.setItem(KEY, choice); } catch { /* storage is blocked: apply() below still serves this page */ }
    apply(choice);
  });
})();
