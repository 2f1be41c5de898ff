// Draws the document of app/training/curves.py: small line charts in SVG, with one cursor for all of them.
// Texts are inserted as text, never as HTML. An update redraws existing charts in place, so that nothing jumps
// and the cursor stays.
const LEFT = 46,
  RIGHT = 10,
  TOP = 8,
  BOTTOM = 20,
  DOTS = 80;
const canvas = element.querySelector('.g-curves');
const charts = new Map();
let data = { charts: [] };
let cursor = null; // { key, step, x, y }: the chart under the pointer, the step, and the position of the box

const formatted = (value) => {
  if (value === null || value === undefined) return '–';
  const size = Math.abs(value);
  if (size >= 1e6 || (size && size < 5e-4)) return value.toExponential(1);
  return size >= 1e4 ? value.toFixed(0) : size >= 1 ? value.toPrecision(4) : value.toFixed(4);
};
const short = (value) => {
  const size = Math.abs(value);
  if (size && (size >= 1e6 || size < 1e-4)) return value.toExponential().replace('e+', 'e');
  return size >= 1e4 ? value / 1000 + 'k' : String(Number(value.toPrecision(6)));
};

const title = make('h3', 'g-section-title', 'Curves');
const legend = make('div', 'g-run-legend');
const noisy = make('p', 'g-note', 'Thin: every step. Bold: the mean over the steps around it.');
const grid = make('div', 'g-charts');
const box = make('div', 'g-tip');
box.setAttribute('role', 'status');
box.hidden = true;

const newChart = (key) => {
  const figure = make('figure', 'g-chart');
  figure.tabIndex = 0;
  figure.dataset.key = key;
  const caption = make('figcaption');
  const parts = {
    figure,
    title: make('b'),
    now: make('span', 'g-chart-now'),
    note: make('span', 'g-chart-note'),
    plot: make('div', 'g-plot'),
  };
  caption.append(parts.title, parts.now, parts.note);
  parts.svg = draw('svg', { 'aria-hidden': 'true' });
  parts.plot.append(parts.svg);
  figure.append(caption, parts.plot);
  figure.addEventListener('pointermove', (event) => {
    const chart = charts.get(key),
      bounds = parts.svg.getBoundingClientRect();
    const step = chart.back(event.clientX - bounds.left);
    point({ key, step: nearest(steps(chart.spec), step), x: event.clientX, y: event.clientY });
  });
  figure.addEventListener('pointerleave', () => point(null));
  figure.addEventListener('focus', () => {
    if (figure.matches(':focus-visible')) byKey(key, 0);
  });
  figure.addEventListener('blur', () => point(null));
  figure.addEventListener('keydown', (event) => {
    const way = { ArrowLeft: -1, ArrowRight: 1, Home: -1e9, End: 1e9 }[event.key];
    if (event.key === 'Escape') point(null);
    if (!way) return;
    event.preventDefault();
    byKey(key, way);
  });
  return parts;
};

const steps = (spec) => [...new Set(spec.lines.flatMap((line) => line.x))].sort((a, b) => a - b);
const nearest = (values, target) =>
  values.reduce(
    (best, value) => (Math.abs(value - target) < Math.abs(best - target) ? value : best),
    values[0],
  );
const byKey = (key, way) => {
  const chart = charts.get(key),
    all = steps(chart.spec);
  const from =
    cursor && cursor.key === key ? all.indexOf(nearest(all, cursor.step)) : way ? 0 : all.length - 1;
  const step = all[Math.min(all.length - 1, Math.max(0, from + way))];
  const bounds = chart.svg.getBoundingClientRect();
  point({ key, step, x: bounds.left + chart.across(step), y: bounds.top + 40 });
};

const update = () => {
  try {
    data = JSON.parse(props.value || '{}');
  } catch {
    data = {};
  }
  data.charts = data.charts || [];
  const open = data.charts.length > 0,
    means = data.charts.some((spec) => spec.lines.some((line) => line.mean));
  canvas.replaceChildren(
    ...(open ? [title, ...(data.runs.length > 1 ? [legend] : []), ...(means ? [noisy] : []), grid, box] : []),
  );
  legend.replaceChildren(
    ...(data.runs || []).map((run) => {
      const entry = make('span', `g-run-${run.place}`);
      entry.append(make('span', 'g-swatch'), make('span', '', run.name));
      return entry;
    }),
  );
  const keys = new Set(data.charts.map((spec) => spec.key));
  [...charts.keys()]
    .filter((key) => !keys.has(key))
    .forEach((key) => {
      charts.get(key).figure.remove();
      charts.delete(key);
    });
  data.charts.forEach((spec, place) => {
    if (!charts.has(spec.key)) charts.set(spec.key, newChart(spec.key));
    const chart = charts.get(spec.key);
    chart.spec = spec;
    if (grid.children[place] !== chart.figure) grid.insertBefore(chart.figure, grid.children[place] || null);
    chart.figure.classList.toggle('g-chart-wide', spec.wide);
    chart.title.textContent = spec.title;
    chart.note.textContent = chart.note.title = spec.note;
    const last = (line) => line.y.reduce((latest, value) => (value === null ? latest : value), null);
    chart.now.textContent = spec.lines.length === 1 ? formatted(last(spec.lines[0])) : '';
    const descriptions = spec.lines.map(
      (line) => `${line.name}: ${formatted(last(line))} at step ${line.x[line.x.length - 1]}`,
    );
    chart.figure.setAttribute('aria-label', `${spec.title}. ${descriptions.join('; ')}`);
    chart.figure.setAttribute('role', 'group');
  });
  drawAll();
};

const drawAll = () => {
  charts.forEach(drawChart);
  if (cursor && !charts.has(cursor.key)) cursor = null;
  point(cursor);
};

const path = (chart, steps, values) => {
  let commands = '',
    pen = false;
  steps.forEach((step, i) => {
    if (values[i] !== null)
      commands += `${pen ? 'L' : 'M'}${chart.across(step).toFixed(1)} ${chart.up(values[i]).toFixed(1)}`;
    pen = values[i] !== null;
  });
  return commands;
};

const drawChart = (chart) => {
  const { spec, svg, plot } = chart;
  const width = plot.clientWidth,
    height = plot.clientHeight;
  if (!width || !height) return;
  const right = width - RIGHT,
    bottom = height - BOTTOM;
  chart.across = (step) => LEFT + ((right - LEFT) * step) / data.reach;
  chart.back = (x) => ((x - LEFT) / (right - LEFT)) * data.reach;
  chart.up = (value) => bottom - ((bottom - TOP) * (value - spec.low)) / (spec.high - spec.low);
  svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  const parts = [];
  spec.ticks.forEach((value) => {
    const y = chart.up(value);
    parts.push(draw('line', { class: 'g-grid', x1: LEFT, x2: right, y1: y, y2: y }));
    parts.push(draw('text', { class: 'g-tick', x: LEFT - 7, y: y + 4, 'text-anchor': 'end' }, short(value)));
  });
  data.ticks.forEach((step) => {
    const x = chart.across(step);
    parts.push(
      draw(
        'text',
        { class: 'g-tick', x, y: height - 4, 'text-anchor': x > right - 12 ? 'end' : 'middle' },
        short(step),
      ),
    );
  });
  parts.push((chart.line = draw('line', { class: 'g-cursor', y1: TOP, y2: bottom, visibility: 'hidden' })));
  spec.lines.forEach((line) => {
    const group = draw('g', { class: `g-curve g-run-${line.place}` });
    if (typeof line.base === 'number') {
      const y = chart.up(line.base);
      group.append(draw('line', { class: 'g-base', x1: LEFT, x2: right, y1: y, y2: y }));
    }
    group.append(draw('path', { d: path(chart, line.x, line.y), class: line.mean ? 'g-noisy' : '' }));
    if (line.mean) group.append(draw('path', { d: path(chart, line.x, line.mean) }));
    const dotted = spec.wide ? line.x.length <= DOTS : line.x.length === 1;
    line.x.forEach((step, i) => {
      if (line.y[i] === null) return;
      const place = { cx: chart.across(step), cy: chart.up(line.y[i]) };
      if (step === line.best) group.append(draw('circle', { class: 'g-ring', r: 5.5, ...place }));
      if (dotted) group.append(draw('circle', { class: 'g-dot', r: 2.4, ...place }));
    });
    parts.push(group);
  });
  parts.push((chart.marks = draw('g', {})));
  svg.replaceChildren(...parts);
};

const point = (now) => {
  cursor = now;
  charts.forEach((chart) => {
    if (!chart.line) return;
    chart.marks.replaceChildren();
    chart.line.setAttribute('visibility', cursor ? 'visible' : 'hidden');
    if (cursor) ['x1', 'x2'].forEach((end) => chart.line.setAttribute(end, chart.across(cursor.step)));
  });
  box.hidden = !cursor;
  if (!cursor) return;
  const chart = charts.get(cursor.key);
  const rows = chart.spec.lines.map((line) => {
    const step = nearest(line.x, cursor.step),
      value = line.y[line.x.indexOf(step)];
    if (value !== null)
      chart.marks.append(
        draw('circle', {
          class: `g-mark-dot g-run-${line.place}`,
          r: 4,
          cx: chart.across(step),
          cy: chart.up(value),
        }),
      );
    const row = make('div', `g-tip-row g-run-${line.place}`);
    row.append(
      make('span', 'g-swatch'),
      make('span', 'g-tip-name', step === cursor.step ? line.name : `${line.name} (step ${step})`),
    );
    row.append(make('b', '', formatted(value)));
    return row;
  });
  box.replaceChildren(make('div', 'g-tip-step', `${chart.spec.title}, step ${cursor.step}`), ...rows);
  const { width, height } = box.getBoundingClientRect();
  box.style.left = `${Math.max(8, cursor.x + 16 + width > innerWidth - 8 ? cursor.x - 16 - width : cursor.x + 16)}px`;
  box.style.top = `${Math.min(innerHeight - height - 8, Math.max(8, cursor.y + 14))}px`;
};

addEventListener('scroll', () => point(null), { capture: true, passive: true });
let width = 0;
new ResizeObserver(() => {
  if (canvas.clientWidth && canvas.clientWidth !== width) {
    width = canvas.clientWidth;
    drawAll();
  }
}).observe(canvas);
watch('value', update);
update();
