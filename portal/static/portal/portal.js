// Behaviour that every page shares: menus, confirmation, copying, one submission per click, relative times.
// Everything hangs on data attributes and delegated events, so that parts swapped in by htmx work as well.
window.Portal = (() => {
  'use strict';

  const words = JSON.parse(document.getElementById('portal-words').textContent);
  const language = document.documentElement.lang || 'en';

  // Menus and navigation ------------------------------------------------------------------------------------------

  const closeMenus = (except) => {
    for (const menu of document.querySelectorAll('details.menu[open]')) if (menu !== except) menu.open = false;
  };

  document.addEventListener('click', (event) => {
    closeMenus(event.target.closest('details.menu'));
    const toggle = event.target.closest('[data-nav-toggle]');
    if (toggle) {
      const nav = document.getElementById(toggle.getAttribute('aria-controls'));
      const isOpen = nav.toggleAttribute('data-open');
      toggle.setAttribute('aria-expanded', String(isOpen));
    }
    event.target.closest('[data-dismiss]')?.closest('.notice').remove();
    const copier = event.target.closest('[data-copy], [data-copy-from]');
    if (copier) copyText(copier);
  });

  document.addEventListener('keydown', (event) => {
    if (event.key !== 'Escape') return;
    const open = document.querySelector('details.menu[open]');
    if (open) { open.open = false; open.querySelector('summary').focus(); }
  });

  // Copy to clipboard ---------------------------------------------------------------------------------------------

  async function copyText(button) {
    const source = button.dataset.copyFrom && document.querySelector(button.dataset.copyFrom);
    const text = source ? (source.value ?? source.textContent) : button.dataset.copy;
    let copied = false;
    try {
      await navigator.clipboard.writeText(text);
      copied = true;
    } catch { // plain http, or refused: the older way
      const area = document.createElement('textarea');
      area.value = text;
      area.className = 'visually-hidden';
      document.body.append(area);
      area.select();
      copied = document.execCommand('copy');
      area.remove();
      button.focus();
    }
    announce(copied ? words.copied : words.copyFailed);
    if (!copied) return;
    button.dataset.copied = '';
    window.setTimeout(() => delete button.dataset.copied, 2000);
  }

  /** Say something to screen readers through the page's polite live region. */
  function announce(text) {
    const region = document.getElementById('announcer');
    region.textContent = '';
    window.setTimeout(() => { region.textContent = text; }, 50);
  }

  // Confirmation --------------------------------------------------------------------------------------------------

  /** Ask in the page's <dialog>; resolves to true if the person agrees. */
  function confirmWith({ title, text, button, tone }) {
    const dialog = document.getElementById('confirm-dialog');
    dialog.querySelector('[data-confirm-title]').textContent = title || words.confirmTitle;
    dialog.querySelector('[data-confirm-text]').textContent = text || '';
    const agree = dialog.querySelector('[data-confirm-agree]');
    agree.textContent = button || words.confirmButton;
    agree.className = `btn ${tone === 'danger' ? 'btn-danger' : 'btn-primary'}`;
    dialog.returnValue = '';
    dialog.showModal();
    return new Promise((resolve) => {
      dialog.addEventListener('close', () => resolve(dialog.returnValue === 'agree'), { once: true });
    });
  }

  const readQuestion = (element) => ({
    title: element.dataset.confirmTitle,
    text: element.dataset.confirm,
    button: element.dataset.confirmButton,
    tone: element.dataset.confirmTone,
  });

  // The submit button that was clicked may carry the question itself; it wins over its form.
  document.addEventListener('submit', async (event) => {
    const form = event.target;
    const asker = event.submitter?.dataset.confirm ? event.submitter : form;
    if (asker.dataset.confirm === undefined || form.dataset.confirmed !== undefined) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (!(await confirmWith(readQuestion(asker)))) return;
    form.dataset.confirmed = '';
    // A live part may have replaced the button while the question was open.
    form.requestSubmit(event.submitter?.isConnected ? event.submitter : null);
    delete form.dataset.confirmed;
  }, true);

  // hx-confirm on an element uses the same dialog.
  document.addEventListener('htmx:confirm', (event) => {
    const element = event.detail.elt;
    if (!event.detail.question) return;
    event.preventDefault();
    confirmWith({ ...readQuestion(element), text: event.detail.question }).then((agreed) => {
      if (agreed) event.detail.issueRequest(true);
    });
  });

  // One submission per click --------------------------------------------------------------------------------------

  document.addEventListener('submit', (event) => {
    const form = event.target;
    if (event.defaultPrevented || form.method !== 'post' || form.dataset.resubmit !== undefined) return;
    if (form.dataset.submitting !== undefined) { event.preventDefault(); return; }
    form.dataset.submitting = '';
    // aria-disabled, not disabled: a disabled button would leave its name and value out of the request.
    event.submitter?.setAttribute('aria-disabled', 'true');
    event.submitter?.setAttribute('aria-busy', 'true');
  });

  const release = (scope) => {
    const forms = scope.matches?.('form[data-submitting]') ? [scope] : scope.querySelectorAll('form[data-submitting]');
    for (const form of forms) {
      delete form.dataset.submitting;
      for (const button of document.querySelectorAll('[aria-busy="true"]')) {
        if (button.form !== form) continue;
        button.removeAttribute('aria-busy');
        button.removeAttribute('aria-disabled');
      }
    }
  };
  window.addEventListener('pageshow', () => release(document)); // back button: the form must work again
  document.addEventListener('htmx:afterRequest', (event) => release(event.detail.elt));

  // Filters that apply at once ------------------------------------------------------------------------------------

  document.addEventListener('change', (event) => {
    event.target.closest('form[data-autosubmit]')?.requestSubmit();
  });

  // Relative times ------------------------------------------------------------------------------------------------

  const relative = new Intl.RelativeTimeFormat(language, { numeric: 'always' });
  const STEPS = [['year', 31557600], ['month', 2629800], ['week', 604800], ['day', 86400], ['hour', 3600], ['minute', 60]];

  function refreshTimes() {
    for (const element of document.querySelectorAll('[data-relative]')) {
      const stamp = element.dataset.relative || element.getAttribute('datetime');
      const seconds = (Date.parse(stamp) - Date.now()) / 1000;
      const step = STEPS.find(([, size]) => Math.abs(seconds) >= size);
      if (step) element.textContent = relative.format(Math.trunc(seconds / step[1]), step[0]);
    }
  }
  window.setInterval(() => { if (!document.hidden) refreshTimes(); }, 30000);

  document.addEventListener('click', (event) => {
    if (event.target.closest('[data-print]')) window.print();
  });

  // Errors of htmx requests: the server's words if it sent a fragment, else the banner ------------------------------

  const banner = document.getElementById('connection-banner');
  function showConnection(isLost) { banner.hidden = !isLost; }
  document.addEventListener('htmx:sendError', () => showConnection(true));
  document.addEventListener('htmx:afterOnLoad', () => showConnection(false));
  document.addEventListener('htmx:beforeSwap', (event) => {
    const { xhr, target, pathInfo } = event.detail;
    const isElsewhere = xhr.responseURL && new URL(xhr.responseURL).pathname !== new URL(pathInfo.requestPath, location.href).pathname;
    if (isElsewhere || xhr.status === 403) {
      event.detail.shouldSwap = false; // the sign-in page is no part of this one
      target.textContent = words.signedOut;
      return;
    }
    // A form sent back with its errors is a page part, not a failure.
    if (event.detail.xhr.status === 422) { event.detail.shouldSwap = true; event.detail.isError = false; }
  });

  return { words, language, announce, confirmWith, showConnection, refreshTimes };
})();
