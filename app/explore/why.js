// Why?: the score by blocks, sentence pairs and tokens, and against another hit. Numbers come from
// app/explore/why.py; here they are drawn.
const LETTERS = { text: 'T', template: 'M', rationale: 'R' };
const GROUPS = { text: 'Text', template: 'Markup', rationale: 'Rationale' };
const BOOKED =
  'A token’s state belongs to its place and has read all that stands before it. So this says where the ' +
  'score is booked, not which words cause it.';
const ABOVE =
  'Every document shares a large common part with any query. It is taken off here, the same for every ' +
  'token, so that what is left adds up to how far this score lies above the average document’s.';
const RAW = 'As it is: with the part that every document shares with any query.';
const coded = (sentences) => {
  const seen = {};
  return sentences.map((one) => ({
    ...one,
    code: one.part === 'template' ? 'M' : LETTERS[one.part] + (seen[one.part] = (seen[one.part] || 0) + 1),
  }));
};

const paintBlocks = (svg, width, columns) => {
  const kinds = [...new Set(columns.flatMap(({ blocks }) => Object.keys(blocks)))];
  const total = (blocks, sign) =>
    Object.values(blocks).reduce((sum, value) => sum + Math.max(0, sign * value), 0);
  const low = Math.max(...columns.map(({ blocks }) => total(blocks, -1))),
    high = Math.max(...columns.map(({ blocks }) => total(blocks, 1)));
  const left = 26,
    right = width - 12,
    across = (value) => left + 4 + ((right - left - 4) * (value + low)) / (low + high || 1);
  const parts = [];
  columns.forEach(({ blocks }, i) => {
    const y = 4 + i * 52,
      ends = { 1: 0, '-1': 0 };
    let score = 0;
    parts.push(draw('text', { class: `g-ink g-side-${'ab'[i]}`, x: 2, y: y + 19 }, 'AB'[i]));
    kinds
      .filter((kind) => kind in blocks)
      .forEach((kind) => {
        const value = blocks[kind],
          sign = value < 0 ? -1 : 1,
          from = ends[sign];
        ends[sign] += value;
        score += value;
        const [x, end] = [across(from), across(ends[sign])].sort((a, b) => a - b);
        const bar = draw('rect', {
          class: `g-fill-${kindOf(kind)}`,
          x,
          y,
          width: Math.max(0, end - x),
          height: 28,
        });
        bar.append(draw('title', {}, `${kind}: ${signed(value, 6)}`));
        parts.push(bar);
        if (end - x > kind.length * 6.6 + 12)
          parts.push(
            draw('text', { class: 'g-on-bar', x: (x + end) / 2, y: y + 18, 'text-anchor': 'middle' }, kind),
          );
      });
    const at = across(score);
    parts.push(draw('line', { class: 'g-score-mark', x1: at, x2: at, y1: y - 3, y2: y + 33 }));
    parts.push(
      draw(
        'text',
        {
          class: 'g-tick',
          x: at < 60 ? 0 : Math.min(at, right - 4),
          y: y + 44,
          'text-anchor': at > width - 90 ? 'end' : at < 60 ? 'start' : 'middle',
        },
        `score ${score.toFixed(4)}`,
      ),
    );
  });
  parts.push(
    draw('line', { class: 'g-zero', x1: across(0), x2: across(0), y1: 0, y2: columns.length * 52 - 14 }),
  );
  sized(svg, width, columns.length * 52, parts);
};
const KINDS = [
  'text × text',
  'text × rationale',
  'rationale × text',
  'rationale × rationale',
  'template',
  'terms',
  'whole',
  'average document',
];
const kindOf = (kind) => (KINDS.includes(kind) ? KINDS.indexOf(kind) : KINDS.length);
const drawBlocks = (open) => {
  const node = figure('blocks', 'What each score is made of', '', (svg, width) =>
    paintBlocks(svg, width, columnsOf(open)),
  );
  open.querySelector('.g-draw-blocks').replaceChildren(node);
};

// The heat map: rows are the query's sentences, columns the document's.
const heatMap = (data, mode, pointed) => {
  const query = coded(data.query),
    document_ = coded(data.sentences);
  let at = null,
    painted = null;
  const readout = make('p', 'g-readout');
  readout.setAttribute('aria-live', 'polite');
  const rest =
    'Point at a cell, or move with the arrow keys: a cell counts all pairs of a token of the query’s ' +
    'sentence and a token of the document’s.';
  const tell = () => {
    if (!at) {
      readout.textContent = rest;
      return;
    }
    const [i, j] = at,
      a = query[i],
      b = document_[j],
      value = data[mode()][i][j];
    const whole = mode() === 'raw' ? data.score : data.score - data.average;
    readout.replaceChildren(
      make('b', '', signed(value, 5)),
      ` · ${((100 * value) / whole).toFixed(1).replace('-', '−')} % of ` +
        `${mode() === 'raw' ? 'the score' : 'what is above the average'} · `,
      `${a.code} of the query “${cut(a.text, 90)}” × ${b.code} of the document “${cut(b.text, 110)}” · ` +
        `${(a.end - a.begin) * (b.end - b.begin)} token pairs`,
    );
  };
  const point = (now) => {
    at = now;
    if (painted) painted();
    tell();
    pointed(now ? document_[now[1]] : null);
  };
  const node = figure('heat-map', 'Sentence by sentence', '', (svg, width) => {
    const values = data[mode()],
      most = largest(values),
      n = document_.length;
    const gutter = Math.min(300, Math.max(40, width * 0.3)),
      top = 40,
      tall = 28;
    const wide = Math.min(76, Math.max(16, (width - gutter) / n));
    const full = Math.max(width, gutter + wide * n);
    const parts = [];
    let start = 0;
    document_.forEach((one, j) => {
      if (j + 1 === n || document_[j + 1].part !== one.part) {
        const room = (j + 1 - start) * wide;
        parts.push(
          draw(
            'text',
            { class: 'g-tick', x: gutter + start * wide + 2, y: 12 },
            fit(room < 60 ? GROUPS[one.part].slice(0, Math.floor(room / 7)) : GROUPS[one.part], room + 6),
          ),
        );
        parts.push(
          draw('line', {
            class: 'g-zero',
            x1: gutter + start * wide + 1,
            x2: gutter + (j + 1) * wide - 2,
            y1: 18.5,
            y2: 18.5,
          }),
        );
        start = j + 1;
      }
      parts.push(
        draw(
          'text',
          { class: 'g-tick', x: gutter + (j + 0.5) * wide, y: 33, 'text-anchor': 'middle' },
          one.code,
        ),
      );
    });
    query.forEach((one, i) => {
      const y = top + i * tall;
      const label = draw(
        'text',
        { class: 'g-ink', x: 0, y: y + 18 },
        gutter < 90 ? one.code : fit(`${one.code}  ${one.text}`, gutter - 12),
      );
      label.append(draw('title', {}, one.text));
      parts.push(label);
      document_.forEach((_, j) => {
        const value = values[i][j];
        const cell = draw('rect', {
          class: value < 0 ? 'g-minus g-cell' : 'g-plus g-cell',
          x: gutter + j * wide,
          y,
          width: wide - 2,
          height: tall - 2,
          rx: 2,
          'fill-opacity': (Math.abs(value) / most).toFixed(3),
          'data-i': i,
          'data-j': j,
        });
        parts.push(
          draw('rect', {
            class: 'g-cell-ground',
            x: gutter + j * wide,
            y,
            width: wide - 2,
            height: tall - 2,
            rx: 2,
          }),
          cell,
        );
        if (wide >= 44)
          parts.push(
            draw(
              'text',
              {
                class: Math.abs(value) / most > 0.62 ? 'g-number g-number-on' : 'g-number',
                x: gutter + (j + 0.5) * wide - 1,
                y: y + 17,
                'text-anchor': 'middle',
              },
              tiny(value),
            ),
          );
      });
    });
    const ring = draw('rect', {
      class: 'g-ring-cell',
      width: wide - 2,
      height: tall - 2,
      rx: 2,
      visibility: 'hidden',
    });
    parts.push(ring);
    svg.style.width = `${full}px`;
    sized(svg, full, top + query.length * tall + 2, parts);
    painted = () => {
      ring.setAttribute('visibility', at ? 'visible' : 'hidden');
      if (at) {
        ring.setAttribute('x', gutter + at[1] * wide);
        ring.setAttribute('y', top + at[0] * tall);
      }
    };
    painted();
  });
  const plot = node.querySelector('.g-drawing');
  plot.tabIndex = 0;
  plot.setAttribute('role', 'group');
  plot.setAttribute(
    'aria-label',
    `Heat map of ${query.length} query sentences by ${document_.length} document sentences; the arrow ` +
      'keys move between cells',
  );
  plot.addEventListener('pointerover', (event) => {
    const cell = event.target.closest('.g-cell');
    if (cell) point([Number(cell.dataset.i), Number(cell.dataset.j)]);
  });
  plot.addEventListener('pointerleave', () => point(null));
  plot.addEventListener('focus', () => {
    if (plot.matches(':focus-visible') && !at) point([0, 0]);
  });
  plot.addEventListener('blur', () => point(null));
  plot.addEventListener('keydown', (event) => {
    const way = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!way) return;
    event.preventDefault();
    const [i, j] = at || [0, 0],
      hold = (value, size) => Math.min(size - 1, Math.max(0, value));
    point([hold(i + way[0], query.length), hold(j + way[1], document_.length)]);
    const cell = plot.querySelector(`[data-i="${at[0]}"][data-j="${at[1]}"]`).getBoundingClientRect(),
      box = plot.getBoundingClientRect();
    if (cell.right > box.right || cell.left < box.left)
      plot.scrollLeft += cell.left - box.left - box.width / 2;
  });
  node.append(readout);
  tell();
  return { node, tell };
};

// The document's tokens on the shade of what each contributes; under negative ones there is a dotted line
// besides.
const tokenView = (data, mode) => {
  const node = make('section', 'g-tokens'),
    readout = make('p', 'g-readout'),
    legend = make('p', 'g-scale-legend'),
    spans = [];
  readout.setAttribute('aria-live', 'polite');
  const rest = 'Point at a token, or move with the arrow keys.';
  const box = make('div', 'g-token-box');
  box.tabIndex = 0;
  box.setAttribute('role', 'group');
  box.setAttribute('aria-label', 'The document’s tokens by contribution; the arrow keys move between them');
  ['text', 'template', 'rationale'].forEach((part) => {
    if (!data.parts.includes(part)) return;
    const line = make('div', `g-token-part g-token-${part}`),
      words = make('p');
    words.dir = 'auto';
    data.parts.forEach((own, i) => {
      if (own !== part) return;
      const span = make('span', 'g-token', data.tokens[i]);
      span.dataset.token = i;
      spans[i] = span;
      words.append(span);
    });
    line.append(make('div', 'g-label', part === 'template' ? 'Markup between them' : GROUPS[part]), words);
    box.append(line);
  });
  let at = -1;
  const values = () => (mode() === 'raw' ? data.tokens_raw : data.tokens_above);
  const tell = () => {
    spans.forEach((span, i) => span.classList.toggle('g-token-at', i === at));
    if (at < 0) {
      readout.textContent = rest;
      return;
    }
    readout.replaceChildren(
      make('b', '', signed(values()[at], 5)),
      ` · “${data.tokens[at].trim() || '␣'}” in the document’s ${data.parts[at]} · over all tokens of ` +
        'the query',
    );
  };
  const paint = () => {
    const most = largest(values());
    spans.forEach((span, i) => {
      span.classList.toggle('g-token-minus', values()[i] < 0);
      span.style.setProperty('--w', ((100 * Math.abs(values()[i])) / most).toFixed(1));
    });
    const end = (kind, label) => {
      const one = make('span', kind, label);
      one.style.setProperty('--w', 100);
      return one;
    };
    legend.replaceChildren(
      end('g-token g-token-minus', signed(-most)),
      make('span', '', ' lowers the score (dotted line) · no shade: 0 · raises it '),
      end('g-token', signed(most)),
    );
    tell();
  };
  const select = (event) => {
    const span = event.target.closest('.g-token');
    if (span) {
      at = Number(span.dataset.token);
      tell();
    }
  };
  box.addEventListener('pointerover', select);
  box.addEventListener('pointerleave', () => {
    at = -1;
    tell();
  });
  box.addEventListener('focus', () => {
    if (box.matches(':focus-visible') && at < 0) {
      at = 0;
      tell();
    }
  });
  box.addEventListener('blur', () => {
    at = -1;
    tell();
  });
  box.addEventListener('keydown', (event) => {
    const way = { ArrowLeft: -1, ArrowUp: -10, ArrowRight: 1, ArrowDown: 10, Home: -1e6, End: 1e6 }[
      event.key
    ];
    if (!way) return;
    event.preventDefault();
    at = Math.min(spans.length - 1, Math.max(0, at + way));
    tell();
    spans[at].scrollIntoView({ block: 'nearest' });
  });
  node.append(make('h3', '', 'Token by token'), legend, box, readout, make('p', 'g-words', BOOKED));
  paint();
  const light = (sentence) =>
    spans.forEach((span, i) =>
      span.classList.toggle('g-token-lit', !!sentence && i >= sentence.begin && i < sentence.end),
    );
  return { node, paint, light };
};

// What sets the document apart from another hit.
const comparison = (data) => {
  const node = make('div', 'g-comparison');
  if (!data.against) return node;
  const { against } = data,
    rows = (list) =>
      coded(list).map((one) => ({
        label: `${one.code}  ${one.text}`,
        note: one.text,
        value: one.contribution,
      }));
  const blocks = Object.entries(against.blocks)
    .filter(([, value]) => value !== 0)
    .map(([label, value]) => ({ label, value }));
  const line = make('p', 'g-sum');
  line.append(
    '“',
    make('span', '', data.document.title),
    '” less “',
    make('span', '', against.title),
    '”: ',
    make('b', '', signed(against.score)),
    ` · the parts add up to ${signed(against.sum)} · residual ${Math.abs(against.residual).toExponential(0)}`,
  );
  node.append(
    line,
    figure('difference-blocks', 'The difference by blocks', '', (svg, width) => bars(svg, width, blocks)),
  );
  if (against.query_sentences.length) {
    node.append(
      figure('difference-query', 'The difference by the query’s sentences', '', (svg, width) =>
        bars(svg, width, rows(against.query_sentences)),
      ),
    );
  }
  const pair = make('div', 'g-pair');
  pair.append(
    figure('difference-this', 'This document’s sentences', '', (svg, width) =>
      bars(svg, width, rows(against.first)),
    ),
    figure('difference-other', 'The other one’s', '', (svg, width) => bars(svg, width, rows(against.second))),
  );
  node.append(
    pair,
    make(
      'p',
      'g-words',
      'Bars to the right speak for this document, bars to the left for the other one; the first two ' +
        'drawings each add up to the difference of the scores. The two documents share no sentence, so ' +
        'the last two show what each one’s own sentences add to its own score.',
    ),
  );
  return node;
};

let whyTicket = 0;
const openWhy = async (open, side, against) => {
  const slot = open.querySelector('#g-panel-why .g-slot'),
    ticket = (whyTicket += 1);
  if (!slot.firstChild)
    slot.append(
      columnChoice(open, side, (value) => openWhy(open, value, open.dataset.vs)),
      make('div', 'g-why-body'),
    );
  stands(open, { why: side, vs: against });
  const body = slot.querySelector('.g-why-body');
  if (!body.firstChild) body.append(make('p', 'g-working', 'Reading the query and the document …'));
  body.setAttribute('aria-busy', 'true');
  const data = await question('why', open, { side, against: against || '' });
  if (ticket !== whyTicket || !open.isConnected) return;
  body.removeAttribute('aria-busy');
  open.graceWhy = data;
  if (data.error) {
    body.replaceChildren(notice('error', data.error));
    return;
  }
  const held =
    body.contains(document.activeElement) && document.activeElement.classList.contains('g-against');
  if (data.ledger) showLedger(open, body, data);
  else showWhy(open, body, data);
  if (held) body.querySelector('.g-against').focus({ preventScroll: true });
};

let whyMode = 'above';
const showWhy = (open, body, data) => {
  const mode = () => whyMode,
    words = make('p', 'g-words'),
    line = make('p', 'g-sum');
  line.append(
    'score ',
    make('b', '', data.score.toFixed(4)),
    ` = ${data.average.toFixed(4)} of the average document ${signed(data.score - data.average)} above it · `,
    `all parts add up to ${data.sum.toFixed(4)} · largest residual ${data.largest_residual.toExponential(0)}`,
  );
  const tokens = tokenView(data, mode),
    map = heatMap(data, mode, tokens.light);
  const explain = () => {
    words.textContent = `${whyMode === 'raw' ? RAW : ABOVE} ${BOOKED}`;
  };
  const modes = choice(
    'Shown',
    [
      { value: 'above', label: 'Above the average document' },
      { value: 'raw', label: 'As it is' },
    ],
    whyMode,
    (value) => {
      whyMode = value;
      map.node.graceDraw();
      map.tell();
      tokens.paint();
      explain();
    },
  );
  explain();
  const label = againstChoice(open, data);
  const foot = make('div', 'g-foot');
  foot.append(button('All numbers (JSON)', 'g-save-json', () => saveNumbers(data, 'why')));
  const apart = make('section');
  apart.append(make('h3', '', 'Why above another one?'), label, comparison(data));
  body.replaceChildren(line, modes, map.node, words, tokens.node, apart, foot);
  redraw(body);
};
