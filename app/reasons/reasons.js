// The Reasons tab: its list, an opened reason, and a query split and steered. What is shown stands in `view`, as
// the address holds it; the server checks it again with every question.
const root = element.querySelector('.g-reasons');
const opened = root.querySelector('.g-reasons-opened');
const jobBox = root.querySelector('.g-reasons-job');

const view = {};
let data = null; // what the server told of the reasons: { names, sizes, … }
let there = false,
  begun = false,
  waiting = 0;

const complain = (...messages) => errorsIn(root.querySelector('.g-reasons-banner'), messages);
const { ask, forget } = questions((asked = view) => ({ view: { ...asked } }), complain);
const say = (text) => {
  part('spoken').textContent = text;
};
const sync = () => putInAddress('reasons', there ? view : null);

// Strengths by reason, "3:0.5,7:-1" in the address.
const strengths = () =>
  new Map(
    (view.steer || '')
      .split(',')
      .filter(Boolean)
      .map((one) => one.split(':')),
  );
const steered = () => {
  const terms = [...strengths()].map(([reason, by]) => `${by > 0 ? '+' : ''}${by} ${data.names[reason]}`);
  part('steered').textContent = view.ask && terms.length ? `The query is steered: ${terms.join(', ')}` : '';
};
const showStrength = () => {
  const strength = Number(strengths().get(view.reason) || 0);
  part('strength').value = strength;
  part('told').textContent = strength > 0 ? `+${strength}` : String(strength);
  steered();
};
const setStrength = (strength) => {
  const all = strengths();
  if (strength) all.set(view.reason, String(strength));
  else all.delete(view.reason);
  view.steer = [...all].map((one) => one.join(':')).join(',');
  showStrength();
  sync();
  clearTimeout(waiting);
  waiting = setTimeout(split, 60);
};

const press = () =>
  root
    .querySelectorAll('.g-reason, .g-split-row')
    .forEach((one) => one.setAttribute('aria-pressed', String(one.dataset.reason === view.reason)));

const split = async () => {
  if (!data) return;
  if (!view.ask) {
    forget('reasons_ask');
    fill(part('hits'), '');
    return;
  }
  part('hits').dataset.busy = '';
  const answer = await ask('reasons_ask');
  if (!answer) return;
  delete part('hits').dataset.busy;
  const at =
    document.activeElement &&
    part('hits').contains(document.activeElement) &&
    document.activeElement.dataset.reason;
  fill(part('hits'), answer.html);
  press();
  if (at) {
    const again = part('hits').querySelector(`.g-split-row[data-reason="${at}"]`);
    if (again) again.focus({ preventScroll: true });
  }
};

let opener = null;
const open = async (reason, from = null) => {
  if (from) opener = from;
  view.reason = reason;
  sync();
  press();
  if (!reason) {
    view.only = '';
    part('only').checked = false;
    opened.hidden = true;
    forget('reasons_reason');
    sync();
    split();
    if (opener && opener.isConnected) opener.focus({ preventScroll: true });
    opener = null;
    return;
  }
  part('name').textContent = data.names[reason];
  part('steering').hidden = !view.ask;
  part('only').checked = view.only === '1';
  showStrength();
  opened.hidden = false;
  fill(part('reason'), '');
  if (view.ask) split();
  const answer = await ask('reasons_reason');
  if (!answer) return;
  fill(part('reason'), answer.html);
  if (from) {
    part('name').focus({ preventScroll: true });
    if (opened.getBoundingClientRect().top < 0) opened.scrollIntoView({ block: 'start' });
  }
};

const find = () => {
  const words = part('find').value.toLowerCase().split(/\s+/).filter(Boolean);
  let left = 0;
  part('list')
    .querySelectorAll('li')
    .forEach((one) => {
      one.hidden = !words.every((word) => one.textContent.toLowerCase().includes(word));
      left += one.hidden ? 0 : 1;
    });
  if (words.length) say(`${left} reasons`);
};

const showJob = (job) => {
  jobBox.replaceChildren();
  if (job && job.state === 'working') {
    const stop = make('button', 'g-button', job.stopping ? 'Stopping …' : 'Stop');
    stop.disabled = job.stopping;
    stop.dataset.do = 'stop';
    const left = job.left === null || job.left === undefined ? '' : ` · about ${job.left} s left`,
      of = `${job.done.toLocaleString('en')} of ${job.total.toLocaleString('en')}`,
      what =
        {
          sentences: `reading ${of} rationales`,
          reading: `reading ${of} rationales`,
          queries: `query ${of}`,
        }[job.stage] || 'grouping sentences',
      doing = job.against
        ? `Comparing ${job.model} with ${job.against} over ${job.corpus}`
        : `Finding the reasons of ${job.model} over ${job.corpus}`;
    const line = `${doing}: ${what} · ${Math.round(job.seconds)} s${left}`;
    jobBox.append(...progressLines(line, stop, job.total ? job.done / job.total : 0));
    return;
  }
  const mine = job && job.corpus === view.corpus && job.model === view.model;
  if (mine && job.message) jobBox.append(notice(job.state === 'failed' ? 'error' : 'info', job.message));
  if (root.dataset.offer !== undefined) {
    const begin = make('button', 'g-button g-primary', 'Find the reasons');
    begin.type = 'button';
    begin.dataset.do = 'make';
    jobBox.append(begin);
  }
};
const { follow, goOn, comeBack } = jobFollower('reasons_progress', jobBox, {
  show: showJob,
  finish: () => load({ ...view }),
});

// A view is asked for, and shown as far as the server has it.
const load = async (asked) => {
  forget('reasons_ask', 'reasons_reason', 'reasons_compare');
  root.dataset.busy = '';
  const first = !data,
    answer = await ask('reasons_open', {}, asked);
  delete root.dataset.busy;
  if (!answer) return;
  PARAMETERS.reasons.forEach((key) => {
    view[key] = answer.view[key] || '';
  });
  complain(...answer.problems);
  data = answer.empty ? null : answer;
  root.classList.toggle('g-reasons-none', !data);
  root.toggleAttribute('data-offer', Boolean(answer.offer));
  root.toggleAttribute('data-nothing', !answer.corpora);
  opened.hidden = true;
  fill(part('hits'), '');
  fill(part('none'), data ? '' : answer.html);
  fill(part('list'), data ? data.list : '');
  fill(part('summary'), data ? data.summary : '');
  choices('corpus', answer.corpora || [], view.corpus);
  choices('model', answer.models || [], view.model);
  choices('size', data ? data.sizes : [], view.size);
  if (view.ask || !first) part('ask').value = view.ask; // what was typed while the tab loaded stays
  root.querySelector('.g-reasons-ask button').disabled = false;
  sync();
  follow(answer.job);
  if (!data) return;
  find();
  compare();
  if (view.reason) open(view.reason);
  else split();
};

root.addEventListener('change', (event) => {
  const set = event.target.dataset.set;
  if (set === 'corpus') load({ corpus: event.target.value, ask: view.ask });
  else if (set === 'model') load({ corpus: view.corpus, model: event.target.value, ask: view.ask });
  else if (set === 'size') load({ ...view, reason: '', only: '', steer: '', size: event.target.value });
  else if (event.target === part('only')) {
    view.only = event.target.checked ? '1' : '';
    sync();
    split();
  }
});
root.addEventListener('input', (event) => {
  if (event.target === part('strength')) setStrength(Number(event.target.value));
  else if (event.target === part('find')) find();
});
root.querySelector('.g-reasons-ask').addEventListener('submit', (event) => {
  event.preventDefault();
  if (!data) return;
  view.ask = part('ask').value.trim();
  if (!view.ask) view.steer = '';
  complain();
  part('steering').hidden = !view.ask;
  showStrength();
  sync();
  split();
});
root.addEventListener('click', async (event) => {
  const one = event.target.closest('[data-reason], [data-do], [data-more], [data-why]');
  if (!one) return;
  if (one.dataset.do === 'make') {
    const answer = await ask('reasons_make');
    if (answer) goOn(answer.job);
  } else if (one.dataset.do === 'stop') {
    const answer = await ask('reasons_stop');
    if (answer) goOn(answer.job);
  } else if (!data) return;
  else if (one.dataset.do === 'close') open('');
  else if (one.dataset.do === 'reset') setStrength(0);
  else if (one.dataset.why !== undefined) {
    window.graceOpener = null;
    trigger('seek', { view: { ...view }, doc: one.dataset.why });
  } else if (one.dataset.more) {
    const answer = await ask('reasons_reason', { begin: Number(one.dataset.more) });
    if (!answer) return;
    const list = one.closest('ul');
    one.remove();
    const box = make('div');
    box.innerHTML = answer.html;
    const added = [...box.firstElementChild.children];
    list.append(...added);
    if (added[0]) {
      added[0].tabIndex = -1;
      added[0].focus({ preventScroll: true });
    }
  } else if (one.dataset.reason === view.reason && one.classList.contains('g-reason')) open('');
  else if (one.dataset.reason) open(one.dataset.reason, one);
});
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && there && data && view.reason && !event.defaultPrevented) open('');
});

new ResizeObserver(() => {
  const now = element.getClientRects().length > 0;
  if (now === there) return;
  there = now;
  if (there && !begun) {
    begun = true;
    load(viewInAddress('reasons'));
  } else if (there) {
    sync();
    comeBack();
    if (!data) load({ ...view });
  } else sync();
}).observe(root);
