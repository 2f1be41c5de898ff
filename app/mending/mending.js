// The Mend tab: failing queries, why one fails, a document's rationale changed and tried, kept, and reverted. What is
// shown stands in `view`, as the address holds it; the server checks it anew with every question.
const KEYS = ['corpus', 'model', 'judged', 'queries', 'query', 'document'];
const root = element.querySelector('.g-mend');
const part = (name) => root.querySelector(`[data-part="${name}"]`);
const jobBox = root.querySelector('.g-mend-job');

const view = {};
let data = null; // what the server told when the tab was opened
let there = false,
  begun = false,
  ready = '', // the queries that were encoded, as `which` names them
  reading = null, // the reading of queries that goes on: { of, stopped, end }
  token = ''; // of what was tried and can be kept

const complain = (...messages) => errorsIn(root.querySelector('.g-mend-banner'), messages);
const { ask, forget } = questions((other = view) => ({ view: { ...other } }), complain);
// what the server made of texts with its own `tag`, which escapes
const fill = (name, html) => {
  part(name).innerHTML = html;
};

const sync = () => {
  const address = new URLSearchParams(location.search);
  if (!there && address.get('tab') !== 'mend') return;
  ['tab', ...KEYS].forEach((key) => address.delete(key));
  if (there) {
    address.set('tab', 'mend');
    KEYS.forEach((key) => view[key] && address.set(key, view[key]));
  }
  const query = address.toString();
  history.replaceState(history.state, '', location.pathname + (query ? '?' + query : ''));
};

const choices = (name, options, chosen) => {
  const box = root.querySelector(`select[data-set=${name}]`);
  box.replaceChildren(
    ...options.map(([value, label]) => {
      const option = make('option', '', label);
      option.value = value;
      return option;
    }),
  );
  box.value = chosen;
  box.disabled = !options.length;
};

const which = () => [view.corpus, view.model, view.judged, view.queries].join('\n');
// The judged queries are encoded a few at a time; what waits for them goes on if all were. Several may wait for one reading.
const encoded = () => {
  if (ready === which()) return Promise.resolve(true);
  if (!reading || reading.of !== which()) {
    stopReading();
    reading = { of: which(), stopped: false };
    reading.end = read(reading);
  }
  return reading.end;
};
const read = async (mine) => {
  let answer = { done: 0, total: 1 };
  while (answer && answer.done < answer.total) {
    answer = await ask('mend_read', { done: answer.done });
    if (mine.stopped) return false;
    if (answer) showReading(answer);
  }
  stopReading();
  if (answer) ready = mine.of;
  return Boolean(answer);
};
const stopReading = () => {
  if (reading) reading.stopped = true;
  reading = null;
  forget('mend_read');
  jobBox.replaceChildren();
};
const showReading = ({ done, total }) => {
  const bar = make('div', 'g-progress'),
    full = make('div', 'g-progress-fill'),
    head = make('div', 'g-job-head'),
    stop = make('button', 'g-button', 'Stop');
  full.style.width = `${(100 * done) / total}%`;
  bar.append(full);
  stop.type = 'button';
  stop.dataset.do = 'stop';
  const count = `${done.toLocaleString('en')} of ${total.toLocaleString('en')}`;
  head.append(make('span', '', `Reading the judged queries: ${count}`), stop);
  jobBox.replaceChildren(head, bar);
};

const working = (name, text) => part(name).replaceChildren(make('p', 'g-working', text));
// What a question answers, in its place; nothing stands there if it is an error.
const put = async (name, question, what = {}) => {
  const answer = await ask(question, what);
  if (answer || !part(name).querySelector('section')) fill(name, answer ? answer.html : '');
  return answer;
};

const press = () =>
  part('failing')
    .querySelectorAll('[data-query]')
    .forEach((one) => one.setAttribute('aria-pressed', String(one.dataset.query === view.query)));
const findFailing = async () => {
  complain();
  if (await encoded()) await put('failing', 'mend_failing');
};
const showQuery = async () => {
  press();
  root.querySelector('[data-do=explore]').hidden = !view.query;
  fill('query', '');
  if (!view.query || !(await encoded())) return;
  working('query', 'Asking why it fails …');
  await put('query', 'mend_query');
};
const showDocument = async () => {
  forget('mend_try');
  token = '';
  fill('replay', '');
  if (!view.document) fill('document', '');
  else await put('document', 'mend_document');
};
const openQuery = (query) => {
  Object.assign(view, { query, document: '' });
  sync();
  complain();
  showQuery();
  showDocument();
};
const openDocument = async (doc) => {
  view.document = doc;
  sync();
  complain();
  await showDocument();
};

const tryOut = async (what) => {
  complain();
  token = '';
  if (!(await encoded())) return;
  working('replay', 'Encoding the document and replaying all judged queries …');
  const answer = await put('replay', 'mend_try', what);
  if (!answer) fill('replay', '');
  else ({ token } = answer);
};
const tries = {
  edit: () => tryOut({ kind: 'edit', rationale: part('rationale').value }),
  remove: () => tryOut({ kind: 'remove' }),
  regenerate: () => tryOut({ kind: 'regenerate', seed: Number(part('seed').value) }),
};
// After what was changed everything on the page is of yesterday.
const changed = async (answer, said) => {
  if (!answer) return;
  const again = part('failing').firstChild;
  await load({ ...view });
  root.querySelector('.g-mend-banner').replaceChildren(notice('info', said(answer)));
  if (again && (await encoded())) await put('failing', 'mend_failing');
};

const load = async (wanted) => {
  forget();
  stopReading();
  root.dataset.busy = '';
  const answer = await ask('mend_open', {}, wanted);
  delete root.dataset.busy;
  if (!answer) return;
  const before = which();
  KEYS.forEach((key) => {
    view[key] = answer.view[key] || '';
  });
  data = answer;
  complain(...answer.problems);
  root.classList.toggle('g-mend-none', Boolean(answer.refusal));
  const plain = (names) => (names || []).map((name) => [name, name]);
  choices('corpus', plain(answer.corpora), view.corpus);
  choices('model', plain(answer.models), view.model);
  const splits = Object.entries(answer.splits || {});
  choices(
    'judged',
    splits.map(([name, count]) => [name, `${name} · ${count.toLocaleString('en')}`]),
    view.judged,
  );
  choices(
    'queries',
    splits.length
      ? [
          ['', '100 at random'],
          ['all', 'all'],
        ]
      : [],
    view.queries,
  );
  fill('history', answer.history);
  fill('none', answer.html);
  if (typeof answer.refusal === 'string' && answer.refusal)
    part('none').append(make('p', 'g-note', answer.refusal));
  if (before !== which()) fill('failing', '');
  ['query', 'document', 'replay'].forEach((name) => fill(name, ''));
  sync();
  if (answer.refusal) return;
  const all = [showDocument(), showQuery()];
  await Promise.all(all);
};

root.addEventListener('change', (event) => {
  const { set } = event.target.dataset;
  if (!set) return;
  const { value } = event.target;
  if (set === 'corpus') load({ corpus: value });
  else if (set === 'model')
    load({ corpus: view.corpus, model: value, judged: view.judged, queries: view.queries });
  else load({ ...view, query: '', [set]: value });
});
root.addEventListener('submit', async (event) => {
  event.preventDefault();
  if (!token) return;
  complain();
  const answer = await ask('mend_keep', { token, note: part('note').value });
  await changed(answer, ({ mend, document: id }) => `Kept as ${mend}: ${id} has the other rationale now.`);
});
root.addEventListener('click', async (event) => {
  const one = event.target.closest('[data-do], [data-query], [data-doc], [data-try], [data-revert]');
  if (!one || !data) return;
  const { dataset } = one;
  if (dataset.do === 'find') findFailing();
  else if (dataset.do === 'stop') stopReading();
  else if (dataset.do === 'explore') {
    window.graceOpener = null;
    trigger('seek', { view: { ...view } });
  } else if (dataset.query) openQuery(dataset.query);
  else if (dataset.doc) {
    await openDocument(dataset.doc);
    if (dataset.remedy) tries[dataset.remedy]();
  } else if (dataset.try) tries[dataset.try]();
  else if (dataset.revert) {
    complain();
    const answer = await ask('mend_revert', { mend: dataset.revert });
    await changed(
      answer,
      ({ mend, document: id }) => `${mend} is reverted: ${id} has its old rationale again.`,
    );
  }
});

const address = () => {
  const found = new URLSearchParams(location.search);
  return found.get('tab') === 'mend'
    ? Object.fromEntries(KEYS.map((key) => [key, found.get(key) || '']))
    : {};
};
new ResizeObserver(() => {
  const now = element.getClientRects().length > 0;
  if (now === there) return;
  there = now;
  if (there && (window.graceMend || !begun)) {
    load(window.graceMend || address());
    window.graceMend = null; // what a click of link.js asked for
    begun = true;
  } else sync();
}).observe(root);
