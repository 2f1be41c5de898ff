// Beside and below the maps: the legend, what changed, the opened document, found and selected documents, and
// maps that are being computed.
const panel = root.querySelector('.g-map-panel');
const press = (label, kind, pressed) => {
  const button = make('button', kind, label);
  button.type = 'button';
  button.addEventListener('click', pressed);
  return button;
};
const number = (value) =>
  Math.abs(value) >= 1e5 ? value.toLocaleString('en') : String(Number(value.toPrecision(4)));
const showKinds = () =>
  shownCharts().forEach((chart) =>
    after(chart, () =>
      window.Plotly.restyle(chart.gd, { visible: chart.groups.map((group) => !hidden.has(group.code)) }),
    ),
  );
const drawLegend = () => {
  const box = root.querySelector('.g-map-legend');
  box.replaceChildren();
  if (!colours) return;
  box.append(
    make('span', 'g-quiet g-map-legend-title', colours.title + (colours.note ? ` (${colours.note})` : '')),
  );
  const entry = (code, label, tone, count) => {
    const key = press('', 'g-map-key', () => {
      if (hidden.has(code)) hidden.delete(code);
      else hidden.add(code);
      key.setAttribute('aria-pressed', String(!hidden.has(code)));
      showKinds();
    });
    key.setAttribute('aria-pressed', String(!hidden.has(code)));
    key.title = 'Click: hide or show';
    const swatch = make('span', 'g-swatch');
    swatch.style.background = tone < 0 ? 'var(--tone-rest)' : `var(--tone-${tone % TONES})`;
    key.append(swatch, make('span', '', label), make('span', 'g-quiet', count.toLocaleString('en')));
    return key;
  };
  if (colours.labels) {
    box.append(
      ...colours.labels.map((label, code) => entry(code, label, colours.tones[code], colours.counts[code])),
    );
    const none = data.documents - colours.counts.reduce((sum, count) => sum + count, 0);
    if (none) box.append(entry(colours.labels.length, 'none', -1, none));
    if (colours.labels.length > 2)
      box.append(
        press(hidden.size ? 'All' : 'None', 'g-map-all g-linklike', () => {
          const all = colours.labels.map((_, code) => code);
          if (hidden.size) hidden.clear();
          else all.forEach((code) => hidden.add(code));
          drawLegend();
          showKinds();
        }),
      );
    return;
  }
  const bar = make('span', 'g-map-ramp');
  bar.style.background = `linear-gradient(90deg, ${ramp().join(', ')})`;
  box.append(
    make('span', '', (colours.clipped[0] ? '≤ ' : '') + number(colours.low)),
    bar,
    make('span', '', (colours.clipped[1] ? '≥ ' : '') + number(colours.high)),
  );
  if (colours.missing) box.append(entry(1, 'none', -1, colours.missing));
};

const METHODS = {
  preview: 'PCA preview, not a map yet',
  pca: 'PCA',
  umap: 'UMAP',
  disc: 'all vectors are equal',
};
const titles = () =>
  charts.forEach((chart, i) => {
    const side = data && data.sides[i];
    chart.box.hidden = !side;
    if (!side) return;
    chart.box.querySelector('.g-map-title').textContent =
      glided && i === 0 ? `${side.label} → ${data.sides[1].label}` : side.label;
    const trust =
      typeof side.trustworthiness === 'number' ? ` · trustworthiness ${side.trustworthiness.toFixed(3)}` : '';
    const method = chart.box.querySelector('.g-map-method');
    method.textContent = (METHODS[side.method] || side.method.toUpperCase().slice(0, 40)) + trust;
    method.title = trust
      ? 'How far neighbours on the map are neighbours in the full space, too: 1 is best, 0.5 is chance ' +
        '(over 15 neighbours)'
      : '';
  });

// What changed between the columns; asked for after the points are there, as every pair of documents is
// compared.
let changes = '';
const compare = async () => {
  changes = '';
  panel.replaceChildren(
    make(
      'p',
      'g-quiet',
      data.one
        ? ''
        : 'Comparing neighbours in the full ' +
            `space${data.documents > 20000 ? '; this takes some minutes' : ''} …`,
    ),
  );
  const answer = await ask('map_change');
  if (!answer) return;
  changes = answer.html;
  known = new Map(); // what is told of a document says what it kept
  rest();
};
// Without an opened document: what was found, what is near the query, and what changed.
const rest = () => {
  if (card) return;
  fill(panel, (view.find ? foundHtml : '') + (star ? starHtml : '') + changes);
  const all = panel.querySelector('[data-do=select-found]');
  if (all) all.addEventListener('click', () => select(matches));
};

const open = async (which, from) => {
  forget('map_card');
  if (from) opener = from;
  const answer = await ask('map_card', which);
  if (!answer) return;
  card = answer;
  view.point = answer.id;
  sync();
  fill(panel, answer.html);
  panel.scrollTop = 0;
  overlays();
  if (from && from !== 'link') panel.querySelector('.g-close').focus({ preventScroll: true });
  if (from && getComputedStyle(root.querySelector('.g-map-body')).gridTemplateColumns.split(' ').length === 1)
    panel.scrollIntoView({ block: 'nearest' });
};
let opener = null;
const close = () => {
  forget('map_card');
  if (!card) return;
  const row = card.row;
  card = null;
  view.point = '';
  sync();
  rest();
  overlays();
  const again = panel.querySelector(`[data-row="${row}"]`);
  const back = opener instanceof HTMLElement && opener.isConnected ? opener : again || panel;
  opener = null;
  back.focus({ preventScroll: true });
};

let typing = 0;
const find = async (words) => {
  view.find = words.trim();
  sync();
  forget('map_find');
  if (!view.find) {
    matches = null;
    part('found').textContent = '';
    rest();
    emphasise();
    return;
  }
  const answer = await ask('map_find', { text: view.find });
  if (!answer) return;
  matches = decode(answer.rows, Uint32Array);
  part('found').textContent = `${matches.length.toLocaleString('en')} found`;
  foundHtml = answer.html;
  rest();
  await emphasise();
};
let foundHtml = '',
  starHtml = '';

const select = async (rows) => {
  selection = rows;
  const box = root.querySelector('.g-map-selection');
  forget('map_selection');
  const done = emphasise();
  if (!rows) {
    box.hidden = true;
    box.replaceChildren();
    say('Nothing is selected.');
    await done;
    return;
  }
  box.hidden = false;
  box.setAttribute('aria-busy', 'true');
  box.dataset.count = rows.length;
  if (!box.childElementCount) box.append(make('p', 'g-quiet', 'Reading the selection …'));
  const answer = await ask('map_selection', { rows: encode(rows) });
  await done;
  if (!answer) return;
  box.removeAttribute('aria-busy');
  fill(box, answer.html);
  say(`${rows.length} documents are selected.`);
};
const exportRows = async (kind) => {
  if (!selection) return;
  const answer = await ask('map_export', { rows: encode(selection), kind });
  if (!answer) return;
  const link = make('a');
  link.href = URL.createObjectURL(
    new Blob([answer.text], { type: kind === 'csv' ? 'text/csv' : 'application/json' }),
  );
  link.download = `grace-map-${view.corpus}-selection.${kind}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};

const placeStar = async (query) => {
  view.star = query.trim();
  star = null;
  forget('map_star');
  sync();
  overlays();
  rest();
  const form = root.querySelector('.g-map-star'),
    place = form.querySelector('button');
  const busy = (on) => {
    form.toggleAttribute('aria-busy', on);
    place.textContent = on ? 'Placing …' : 'Place';
  };
  busy(!!view.star);
  placeStar.last = (placeStar.last || 0) + 1;
  if (!view.star) return;
  const ticket = placeStar.last,
    answer = await ask('map_star');
  if (ticket === placeStar.last) busy(false);
  if (!answer) return;
  [star, starHtml] = [answer.sides, answer.html];
  overlays();
  rest();
  say(`The query is placed on the maps. Nearest: ${star[0].titles.slice(0, 3).join(', ')}.`);
};

// Maps that are computed: the page asks how far they are.
const job = root.querySelector('.g-map-job');
const stopping = (cancel) => {
  cancel.disabled = true;
  cancel.textContent = 'Cancelling …'; // a step of UMAP is not broken off
};
const showJob = (progress) => {
  const working = progress && progress.state === 'working';
  job.replaceChildren();
  if (working) {
    const share = progress.total ? progress.done / progress.total : 0;
    const cancel = press('Cancel', 'g-button', () => {
      stopping(cancel);
      ask('map_cancel');
    });
    if (progress.stopping) stopping(cancel);
    const line =
      `Computing ${progress.columns.length === 1 ? 'the map' : `${progress.columns.length} maps, aligned,`} ` +
      `with UMAP: ${progress.columns.join(', ')} · ${Math.round(100 * share)} % · ` +
      `${Math.round(progress.seconds)} s`;
    job.append(...progressLines(line, cancel, share));
    return;
  }
  if (!data) return;
  const lacking = data.sides.some(({ method }) => method === 'preview');
  if (progress && progress.message && progress.corpus === view.corpus)
    job.append(progress.state === 'failed' ? notice('error', progress.message) : remark(progress.message));
  if (lacking && data.enough) {
    const row = make('div', 'g-job-head');
    row.append(
      make(
        'span',
        '',
        'This is a preview by PCA, a straight projection. UMAP keeps neighbours together much better ' +
          'and takes ' +
          (data.documents > 20000 ? 'some minutes.' : 'less than a minute or two.'),
      ),
      press('Compute the maps', 'g-button g-primary', async () => {
        const begun = await ask('map_compute');
        if (begun) goOn(begun.job);
      }),
    );
    job.append(row);
  } else if (!data.aligned)
    job.append(
      remark(
        'These two maps were made apart: B was turned to lie on A as well as it can, but a place on ' +
          'one says nothing about the other.',
      ),
    );
};
const { follow, goOn, comeBack } = jobFollower('map_progress', job, {
  show: showJob,
  finish: async (progress) => {
    showJob(progress);
    await load({ ...view, colour: '' }, { keep: true });
    showJob(progress);
  },
});
