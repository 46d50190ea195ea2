// The page of a job: its log, followed as it grows, and its curves, drawn from the metrics that it writes.
(() => {
  'use strict';

  const TAIL_BYTES = 65536;
  const MOST_CHARACTERS = 2_000_000; // a page that follows a log for days forgets its beginning

  // Log -----------------------------------------------------------------------------------------------------------

  const startLog = (section) => {
    const pane = section.querySelector('.log-pane');
    const note = section.querySelector('[data-log-note]');
    const follow = section.querySelector('[data-log-follow]');
    let offset = -TAIL_BYTES;
    let message = null;

    const show = (text) => {
      if (message) { message.remove(); message = null; }
      if (!text) return;
      message = document.createElement('span');
      message.className = 'log-message';
      message.textContent = text;
      pane.append(message);
    };

    const poller = Portal.poll({
      url: () => `${pane.dataset.logUrl}?offset=${offset}`,
      intervalSeconds: 2,
      async onResponse(response) {
        const answer = await response.json();
        show('');
        if (answer.text) pane.append(answer.text); // text, never HTML
        while (pane.textContent.length > MOST_CHARACTERS && pane.childNodes.length > 1) {
          pane.firstChild.remove();
          note.hidden = false;
        }
        show(answer.message);
        offset = answer.next_offset;
        if (answer.is_tail) note.hidden = false;
        if (follow.checked) pane.scrollTop = pane.scrollHeight;
        if (answer.has_more) window.setTimeout(() => poller.now(), 0);
        return !answer.is_complete;
      },
    });
    pane.addEventListener('wheel', (event) => { if (event.deltaY < 0) follow.checked = false; }, { passive: true });
    follow.addEventListener('change', () => { if (follow.checked) pane.scrollTop = pane.scrollHeight; });
    poller.now();
  };

  const logSection = document.getElementById('job-log');
  if (logSection) startLog(logSection);

  // Curves --------------------------------------------------------------------------------------------------------

  const curves = document.getElementById('curves');
  if (!curves) return;
  const measured = { step_time_s: [], tokens_per_s: [] };
  let offset = 0;

  /** The figure of a curve; made when its first points arrive. */
  const figureOf = (kind) => {
    const slot = curves.querySelector(`[data-curve="${kind}"]`);
    let figure = slot.querySelector('[data-chart]');
    if (figure) return figure;
    figure = curves.querySelector(`[data-curve-template="${kind}"]`).content.firstElementChild.cloneNode(true);
    curves.querySelector('[data-curves]').hidden = false;
    curves.querySelector('[data-no-curves]').hidden = true;
    slot.hidden = false;
    const isLoss = kind === 'loss';
    const source = document.createElement('script');
    source.type = 'application/json';
    source.id = `${figure.id}-data`;
    source.textContent = JSON.stringify({
      x_label: curves.dataset.wordStep,
      y_label: isLoss ? curves.dataset.wordLoss : curves.dataset.wordThroughput,
      decimals: isLoss ? 4 : 0,
      series: [],
    });
    figure.dataset.chartSource = source.id;
    figure.append(source);
    slot.querySelector('[data-curve-slot]').append(figure);
    slot.dispatchEvent(new CustomEvent('portal:swapped', { bubbles: true })); // charts.js draws it now
    return figure;
  };

  const collect = (points, names) => names.map((name) => ({
    name,
    points: points.filter((point) => name in point).map((point) => [point.step, point[name]]),
  })).filter((series) => series.points.length);

  const median = (values) => {
    const sorted = [...values].sort((a, b) => a - b);
    return sorted[Math.floor(sorted.length / 2)];
  };

  const showMeasured = () => {
    for (const cell of document.querySelectorAll('[data-actual]')) {
      const values = measured[cell.dataset.actual];
      if (!values.length) continue;
      const digits = cell.dataset.unit ? { maximumSignificantDigits: 3 } : { maximumFractionDigits: 0 };
      const text = new Intl.NumberFormat(Portal.language, digits).format(median(values));
      cell.textContent = cell.dataset.unit ? `${text}\u00a0${cell.dataset.unit}` : text;
    }
  };
  document.addEventListener('portal:swapped', showMeasured);

  const draw = (points) => {
    const losses = [...new Set(points.flatMap(Object.keys))].filter((name) => name.toLowerCase().includes('loss'));
    const lossSeries = collect(points, losses);
    if (lossSeries.length) Portal.charts.append(figureOf('loss'), { series: lossSeries });
    const throughput = collect(points, ['tokens_per_s']);
    if (throughput.length) Portal.charts.append(figureOf('throughput'), { series: throughput });
    for (const [name, values] of Object.entries(measured)) {
      for (const point of points) if (name in point) values.push(point[name]);
    }
    showMeasured();
  };

  const poller = Portal.poll({
    url: () => `${curves.dataset.metrics}?offset=${offset}`,
    intervalSeconds: Number(curves.dataset.liveInterval) || 4,
    async onResponse(response) {
      const answer = await response.json();
      offset = answer.next_offset;
      if (answer.points.length) draw(answer.points);
      if (answer.has_more) window.setTimeout(() => poller.now(), 0);
      return !answer.is_complete;
    },
  });
  poller.now();
})();
