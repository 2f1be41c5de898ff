// The Mend tab: failing queries, why one fails, a document's rationale changed and tried, kept, and reverted. What is
// shown stands in `view`, as the address holds it; the server checks it again with every question.
const root = element.querySelector('.g-mend');
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
const sync = () => putInAddress('mend', there ? view : null);

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
  const stop = make('button', 'g-button', 'Stop');
  stop.dataset.do = 'stop';
  const count = `${done.toLocaleString('en')} of ${total.toLocaleString('en')}`;
  jobBox.replaceChildren(...progressLines(`Reading the judged queries: ${count}`, stop, done / total));
};

const working = (name, text) => part(name).replaceChildren(make('p', 'g-working', text));
// What a question answers, in its place; nothing stands there if it is an error.
const put = async (name, question, what = {}) => {
  const answer = await ask(question, what);
  if (answer || !part(name).querySelector('section')) fill(part(name), answer ? answer.html : '');
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
  fill(part('query'), '');
  if (!view.query || !(await encoded())) return;
  working('query', 'Asking why it fails …');
  await put('query', 'mend_query');
};
const showDocument = async () => {
  forget('mend_try');
  token = '';
  fill(part('replay'), '');
  if (!view.document) fill(part('document'), '');
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
  if (!answer) fill(part('replay'), '');
  else ({ token } = answer);
};
const tries = {
  edit: () => tryOut({ kind: 'edit', rationale: part('rationale').value }),
  remove: () => tryOut({ kind: 'remove' }),
  regenerate: () => tryOut({ kind: 'regenerate', seed: Number(part('seed').value) }),
};
// After a change everything on the page is out of date: load it again.
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
  PARAMETERS.mend.forEach((key) => {
    view[key] = answer.view[key] || '';
  });
  data = answer;
  root.querySelector('[data-do=find]').disabled = false;
  complain(...answer.problems);
  root.classList.toggle('g-mend-none', Boolean(answer.refusal));
  choices('corpus', answer.corpora || [], view.corpus);
  choices('model', answer.models || [], view.model);
  const splits = splitChoices(answer.splits || {});
  choices('judged', splits, view.judged);
  choices('queries', splits.length ? HOW_MANY : [], view.queries);
  fill(part('history'), answer.history);
  fill(part('none'), answer.html);
  if (typeof answer.refusal === 'string' && answer.refusal)
    part('none').append(make('p', 'g-note', answer.refusal));
  if (before !== which()) fill(part('failing'), '');
  ['query', 'document', 'replay'].forEach((name) => fill(part(name), ''));
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

new ResizeObserver(() => {
  const now = element.getClientRects().length > 0;
  if (now === there) return;
  there = now;
  if (there && (window.graceMend || !begun)) {
    load(window.graceMend || viewInAddress('mend'));
    window.graceMend = null; // what a click of link.js asked for
    begun = true;
  } else sync();
}).observe(root);
