// What the views of an opened document, and the Evaluate tab, are drawn with: choices, figures in SVG, and saving them.
const signed = (value, digits = 4) => {
  const size = Math.abs(value).toFixed(digits);
  return (Number(size) === 0 ? '±' : value > 0 ? '+' : '−') + size;
};
const tiny = (value) => signed(value, 3).replace('0.', '.');
const cut = (text, length) =>
  text.length <= length ? text : text.slice(0, Math.max(1, length - 1)).trimEnd() + '…';
const fit = (text, pixels, size = 6.4) => cut(text, Math.max(2, Math.floor(pixels / size)));
const largest = (values) => values.flat().reduce((most, value) => Math.max(most, Math.abs(value)), 0) || 1;

// One of several, as native radio buttons: the arrow keys come with them.
let groups = 0;
const choice = (legend, options, chosen, changed) => {
  const set = make('fieldset', 'g-choice'),
    name = `g-choice-${(groups += 1)}`;
  set.append(make('legend', '', legend));
  options.forEach(({ value, label, title }) => {
    const box = make('label'),
      input = make('input');
    Object.assign(input, { type: 'radio', name, value, checked: value === chosen });
    input.addEventListener('change', () => changed(value));
    box.append(input, make('span', '', label));
    if (title) box.title = title;
    set.append(box);
  });
  return set;
};
const button = (label, kind, pressed) => {
  const made = make('button', `g-button ${kind || ''}`.trim(), label);
  made.type = 'button';
  made.addEventListener('click', pressed);
  return made;
};

// A figure: its title, a drawing that follows its width, a line that is read out, and plain words. paint(svg,
// width) sets its height.
const figure = (name, title, words, paint) => {
  const made = make('figure', `g-figure g-figure-${name}`),
    head = make('figcaption'),
    plot = make('div', 'g-drawing');
  const svg = draw('svg', { role: 'img', 'aria-label': title });
  const save = make('span', 'g-save');
  ['SVG', 'PNG'].forEach((kind) => {
    const one = button(kind, 'g-tiny', () => saveDrawing(svg, kind.toLowerCase(), name));
    one.setAttribute('aria-label', `Save “${title}” as ${kind}`);
    save.append(one);
  });
  head.append(make('b', '', title), save);
  plot.append(svg);
  made.append(head, plot);
  if (words) made.append(make('p', 'g-words', words));
  made.graceDraw = () => {
    if (plot.clientWidth) paint(svg, plot.clientWidth, made);
  };
  return made;
};
const redraw = (root) =>
  root.querySelectorAll('.g-figure').forEach((one) => one.graceDraw && one.graceDraw());
const sized = (svg, width, height, parts) => {
  svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  svg.setAttribute('height', height);
  svg.replaceChildren(...parts);
};

// Bars to both sides of a line, one for each of rows [{ label, value, note }].
const bars = (svg, width, rows) => {
  const gutter = Math.min(width * 0.46, 430),
    room = 58,
    row = 24,
    most = largest(rows.map(({ value }) => value));
  const low = Math.min(0, ...rows.map(({ value }) => value)),
    high = Math.max(0, ...rows.map(({ value }) => value));
  const left = gutter + (low < 0 ? room : 6),
    right = width - (high > 0 ? room : 6);
  const across = (value) => left + ((right - left) * (value - low)) / (high - low || most);
  const parts = [
    draw('line', { class: 'g-zero', x1: across(0), x2: across(0), y1: 0, y2: rows.length * row }),
  ];
  rows.forEach(({ label, value, note }, i) => {
    const y = i * row,
      ends = [across(0), across(value)].sort((a, b) => a - b);
    const group = draw('g', { class: value < 0 ? 'g-minus' : 'g-plus' });
    group.append(draw('title', {}, `${note || label}: ${signed(value, 6)}`));
    group.append(draw('text', { class: 'g-ink', x: 0, y: y + 16 }, fit(label, gutter - 8)));
    group.append(
      draw('rect', {
        class: 'g-amount',
        x: ends[0],
        y: y + 5,
        width: Math.max(0.5, ends[1] - ends[0]),
        height: row - 10,
      }),
    );
    group.append(
      draw(
        'text',
        {
          class: 'g-tick',
          x: across(value) + (value < 0 ? -5 : 5),
          y: y + 16,
          'text-anchor': value < 0 ? 'end' : 'start',
        },
        signed(value),
      ),
    );
    parts.push(group);
  });
  sized(svg, width, rows.length * row + 2, parts);
};

// Saving. A drawing takes its colours from the page's style sheet, so they are written into the copy that
// leaves the page.
const KEPT = [
  'fill',
  'fill-opacity',
  'stroke',
  'stroke-width',
  'stroke-opacity',
  'stroke-dasharray',
  'opacity',
  'font-family',
  'font-size',
  'font-weight',
  'text-anchor',
  'visibility',
];
const standalone = (svg) => {
  const copy = svg.cloneNode(true),
    [, , width, height] = svg.getAttribute('viewBox').split(' ').map(Number);
  const originals = [svg, ...svg.querySelectorAll('*')],
    copies = [copy, ...copy.querySelectorAll('*')];
  originals.forEach((one, i) => {
    const style = getComputedStyle(one);
    copies[i].setAttribute(
      'style',
      KEPT.map((key) => `${key}:${style.getPropertyValue(key).replace(/"/g, "'")}`).join(';'),
    );
    copies[i].removeAttribute('class');
  });
  Object.entries({
    xmlns: 'http://www.w3.org/2000/svg',
    width: width + 24,
    height: height + 24,
    viewBox: `-12 -12 ${width + 24} ${height + 24}`,
  }).forEach(([key, value]) => copy.setAttribute(key, value));
  const page = document.querySelector('.g-dialog') || document.querySelector('.gradio-container');
  const ground = getComputedStyle(page).backgroundColor;
  copy.prepend(draw('rect', { x: -12, y: -12, width: width + 24, height: height + 24, fill: ground }));
  return { text: new XMLSerializer().serializeToString(copy), width: width + 24, height: height + 24 };
};
const hand = (blob, name) => {
  const link = make('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};
const fileName = (name, ending) => {
  const id = (document.querySelector('.g-overlay')?.dataset.doc || '').replace(/[^\w-]+/g, '-').slice(0, 40);
  return `${['grace', name, id].filter(Boolean).join('-')}.${ending}`;
};
const saveDrawing = (svg, kind, name) => {
  const made = standalone(svg),
    blob = new Blob([made.text], { type: 'image/svg+xml' });
  if (kind === 'svg') return hand(blob, fileName(name, 'svg'));
  const image = new Image(),
    address = URL.createObjectURL(blob);
  image.onload = () => {
    const canvas = make('canvas');
    [canvas.width, canvas.height] = [2 * made.width, 2 * made.height];
    canvas.getContext('2d').drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((png) => hand(png, fileName(name, 'png')));
    URL.revokeObjectURL(address);
  };
  image.src = address;
};
const saveNumbers = (data, name) =>
  hand(new Blob([JSON.stringify(data, null, 1)], { type: 'application/json' }), fileName(name, 'json'));

// The server's answer to a question of the opened document, or { error }.
const question = (name, open, data) =>
  answerOf(name, { view: open.dataset.view, doc: open.dataset.doc, ...data });
const columnsOf = (open) => JSON.parse(open.dataset.columns);
const columnChoice = (open, side, changed) => {
  const made = choice(
    'Column',
    columnsOf(open).map(({ label }, i) => ({ value: 'ab'[i], label: `${'AB'[i]} · ${label}` })),
    side,
    changed,
  );
  made.classList.add('g-columns-choice');
  return made;
};

// What stands open in the document, for the address, and its column as every choice of columns shows it.
const stands = (open, what) => {
  ['why', 'vs', 'whatif'].forEach((key) => {
    if (what[key]) open.dataset[key] = what[key];
    else delete open.dataset[key];
  });
  open.graceSide = what.why || what.whatif || open.graceSide;
  open.querySelectorAll('.g-columns-choice input').forEach((input) => {
    input.checked = input.value === open.graceSide;
  });
  window.graceSync();
};
