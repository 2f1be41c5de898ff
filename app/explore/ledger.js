// Why? of a column that is no model: its ledger. Every line adds up from the lines inside it. Numbers come
// from grace_core/columns/ledger.py; here they are drawn.
const LEDGER_WORDS = {
  bm25:
    'Each bar is a term of the query: how often it stands in the document, weighed by how rare it is in the ' +
    'corpus and by how long the document is.',
  fusion:
    'Each column’s score counts as standard deviations above this query’s mean over all documents, times its ' +
    'weight. So every line inside is the column’s own part, scaled; “average document” is what is taken off.',
  ranks:
    'Each column adds 1 / (60 + rank). A rank has no parts, so the column’s own score is opened beside it.',
  whole:
    'Tokens have no shares in this column’s vectors, so the exact part ends here. What a sentence does is ' +
    'tried under What if?, where each comes with the score without it.',
};
const TERM_COLUMNS = [
  ['times in the query', 'in the query'],
  ['frequency', 'in the document'],
  ['documents with it', 'documents with it'],
  ['idf', 'idf'],
];
const figureOf = (value) => (Number.isInteger(value) ? value.toLocaleString('en') : value.toFixed(3));

const termTable = (lines) => {
  const table = make('table'),
    head = make('tr'),
    { about } = lines[0];
  ['term', 'adds', ...TERM_COLUMNS.map(([, label]) => label)].forEach((label) =>
    head.append(make('th', '', label)),
  );
  table.append(make('thead'), make('tbody'));
  table.tHead.append(head);
  lines.forEach((line) => {
    const row = make('tr'),
      name = make('th', '', line.name);
    name.scope = 'row';
    row.append(name, make('td', '', signed(line.value)));
    TERM_COLUMNS.forEach(([key]) => row.append(make('td', '', figureOf(line.about[key]))));
    table.tBodies[0].append(row);
  });
  const box = make('div', 'g-blocks');
  box.append(
    table,
    make(
      'p',
      'g-words',
      `The document has ${figureOf(about.length)} terms, ${figureOf(about['average length'])} are usual; ` +
        `the corpus has ${figureOf(about.documents)} documents.`,
    ),
  );
  return box;
};

const tokenLine = (lines) => {
  const node = make('p', 'g-ledger-tokens'),
    most = largest(lines.map(({ value }) => value));
  node.dir = 'auto';
  lines.forEach((line) => {
    const span = make('span', line.value < 0 ? 'g-token g-token-minus' : 'g-token', line.name);
    span.style.setProperty('--w', ((100 * Math.abs(line.value)) / most).toFixed(1));
    span.title = signed(line.value, 6);
    node.append(span);
  });
  return node;
};

const aboutOf = (about) =>
  Object.entries(about || {})
    .map(([name, value]) => `${name} ${typeof value === 'number' ? figureOf(value) : value}`)
    .join(' · ');

const ledgerTree = (lines, depth) => {
  const list = make('ul', 'g-ledger');
  if (lines.length && lines.every(({ kind }) => kind === 'term')) list.append(termTable(lines));
  else
    lines.forEach((line) => {
      const item = make('li'),
        head = [
          make('b', line.value < 0 ? 'g-effect-minus' : 'g-effect-plus', signed(line.value)),
          make('span', 'g-ledger-name', line.name.trim() || '␣'),
        ];
      if (line.about && line.kind !== 'term') head.push(make('span', 'g-quiet', aboutOf(line.about)));
      const inside = line.parts || (line.opened && line.opened.lines);
      if (inside) {
        const box = make('details'),
          summary = make('summary');
        box.open = depth === 0;
        summary.append(...head);
        box.append(summary);
        if (line.opened)
          box.append(
            make(
              'p',
              'g-words',
              `Its own score ${line.opened.score.toFixed(4)} = ${line.opened.sum.toFixed(4)} of these:`,
            ),
          );
        const terms = inside.filter(({ kind }) => kind === 'term');
        const rest = inside.filter(({ kind }) => kind !== 'term');
        if (terms.length) box.append(ledgerTree(terms, depth + 1));
        if (rest.length && rest.every(({ kind }) => kind === 'token')) box.append(tokenLine(rest));
        else if (rest.length) box.append(ledgerTree(rest, depth + 1));
        item.append(box);
      } else item.append(...head);
      list.append(item);
    });
  return list;
};

const ledgerView = (ledger) => {
  const node = make('section'),
    line = make('p', 'g-sum');
  line.append(
    'score ',
    make('b', '', ledger.score.toFixed(4)),
    ` · rank ${ledger.rank} · all parts add up to ${ledger.sum.toFixed(4)} · largest residual `,
    ledger.largest_residual.toExponential(0),
  );
  node.append(line);
  const totals = Object.entries(ledger.totals).map(([label, value]) => ({ label, value }));
  if (totals.length > 1)
    node.append(figure('totals', 'The score by what it is of', '', (svg, width) => bars(svg, width, totals)));
  const rows = ledger.lines.map(({ name, value }) => ({ label: name, value }));
  if (rows.length > 1 || ledger.lines.some(({ kind }) => kind === 'term'))
    node.append(
      figure('ledger', rows.length > 1 ? 'Its parts' : 'Its part', '', (svg, width) =>
        bars(svg, width, rows),
      ),
    );
  const { kind } = ledger.lines[0] || {};
  const words = { term: 'bm25', column: 'fusion', rank: 'ranks', whole: 'whole' }[kind];
  if (words) node.append(make('p', 'g-words', LEDGER_WORDS[words]));
  node.append(ledgerTree(ledger.lines, 0));
  ledger.notes.forEach((note) => node.append(make('p', 'g-note', note)));
  return node;
};

const againstChoice = (open, data) => {
  const label = make('label', 'g-compare'),
    list = make('select', 'g-against');
  list.append(
    new Option('no other document', ''),
    ...data.others.map(
      (one) => new Option(`${one.rank} · ${cut(one.title, 70)} · ${one.score.toFixed(4)}`, one.id),
    ),
  );
  if (data.against && ![...list.options].some((one) => one.value === data.against.id))
    list.append(new Option(cut(data.against.title, 70), data.against.id));
  list.value = data.against ? data.against.id : '';
  list.addEventListener('change', () => openWhy(open, data.side, list.value));
  label.append(make('span', '', 'Compare with '), list);
  return label;
};

// The difference of two ledgers, line by line where both have the line.
const apartOf = (data) => {
  const { ledger } = data,
    other = data.against.ledger,
    names = [...new Set([...ledger.lines, ...other.lines].map(({ name }) => name))];
  const value = (lines, name) => (lines.find((line) => line.name === name) || { value: 0 }).value;
  const rows = names.map((name) => ({
    label: name,
    value: value(ledger.lines, name) - value(other.lines, name),
  }));
  const node = make('div', 'g-comparison'),
    line = make('p', 'g-sum');
  line.append(
    '“',
    make('span', '', data.document.title),
    '” less “',
    make('span', '', data.against.title),
    '”: ',
    make('b', '', signed(ledger.score - other.score)),
  );
  node.append(
    line,
    figure('difference-lines', 'The difference by parts', '', (svg, width) => bars(svg, width, rows)),
  );
  return node;
};

const showLedger = (open, body, data) => {
  const foot = make('div', 'g-foot'),
    apart = make('section');
  foot.append(button('All numbers (JSON)', 'g-save-json', () => saveNumbers(data, 'why')));
  apart.append(make('h3', '', 'Why above another one?'), againstChoice(open, data));
  if (data.against) apart.append(apartOf(data));
  body.replaceChildren(ledgerView(data.ledger), apart, foot);
  redraw(body);
};
