// Draws what app/evaluate/render_queries.py lays out: queries as bubbles, column A's nDCG@10 across and column
// B's upwards, or a histogram of one column. Tells when the tab comes into sight, and keeps the address in
// step while it is there. Every text goes in as text.
const LEFT = 78,
  RIGHT = 24,
  TOP = 24,
  BOTTOM = 68,
  AXIS = 30,
  SMALLEST = 3.4,
  LARGEST = 23,
  NUMBERED = 9.5,
  TOLD = 4,
  REACH = 14;
const canvas = element.querySelector('.g-eval-canvas');
let there = false,
  data = {},
  marks = [],
  at = -1;

const sync = () => {
  if (there && (data.keep || !data.view || !data.view.tab)) return;
  putInAddress('evaluate', there ? data.view : null);
};

const figure = make('figure', 'g-chart g-eval-figure'),
  caption = make('figcaption'),
  plot = make('div', 'g-eval-plot');
const note = make('span', 'g-chart-note'),
  heading = make('b');
const svg = draw('svg', { 'aria-hidden': 'true' });
const tip = make('div', 'g-tip g-eval-tip'),
  panel = make('div', 'g-eval-panel');
figure.tabIndex = 0;
figure.setAttribute('role', 'group');
tip.setAttribute('role', 'status');
panel.setAttribute('role', 'dialog');
panel.setAttribute('aria-label', 'Queries');
caption.append(heading, note);
plot.append(svg);
figure.append(caption, plot, panel, tip);
tip.hidden = panel.hidden = true;

const open = (query) => trigger('select', { query });
const value = (number) => number.toFixed(2);
const queries = (number) => `${number.toLocaleString('en')} ${number === 1 ? 'query' : 'queries'}`;
const placeOf = (mark) =>
  data.bars
    ? `${queries(mark.n)} with nDCG@10 from ${mark.low.toFixed(1)} to ` +
      `${mark.high === 1 ? '1' : `below ${mark.high.toFixed(1)}`}`
    : `A ${value(mark.x)}, B ${value(mark.y)}`;

const update = () => {
  let now;
  try {
    now = JSON.parse(props.value || '{}');
  } catch {
    now = {};
  }
  const first = !data.bubbles && !data.bars;
  data = now;
  if (there) sync();
  marks = data.bubbles || (data.bars || []).filter((bar) => bar.n);
  point(-1);
  close();
  if (!marks.length) {
    canvas.replaceChildren();
    return;
  }
  if (first || !figure.isConnected) canvas.replaceChildren(figure);
  const all = marks.reduce((sum, mark) => sum + mark.n, 0);
  heading.textContent = data.bars ? 'How nDCG@10 is spread' : 'Every query';
  note.textContent = data.bars
    ? `${queries(all)}; a bar opens its list`
    : 'A dot opens its query in Explore; a number counts queries.';
  note.title = note.textContent;
  figure.setAttribute(
    'aria-label',
    data.bars
      ? `Histogram of nDCG@10 of ${queries(all)}. Arrow keys go through the bars, Enter lists its queries.`
      : `nDCG@10 of ${queries(all)}, column A across and column B upwards. Arrow keys go from the ` +
          'biggest win of B to its biggest loss, Enter opens.',
  );
  figure.classList.toggle('g-eval-histogram', !!data.bars);
  render();
};

const render = () => {
  const width = plot.clientWidth,
    height = plot.clientHeight,
    left = data.bars ? 26 : LEFT,
    bottom = data.bars ? 52 : BOTTOM;
  if (!width || !height || !marks.length) return;
  svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  const across = (part) => left + (width - left - RIGHT) * part,
    up = (part) => height - bottom - (height - TOP - bottom) * part;
  svg.replaceChildren(
    ...(data.bars ? histogram(across, up) : scatter(across, up)),
    draw('g', { class: 'g-eval-ring' }),
  );
  point(at);
};

const label = (across, up, name, words) =>
  draw(
    'text',
    name === 'a'
      ? {
          class: `g-eval-axis g-eval-axis-${name}`,
          x: across(0.5),
          y: up(0) + (data.bars ? 42 : 60),
          'text-anchor': 'middle',
        }
      : {
          class: `g-eval-axis g-eval-axis-${name}`,
          transform: `translate(15 ${up(0.5)}) rotate(-90)`,
          'text-anchor': 'middle',
        },
    words,
  );

const scatter = (across, up) => {
  const parts = [0, 0.25, 0.5, 0.75, 1].flatMap((part) => [
    draw('line', { class: 'g-grid', x1: across(part), x2: across(part), y1: up(0), y2: up(1) }),
    draw('line', { class: 'g-grid', x1: across(0), x2: across(1), y1: up(part), y2: up(part) }),
    draw('text', { class: 'g-tick', x: across(part), y: up(0) + AXIS + 9, 'text-anchor': 'middle' }, part),
    draw('text', { class: 'g-tick', x: across(0) - AXIS, y: up(part) + 4, 'text-anchor': 'end' }, part),
  ]);
  parts.push(draw('line', { class: 'g-eval-diagonal', x1: across(0), y1: up(0), x2: across(1), y2: up(1) }));
  parts.push(
    draw('text', { class: 'g-eval-corner g-eval-corner-b', x: across(0.04), y: up(0.93) }, 'B better'),
  );
  parts.push(
    draw(
      'text',
      { class: 'g-eval-corner g-eval-corner-a', x: across(0.96), y: up(0.05), 'text-anchor': 'end' },
      'A better',
    ),
  );
  parts.push(
    label(across, up, 'a', `A · ${data.labels[0]}`),
    label(across, up, 'b', `B · ${data.labels[1]}`),
  );
  // By area while that fits; with many in one place less steeply, so that two are still told from one.
  const most = Math.max(...marks.map((mark) => mark.n)),
    power = Math.min(0.5, Math.log(LARGEST / SMALLEST) / Math.log(Math.max(2, most)));
  marks.forEach((mark) =>
    Object.assign(mark, { cx: across(mark.x), cy: up(mark.y), r: SMALLEST * mark.n ** power }),
  );
  [...marks]
    .sort((a, b) => b.n - a.n)
    .forEach((mark) => {
      parts.push(
        draw('circle', {
          class: `g-eval-dot g-eval-sign-${{ 1: 'b', 0: 'same', '-1': 'a' }[mark.sign]}`,
          cx: mark.cx,
          cy: mark.cy,
          r: mark.r,
        }),
      );
      if (mark.r >= NUMBERED)
        parts.push(
          draw(
            'text',
            { class: 'g-eval-count', x: mark.cx, y: mark.cy + 4, 'text-anchor': 'middle' },
            mark.n,
          ),
        );
    });
  return parts;
};

const histogram = (across, up) => {
  const most = Math.max(...marks.map((mark) => mark.n)),
    width = across(0.1) - across(0);
  const parts = [draw('line', { class: 'g-grid', x1: across(0), x2: across(1), y1: up(0), y2: up(0) })];
  [0, 0.2, 0.4, 0.6, 0.8, 1].forEach((part) =>
    parts.push(
      draw('text', { class: 'g-tick', x: across(part), y: up(0) + 18, 'text-anchor': 'middle' }, part),
    ),
  );
  parts.push(label(across, up, 'a', `nDCG@10 of ${data.labels[0]}`));
  marks.forEach((mark) => {
    const size = Math.max(2, ((up(0) - up(0.94)) * mark.n) / most),
      x = across(mark.low);
    Object.assign(mark, { cx: x + width / 2, cy: up(0) - size, r: width / 2, left: x, size });
    parts.push(
      draw('rect', { class: 'g-eval-bar', x: x + 2, width: width - 4, y: up(0) - size, height: size, rx: 2 }),
    );
    parts.push(
      draw(
        'text',
        { class: 'g-tick', x: x + width / 2, y: up(0) - size - 6, 'text-anchor': 'middle' },
        mark.n,
      ),
    );
  });
  return parts;
};

// The mark under the pointer: the smallest that holds it, else the nearest within reach.
const under = (event) => {
  const bounds = svg.getBoundingClientRect(),
    x = event.clientX - bounds.left,
    y = event.clientY - bounds.top;
  if (data.bars) return marks.findIndex((mark) => x >= mark.left && x < mark.left + 2 * mark.r);
  let best = -1,
    least = REACH;
  marks.forEach((mark, i) => {
    const far = Math.hypot(mark.cx - x, mark.cy - y),
      score = far <= mark.r ? -1000 + mark.r : far - mark.r;
    if (score < least) {
      least = score;
      best = i;
    }
  });
  return best;
};

const point = (now) => {
  at = now;
  const mark = marks[at],
    ring = svg.querySelector('.g-eval-ring');
  tip.hidden = !mark;
  if (ring) ring.replaceChildren();
  svg.classList.toggle('g-eval-pointed', !!mark);
  if (!mark || mark.cx === undefined) {
    tip.hidden = true;
    return;
  }
  if (data.bars)
    ring.append(
      draw('rect', { x: mark.left + 1, width: 2 * mark.r - 2, y: mark.cy - 1, height: mark.size + 1, rx: 2 }),
    );
  else ring.append(draw('circle', { cx: mark.cx, cy: mark.cy, r: mark.r + 2.5 }));
  const lines = [
    make(
      'div',
      'g-tip-step',
      mark.n > 1 && !data.bars ? `${queries(mark.n)} · ${placeOf(mark)}` : placeOf(mark),
    ),
  ];
  mark.queries.slice(0, TOLD).forEach(([, text]) => lines.push(make('div', 'g-eval-tip-query', text)));
  if (mark.n > TOLD) lines.push(make('div', 'g-quiet', `and ${(mark.n - TOLD).toLocaleString('en')} more`));
  tip.replaceChildren(...lines);
  const bounds = svg.getBoundingClientRect(),
    { width, height } = tip.getBoundingClientRect();
  const x = bounds.left + mark.cx,
    y = bounds.top + mark.cy,
    apart = (data.bars ? 8 : mark.r) + 10;
  tip.style.left = `${Math.max(8, x + apart + width > innerWidth - 8 ? Math.max(8, x - apart - width) : x + apart)}px`;
  tip.style.top = `${Math.min(innerHeight - height - 8, Math.max(8, y + 10))}px`;
};

const close = (focus) => {
  if (panel.hidden) return;
  panel.hidden = true;
  if (focus) figure.focus();
};

const list = (mark) => {
  const head = make('div', 'g-eval-panel-head'),
    shut = make('button', 'g-close', 'Close'),
    rows = make('div', 'g-eval-panel-list');
  shut.type = 'button';
  shut.append(make('kbd', '', 'Esc'));
  shut.addEventListener('click', () => close(true));
  head.append(make('b', '', data.bars ? placeOf(mark) : `${queries(mark.n)} · ${placeOf(mark)}`), shut);
  mark.queries.forEach(([id, text]) => {
    const row = make('button', 'g-probe', text);
    row.type = 'button';
    row.dir = 'auto';
    row.addEventListener('click', () => open(id));
    rows.append(row);
  });
  if (mark.n > mark.queries.length)
    rows.append(make('p', 'g-note', `and ${(mark.n - mark.queries.length).toLocaleString('en')} more`));
  panel.replaceChildren(head, rows);
  panel.hidden = false;
  point(-1);
  rows.firstChild.focus({ preventScroll: true });
};
const choose = (mark) => {
  if (!mark) close();
  else if (mark.n === 1 && !data.bars) open(mark.queries[0][0]);
  else list(mark);
};

svg.addEventListener('pointermove', (event) => point(under(event)));
svg.addEventListener('pointerleave', () => point(-1));
svg.addEventListener('click', (event) => choose(marks[under(event)]));
figure.addEventListener('focus', () => {
  if (figure.matches(':focus-visible') && panel.hidden) point(Math.max(at, 0));
});
figure.addEventListener('blur', () => point(-1));
figure.addEventListener('keydown', (event) => {
  if (event.key === 'Escape') {
    if (panel.hidden) point(-1);
    else close(true);
  }
  if (event.target !== figure) return;
  if (event.key === 'Enter' && marks[at]) {
    event.preventDefault();
    choose(marks[at]);
  }
  const way = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, Home: -1e9, End: 1e9 }[event.key];
  if (!way) return;
  event.preventDefault();
  point(Math.min(marks.length - 1, Math.max(0, at + way)));
});
addEventListener('scroll', () => point(-1), { capture: true, passive: true });

const parts = [
  '#g-eval-collection input',
  '#g-eval-a input',
  '#g-eval-b input',
  '#g-eval-split input',
  '#g-eval-first input',
  '#g-eval-scores',
  '#g-eval-cases',
  '#g-eval-job',
];
inSight((now) => {
  there = now;
  point(-1);
  if (there)
    setTimeout(() => {
      sync();
      whenDrawn(parts, () => there);
    }, 0); // after the tab that was left has taken its part out of the address
  else sync();
});
new ResizeObserver(() => {
  if (there) render();
}).observe(element); // another size
watch('value', update);
update();
