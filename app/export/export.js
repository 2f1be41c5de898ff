// Saves what is on the screen. The HTML file holds a copy of the page's own elements: without scripts, controls
// as the text that they show, drawings as they stand; a policy in the file forbids whatever else.
const row = element.querySelector('.g-export');
const said = row.querySelector('.g-saved');
const POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";
const GONE = 'script, style, link, meta, base, iframe, object, embed, form, noscript, template';
const LEFT_OUT =
  '.g-close, .g-save, .g-keep, .g-to-map, .g-panel-tabs, .g-tip, .g-map-banner, .g-map-controls, .g-map-tools, .g-map-job, ' +
  '.g-readout, .g-foot, .g-tools button, [data-do], [data-go], .g-map-all';
const LONGEST = 20000;

const size = (bytes) => (bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);
const download = (text, name, type) => {
  const blob = new Blob([text], { type });
  const link = make('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  return `${name}, ${size(blob.size)}`;
};
const named = (collection, kind) =>
  `grace-${collection.replace(/[^\w.-]+/g, '-').slice(0, 60)}-${new Date().toISOString().slice(0, 10)}.${kind}`;
const viewOf = () => {
  const shown = document.querySelector('#g-results .g-results');
  try {
    return shown ? JSON.parse(shown.dataset.view || '{}') : {};
  } catch {
    return {};
  }
};

// What a control shows, as text.
const still = (control, twin) => {
  const kind = control.tagName.toLowerCase();
  let made;
  if (kind === 'button') {
    made = make('span', twin.className);
    made.append(...twin.childNodes);
  } else if (kind === 'select') {
    const chosen = control.selectedOptions[0];
    made = make('span', 'g-typed', chosen ? chosen.textContent : '');
  } else if (kind === 'textarea') made = make('span', 'g-typed', control.value);
  else
    made = make(
      'span',
      'g-quiet',
      ['checkbox', 'radio'].includes(control.type) ? (control.checked ? '●' : '○') : control.value,
    );
  twin.replaceWith(made);
};
const HARMLESS = new Set([
  'dir',
  'lang',
  'class',
  'title',
  'role',
  'open',
  'scope',
  'colspan',
  'rowspan',
  'alt',
]);
const clean = (twin) => {
  [twin, ...twin.querySelectorAll('*')].forEach((one) => {
    [...one.attributes].forEach(({ name, value }) => {
      const drawn = one.namespaceURI === 'http://www.w3.org/2000/svg' && !/^(on|href|xlink)/i.test(name);
      const image = name === 'src' && one.tagName === 'IMG' && value.startsWith('data:image/png;base64,');
      const styled = name === 'style' && !/url|expression|@/i.test(value);
      const plain =
        HARMLESS.has(name) || name.startsWith('aria-label') || /^data-(state|side|kind)$/.test(name);
      if (!(drawn || image || styled || plain)) one.removeAttribute(name);
    });
  });
  return twin;
};
const copy = (node) => {
  const twin = node.cloneNode(true);
  const [mine, theirs] = [node, twin].map((one) => [...one.querySelectorAll('*')]);
  mine.forEach((one, i) => {
    if (one instanceof HTMLCanvasElement && one.width && one.height) {
      const image = make('img');
      image.src = one.toDataURL('image/png');
      theirs[i].replaceWith(image);
    }
    if (one.hidden && !one.matches('.g-panel')) theirs[i].remove();
    else if (one.matches('button, select, textarea, input') && !one.matches(LEFT_OUT)) still(one, theirs[i]);
  });
  twin.querySelectorAll(`${GONE}, ${LEFT_OUT}`).forEach((one) => one.remove());
  return clean(twin);
};
const section = (title, ...content) => {
  const made = make('section');
  made.append(make('h2', '', title), ...content);
  return made;
};

const hitsOf = (columns) => {
  const shown = copy(document.querySelector('#g-results .g-results'));
  ['a', 'b'].forEach((side, i) => {
    const cards = shown.querySelectorAll(`.g-column-${side} .g-hit`);
    (columns[i] ? columns[i].hits : []).forEach((hit, rank) => {
      if (!cards[rank]) return;
      const more = make('details');
      more.append(make('summary', '', hit.rationale === undefined ? 'Text' : 'Rationale and text'));
      if (hit.rationale !== undefined) more.append(make('p', 'g-rationale-said', hit.rationale || '(empty)'));
      const cut = hit.text.length > LONGEST ? `… and ${hit.text.length - LONGEST} more characters` : '';
      more.append(make('p', '', hit.text.slice(0, LONGEST) + cut));
      cards[rank].append(more);
    });
  });
  return section('Hits', shown);
};
const openedNow = () => {
  const open = document.querySelector('#g-detail .g-overlay');
  if (!open) return null;
  const twin = copy(open);
  const titles = ['Rationales', 'Why?', 'What if?'];
  twin.querySelectorAll('.g-panel').forEach((panel, i) => {
    if (panel.textContent.trim() || panel.querySelector('svg')) panel.prepend(make('h2', '', titles[i]));
    else panel.remove();
  });
  return section('The opened document', twin);
};
const mapNow = async () => {
  const root = document.querySelector('#g-map .g-map');
  const charts = root
    ? [...root.querySelectorAll('.g-map-canvas')].filter((gd) => gd.data && gd.data.length)
    : [];
  if (!charts.length || !window.Plotly) return null;
  const twin = copy(root);
  const twins = twin.querySelectorAll('.g-map-canvas');
  const all = [...root.querySelectorAll('.g-map-canvas')];
  for (const gd of charts) {
    const { width, height } = gd._fullLayout;
    const image = make('img', 'g-map-image');
    image.alt = 'a map of the documents';
    image.src = await window.Plotly.toImage(gd, { format: 'png', width, height, scale: 1.5 });
    twins[all.indexOf(gd)].replaceChildren(image);
  }
  return section('The map', twin);
};

// The theme's values of what the styles name.
const style = (css) => {
  const from = getComputedStyle(document.querySelector('.gradio-container') || document.body);
  const names = new Set(css.match(/--[\w-]+/g));
  const values = [...names]
    .map((name) => [name, from.getPropertyValue(name).trim()])
    .filter(([, value]) => value);
  const root = values.map(([name, value]) => `${name}: ${value};`).join(' ');
  const safe = (text) => text.replace(/</g, '\\3c ');
  return safe(`${css}\n:root { ${root} }\nbody { font-family: ${from.fontFamily}; }`);
};
// The whole file: a title, lines on what it is of, and sections.
const file = async (title, lines, sections) => {
  const { css } = await server.saved_style({});
  const saved = document.implementation.createHTMLDocument(`${title} · GRACE Explorer`);
  const meta = (attributes) => {
    const one = saved.createElement('meta');
    Object.entries(attributes).forEach(([name, value]) => one.setAttribute(name, value));
    return one;
  };
  saved.head.prepend(
    meta({ charset: 'utf-8' }),
    meta({ 'http-equiv': 'Content-Security-Policy', content: POLICY }),
  );
  saved.head.append(
    meta({ name: 'viewport', content: 'width=device-width, initial-scale=1' }),
    make('style', '', style(css)),
  );
  saved.documentElement.lang = 'en';
  const page = make('main', 'g-file');
  const head = make('header');
  const when = `Saved from GRACE Explorer, ${new Date().toLocaleString('en')}`;
  head.append(make('h1', '', title), ...[...lines, when].map((line) => make('p', '', line)));
  page.append(head, ...sections.filter(Boolean));
  const dark = document.body.classList.contains('dark');
  saved.body.className = dark ? 'dark gradio-container' : 'gradio-container';
  saved.body.append(page);
  return `<!doctype html>\n${saved.documentElement.outerHTML}\n`;
};
const HTML = 'text/html;charset=utf-8';

// One at a time. `report` is given what is to be read of it; `write` makes the file and gives its name and size.
let busy = false;
const saving = async (report, write) => {
  if (busy) return;
  busy = true;
  report('Saving …');
  try {
    report(`Saved ${await write()}`);
  } catch (error) {
    report(error.message);
  } finally {
    busy = false;
  }
};
const save = (kind, report) =>
  saving(report, async () => {
    const view = viewOf();
    if (!view.q) throw new Error('ask something first: there is nothing to save yet');
    if (document.querySelector('#g-results [data-busy]'))
      throw new Error('the search is still going on: save when it is done');
    const answer = await server.saved_hits({ view, kind });
    if (answer.error) throw new Error(answer.error);
    const name = named(view.collection, kind);
    if (kind === 'csv') return download(`\ufeff${answer.text}`, name, 'text/csv;charset=utf-8');
    if (kind === 'json') return download(answer.text, name, 'application/json');
    const labels = answer.hits.map(({ column, label }) => `${column.toUpperCase()}: ${label}`);
    const filter = view.where ? [`filter: ${view.where}`] : [];
    const sum = view.by === 'sum' ? ['a document ranks by the sum of its passages'] : [];
    const about = [view.collection, ...labels, ...filter, ...sum].join(' · ');
    const sections = [openedNow(), hitsOf(answer.hits), await mapNow()];
    return download(await file(view.q, [about], sections), name, HTML);
  });
// The Map tab's own button: the maps, and what stands beside and below them.
window.graceSaveMap = (corpus, lines, report) =>
  saving(report, async () => {
    const map = await mapNow();
    if (!map) throw new Error('the maps are not drawn yet: save when they are');
    return download(await file(`Map of ${corpus}`, lines, [map]), named(`${corpus}-map`, 'html'), HTML);
  });
const tell = (line) => {
  said.textContent = line;
};
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-save]');
  if (button) save(button.dataset.save, tell);
});

// The opened document lies over the page: it gets a button of its own.
const offer = () => {
  const close = document.querySelector('#g-detail .g-overlay .g-close');
  if (!close || close.parentElement.querySelector('.g-keep')) return;
  const button = make('button', 'g-button g-keep', 'Save as a file');
  button.type = 'button';
  button.addEventListener('click', () =>
    save('html', (line) => {
      tell(line);
      button.textContent = line;
    }),
  );
  close.after(button); // behind it for the keyboard, beside it for the eye
};
new MutationObserver(offer).observe(document.body, { childList: true, subtree: true });
offer();
