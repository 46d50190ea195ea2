// Polling that is kind to the server: fast only while somebody looks, slower after errors, silent once it is over.
//
//   <div data-live="/jobs/…/status/" data-live-interval="3">…</div>   HTML part; swapped in when it changed
//   <pre class="log" data-log="/jobs/…/log/" data-log-offset="0">     JSON {text, next_offset, is_complete}; appended
//   Portal.poll({url, intervalSeconds, onResponse})                   anything else
//
// Status 286 (or is_complete) stops the polling, 204 and 304 mean "nothing new".
(() => {
  'use strict';

  const HIDDEN_FACTOR = 10; // a tab in the background asks ten times less often
  const LONGEST_WAIT_S = 120;
  const STOP_STATUS = 286;

  let lost = 0;
  const noteLoss = (poller, isLost) => {
    if (poller.isLost !== isLost) lost += isLost ? 1 : -1;
    poller.isLost = isLost;
    Portal.showConnection(lost > 0);
  };

  /**
   * Ask a URL again and again. `onResponse(response)` may return false to stop.
   * Returns {stop, now}: stop() ends it, now() asks at once.
   */
  Portal.poll = ({ url, intervalSeconds = 4, onResponse }) => {
    const poller = { isLost: false, failures: 0, etag: null, timer: 0, isStopped: false, isAsking: false };

    const wait = () => {
      const base = intervalSeconds * 2 ** Math.min(poller.failures, 6) * (document.hidden ? HIDDEN_FACTOR : 1);
      const jitter = 0.9 + Math.random() * 0.2; // viewers of one page don't ask in step
      poller.timer = window.setTimeout(ask, Math.min(base, LONGEST_WAIT_S) * jitter * 1000);
    };

    const stop = () => {
      poller.isStopped = true;
      window.clearTimeout(poller.timer);
      document.removeEventListener('visibilitychange', onVisible);
      window.removeEventListener('online', now);
      noteLoss(poller, false);
    };

    async function ask() {
      if (poller.isStopped || poller.isAsking) return;
      poller.isAsking = true;
      try {
        const headers = { 'HX-Request': 'true', 'X-Live': 'true' };
        if (poller.etag) headers['If-None-Match'] = poller.etag;
        const address = typeof url === 'function' ? url() : url;
        const response = await fetch(address, { headers, credentials: 'same-origin', cache: 'no-store', signal: AbortSignal.timeout(20000) });
        if (response.redirected && new URL(response.url).pathname !== new URL(address, location.href).pathname) {
          location.reload(); // signed out: the sign-in page belongs in the window, not in a card
          return;
        }
        if (response.status === 404 || response.status === 403) { stop(); return; }
        if (!response.ok && response.status !== 304) throw new Error(`status ${response.status}`);
        poller.failures = 0;
        noteLoss(poller, false);
        poller.etag = response.headers.get('ETag');
        // The server knows best how soon something may change.
        intervalSeconds = Number(response.headers.get('X-Live-Interval')) || intervalSeconds;
        const goesOn = response.status === 204 || response.status === 304 ? true : await onResponse(response);
        if (goesOn === false || response.status === STOP_STATUS) stop();
      } catch (error) {
        poller.failures += 1;
        if (poller.failures >= 2) noteLoss(poller, true); // one hiccup is not worth a banner
        console.warn('live update failed', error);
      } finally {
        poller.isAsking = false;
        window.clearTimeout(poller.timer);
        if (!poller.isStopped) wait();
      }
    }

    const now = () => { window.clearTimeout(poller.timer); ask(); };
    const onVisible = () => { if (!document.hidden) now(); };
    document.addEventListener('visibilitychange', onVisible);
    window.addEventListener('online', now);
    wait();
    return { stop, now };
  };

  /** Swap a part unless someone is using it: a focused field or an open menu would be lost. */
  const isInUse = (element) => {
    const active = document.activeElement;
    const typing = element.contains(active) && active.matches('input, select, textarea');
    return typing || Boolean(element.querySelector('details.menu[open], dialog[open]'));
  };

  const startPart = (element) => {
    let last = null;
    const poller = Portal.poll({
      url: element.dataset.live,
      intervalSeconds: Number(element.dataset.liveInterval) || 4,
      async onResponse(response) {
        if (!element.isConnected) return false;
        const html = await response.text();
        if (html === last || isInUse(element)) return true;
        last = html;
        const open = [...element.querySelectorAll('details[open][id]')].map((details) => details.id);
        element.innerHTML = html; // same origin, escaped by the templates; scripts in it never run
        for (const id of open) { const details = document.getElementById(id); if (details) details.open = true; }
        window.htmx?.process(element);
        element.dispatchEvent(new CustomEvent('portal:swapped', { bubbles: true }));
        Portal.refreshTimes();
        return true;
      },
    });
    element.addEventListener('portal:refresh', poller.now);
  };

  const startLog = (element) => {
    let offset = Number(element.dataset.logOffset) || 0;
    const poller = Portal.poll({
      url: () => `${element.dataset.log}${element.dataset.log.includes('?') ? '&' : '?'}offset=${offset}`,
      intervalSeconds: Number(element.dataset.liveInterval) || 2,
      async onResponse(response) {
        if (!element.isConnected) return false;
        const { text, next_offset: nextOffset, is_complete: isComplete } = await response.json();
        const isAtEnd = element.scrollHeight - element.scrollTop - element.clientHeight < 40;
        if (text) element.append(text);
        offset = nextOffset;
        if (isAtEnd) element.scrollTop = element.scrollHeight; // who scrolled up to read stays there
        return !isComplete;
      },
    });
    poller.now();
  };

  const start = (scope) => {
    for (const [selector, begin] of [['[data-live]', startPart], ['[data-log]', startLog]]) {
      for (const element of scope.querySelectorAll(`${selector}:not([data-live-started])`)) {
        element.dataset.liveStarted = '';
        begin(element);
      }
    }
  };

  start(document);
  for (const name of ['htmx:afterSettle', 'portal:swapped']) document.addEventListener(name, (event) => start(event.target));
})();
