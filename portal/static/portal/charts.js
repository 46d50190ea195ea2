// Charts of the portal on ECharts. A chart is a <figure data-chart="KIND"> (templates/_chart.html) whose data are a JSON
// block (data-chart-source="id") or come from a URL (data-chart-url; polled when data-live-interval is set).
//
//   stacked   {unit, decimals?, categories: [..], series: [{name, values: [..]}], limit?: {name, value}}
//   line      {x_label, y_label, decimals?, log_y?, series: [{name, points: [[x, y], ..], style?: "faint"|"dashed"}]}
//   scatter   {x_label, y_label, series: [{name, points: [[x, y, label], ..]}]}
//
// "memory" and "step-time" are stacked, "loss" is line; the name only chooses how it looks. Names are translated by
// the server. Every chart has a description for screen readers and a table with the same figures.
(() => {
  'use strict';

  const words = Portal.words;
  const LONGEST_TABLE = 60; // rows of the table beside a curve; a curve of 100,000 steps is thinned evenly
  const charts = new Map(); // figure -> {chart, kind, data}

  const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--p-${name}`).trim();
  const formatter = (decimals) => new Intl.NumberFormat(Portal.language, { maximumFractionDigits: decimals ?? 2 });
  // Labels are drawn on the canvas and never parsed as HTML, so that a job's name can't become markup.
  const palette = () => Array.from({ length: 8 }, (_, index) => token(`chart-${index + 1}`));

  const baseOption = () => ({
    animation: !window.matchMedia('(prefers-reduced-motion: reduce)').matches,
    animationDuration: 250,
    color: palette(),
    textStyle: { fontFamily: getComputedStyle(document.body).fontFamily, color: token('text'), fontSize: 12 },
    tooltip: {
      renderMode: 'richText', // an HTML tooltip carries style attributes, which the content security policy forbids
      confine: true,
      backgroundColor: token('surface'),
      borderColor: token('line-strong'),
      textStyle: { color: token('text'), fontSize: 12 },
    },
  });

  const axisLook = () => ({
    axisLine: { lineStyle: { color: token('line-strong') } },
    axisTick: { show: false },
    axisLabel: { color: token('text-2'), hideOverlap: true },
    splitLine: { lineStyle: { color: token('line') } },
    nameTextStyle: { color: token('text-2') },
  });

  const splitNumber = (width) => Math.max(2, Math.min(6, Math.floor(width / 130)));

  const stackedOption = (data, width) => {
    const format = formatter(data.decimals ?? 1);
    const totals = data.categories.map((_, index) => data.series.reduce((sum, { values }) => sum + (values[index] ?? 0), 0));
    const series = data.series.map(({ name, values }) => ({
      name, type: 'bar', stack: 'total', data: values, barMaxWidth: 34,
      itemStyle: { borderColor: token('surface'), borderWidth: 1 },
      emphasis: { focus: 'series' },
    }));
    const longest = Math.max(...totals, data.limit?.value ?? 0);
    if (data.limit) {
      series[0].markLine = {
        symbol: 'none', silent: true, animation: false,
        lineStyle: { color: token('chart-limit'), width: 2, type: 'dashed' },
        label: { color: token('chart-limit'), fontWeight: 600, position: 'start', distance: 4, align: data.limit.value > longest * 0.75 ? 'right' : 'center', formatter: () => `${data.limit.name} ${format.format(data.limit.value)} ${data.unit}` },
        data: [{ xAxis: data.limit.value }],
      };
    }
    return {
      ...baseOption(),
      grid: { top: data.limit ? 24 : 6, left: 10, right: 20, bottom: 4, containLabel: true },
      xAxis: {
        type: 'value', splitNumber: splitNumber(width), max: longest > 0 ? longest * 1.06 : 1, ...axisLook(),
        axisLabel: { ...axisLook().axisLabel, showMaxLabel: false, formatter: (value) => `${format.format(value)} ${data.unit}` },
      },
      yAxis: {
        type: 'category', inverse: true, data: data.categories, ...axisLook(),
        axisLabel: { color: token('text'), width: Math.min(width * 0.3, 180), overflow: 'truncate' },
      },
      tooltip: {
        ...baseOption().tooltip, trigger: 'axis', axisPointer: { type: 'shadow' },
        formatter: (items) => [
          `${items[0].name}: ${format.format(totals[items[0].dataIndex])} ${data.unit}`,
          ...items.filter(({ value }) => value).map(({ seriesName, value }) => `${seriesName}  ${format.format(value)} ${data.unit}`),
        ].join('\n'),
      },
      series,
    };
  };

  const lineOption = (data, width) => {
    const format = formatter(data.decimals ?? 4);
    const compact = new Intl.NumberFormat(Portal.language, { notation: 'compact', maximumFractionDigits: 1 });
    const look = axisLook();
    return {
      ...baseOption(),
      grid: { top: 28, left: 4, right: 20, bottom: 22, containLabel: true },
      xAxis: { type: 'value', splitNumber: splitNumber(width), min: 'dataMin', max: 'dataMax', name: data.x_label, nameLocation: 'middle', nameGap: 26, ...look, splitLine: { show: false },
        axisLabel: { ...look.axisLabel, formatter: (value) => compact.format(value) } },
      yAxis: { type: data.log_y ? 'log' : 'value', scale: true, name: data.y_label, nameLocation: 'end', ...look,
        nameTextStyle: { ...look.nameTextStyle, align: 'left', padding: [0, 0, 0, -20] } },
      tooltip: {
        ...baseOption().tooltip, trigger: 'axis', axisPointer: { type: 'line', lineStyle: { color: token('line-strong') } },
        formatter: (items) => [
          `${data.x_label} ${format.format(items[0].value[0])}`,
          ...items.map(({ seriesName, value }) => `${seriesName}  ${format.format(value[1])}`),
        ].join('\n'),
      },
      series: data.series.map(({ name, points, style }) => ({
        name, type: 'line', data: points, showSymbol: points.length < 2, sampling: 'lttb', animation: false,
        lineStyle: { width: style === 'faint' ? 1 : 2, opacity: style === 'faint' ? 0.4 : 1, type: style === 'dashed' ? 'dashed' : 'solid' },
      })),
    };
  };

  // All plans recede, the chosen ones stand out.
  const scatterPalette = () => ['chart-8', 'chart-1', 'chart-5', 'chart-4'].map(token);

  const scatterOption = (data, width) => {
    const format = formatter(data.decimals ?? 2);
    const option = lineOption({ ...data, series: [] }, width);
    return {
      ...option,
      color: scatterPalette(),
      xAxis: { ...option.xAxis, min: null, max: null, scale: true, splitLine: { lineStyle: { color: token('line') } } },
      tooltip: {
        ...baseOption().tooltip, trigger: 'item',
        formatter: ({ value, seriesName }) => [
          value[2] ?? seriesName, `${data.x_label}  ${format.format(value[0])}`, `${data.y_label}  ${format.format(value[1])}`,
        ].join('\n'),
      },
      series: data.series.map(({ name, points }) => ({ name, type: 'scatter', data: points, symbolSize: 10, itemStyle: { opacity: 0.9 } })),
    };
  };

  const KINDS = {
    memory: stackedOption, 'step-time': stackedOption, stacked: stackedOption,
    loss: lineOption, line: lineOption, scatter: scatterOption,
  };

  // The table with the same figures -------------------------------------------------------------------------------

  const makeRow = (cells, tag) => {
    const row = document.createElement('tr');
    cells.forEach((text, index) => {
      const cell = document.createElement(index === 0 || tag === 'th' ? 'th' : 'td');
      cell.textContent = text;
      if (tag === 'th') cell.scope = 'col';
      else if (index === 0) cell.scope = 'row';
      if (index > 0) cell.className = 'num';
      row.append(cell);
    });
    return row;
  };

  const thin = (points) => {
    if (points.length <= LONGEST_TABLE) return points;
    const step = (points.length - 1) / (LONGEST_TABLE - 1);
    return Array.from({ length: LONGEST_TABLE }, (_, index) => points[Math.round(index * step)]);
  };

  const tableRows = (kind, data) => {
    const format = formatter(data.decimals ?? 4);
    if (KINDS[kind] === stackedOption) {
      const withUnit = (name) => (data.unit ? `${name} (${data.unit})` : name);
      const head = [words.name, ...data.series.map(({ name }) => withUnit(name)), withUnit(words.total)];
      const body = data.categories.map((category, index) => {
        const values = data.series.map(({ values: column }) => column[index] ?? 0);
        return [category, ...values.map((value) => format.format(value)), format.format(values.reduce((a, b) => a + b, 0))];
      });
      if (data.limit) body.push([data.limit.name, ...data.series.map(() => ''), format.format(data.limit.value)]);
      return [head, ...body];
    }
    const head = [words.name, data.x_label, data.y_label];
    return [head, ...data.series.flatMap(({ name, points }) => thin(points).map(([x, y, label]) => [label ?? name, format.format(x), format.format(y)]))];
  };

  const fillTable = (figure, kind, data) => {
    const details = figure.querySelector('.chart-table');
    if (!details?.open) return; // built when somebody opens it
    const [head, ...body] = tableRows(kind, data);
    const table = document.createElement('table');
    table.className = 'table';
    table.createTHead().append(makeRow(head, 'th'));
    table.createTBody().append(...body.map((cells) => makeRow(cells, 'td')));
    details.querySelector('.table-responsive').replaceChildren(table);
  };

  /** The legend is HTML, so that it wraps with the page and is read aloud; swatches are SVG, as style attributes are forbidden. */
  const fillLegend = (figure, kind, data) => {
    const legend = figure.querySelector('.chart-legend');
    legend.hidden = data.series.length < 2 && KINDS[kind] !== stackedOption;
    const colors = KINDS[kind] === scatterOption ? scatterPalette() : palette();
    legend.replaceChildren(...data.series.map(({ name, style }, index) => {
      const item = document.createElement('li');
      const swatch = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
      swatch.setAttribute('viewBox', '0 0 12 12');
      swatch.setAttribute('aria-hidden', 'true');
      const shape = document.createElementNS('http://www.w3.org/2000/svg', 'rect');
      for (const [key, value] of Object.entries({ width: 12, height: 12, rx: 3, fill: colors[index % colors.length], opacity: style === 'faint' ? 0.5 : 1 })) shape.setAttribute(key, value);
      swatch.append(shape);
      item.append(swatch, name);
      return item;
    }));
  };

  // Drawing -------------------------------------------------------------------------------------------------------

  const draw = (figure) => {
    const entry = charts.get(figure);
    const canvas = figure.querySelector('.chart-canvas');
    entry.chart.setOption(KINDS[entry.kind](entry.data, canvas.clientWidth), { notMerge: true });
    fillLegend(figure, entry.kind, entry.data);
    fillTable(figure, entry.kind, entry.data);
  };

  /** Add points to a line chart's data: {series: [{name, points}]}; a new name becomes a new line. */
  const append = (figure, addition) => {
    const { data } = charts.get(figure);
    for (const { name, points } of addition.series) {
      const line = data.series.find((series) => series.name === name);
      if (line) line.points.push(...points);
      else data.series.push({ name, points });
    }
    draw(figure);
  };

  const setData = (figure, data) => {
    const entry = charts.get(figure);
    entry.data = data;
    draw(figure);
  };

  const mount = (figure, data) => {
    const canvas = figure.querySelector('.chart-canvas');
    const chart = echarts.init(canvas, null, { renderer: 'canvas' });
    charts.set(figure, { chart, kind: figure.dataset.chart, data });
    let width = canvas.clientWidth;
    new ResizeObserver(() => {
      if (!canvas.clientWidth) return;
      chart.resize();
      if (canvas.clientWidth !== width) { width = canvas.clientWidth; draw(figure); }
    }).observe(canvas);
    figure.querySelector('.chart-table')?.addEventListener('toggle', () => {
      const entry = charts.get(figure);
      fillTable(figure, entry.kind, entry.data);
    });
    draw(figure);
  };

  const showFailure = (figure) => { figure.querySelector('.chart-canvas').textContent = words.chartFailed; };

  const receive = (figure, data) => {
    if (!charts.has(figure)) mount(figure, data);
    else if (data.append) append(figure, data);
    else setData(figure, data);
  };

  const start = async (figure) => {
    if (!KINDS[figure.dataset.chart]) throw new Error(`unknown chart kind ${figure.dataset.chart}`);
    const { chartSource, chartUrl, liveInterval } = figure.dataset;
    if (chartSource) receive(figure, JSON.parse(document.getElementById(chartSource).textContent));
    if (!chartUrl) return;
    // The server is told the last x it sent, so that a long curve travels once: it answers {append: true, series}.
    const address = () => {
      const url = new URL(chartUrl, location.href);
      const xs = charts.get(figure)?.data.series.map(({ points }) => points?.at(-1)?.[0] ?? -Infinity) ?? [];
      const last = Math.max(-Infinity, ...xs);
      if (Number.isFinite(last)) url.searchParams.set('after', last);
      return url.pathname + url.search;
    };
    if (!chartSource) {
      try {
        const response = await fetch(address(), { headers: { Accept: 'application/json' }, credentials: 'same-origin' });
        if (!response.ok) throw new Error(`status ${response.status}`);
        receive(figure, await response.json());
      } catch (error) {
        console.warn('chart data failed', error);
        if (!liveInterval) { showFailure(figure); return; }
      }
    }
    if (!liveInterval) return;
    Portal.poll({
      url: address,
      intervalSeconds: Number(liveInterval),
      async onResponse(response) {
        if (!figure.isConnected) return false;
        const data = await response.json();
        receive(figure, data);
        return !data.is_complete;
      },
    });
  };

  const startAll = (scope) => {
    for (const [figure, { chart }] of charts) if (!figure.isConnected) { chart.dispose(); charts.delete(figure); }
    for (const figure of scope.querySelectorAll('[data-chart]')) {
      if (figure.dataset.chartStarted !== undefined) continue;
      figure.dataset.chartStarted = '';
      start(figure).catch((error) => { console.error(error); showFailure(figure); });
    }
  };

  Portal.charts = { append, setData };
  startAll(document);
  for (const name of ['htmx:afterSettle', 'portal:swapped']) document.addEventListener(name, (event) => startAll(event.target));
  const redrawAll = () => { for (const figure of charts.keys()) draw(figure); };
  document.addEventListener('portal:theme', redrawAll);
  window.addEventListener('beforeprint', redrawAll);
})();
