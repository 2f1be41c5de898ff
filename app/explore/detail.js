// The opened document: a modal dialog with three views. Closing needs no server.
const overlay = () => element.querySelector('.g-overlay');

// A hit, or another passage of the opened one. Answers to quick clicks may come in any order: the last click counts, unless
// the dialog was closed since.
let clicks = 0;
window.graceOpenHit = async (view, doc) => {
  const click = (clicks += 1);
  const answer = await answerOf('open_hit', { view, doc });
  if (click !== clicks) return;
  const failure = answer.error && notice('error', answer.error);
  if (failure) failure.classList.add('floating');
  props.value = failure ? failure.outerHTML : answer.html;
  requestAnimationFrame(settle);
};

const close = () => {
  if (!overlay()) return;
  const id = overlay().dataset.doc;
  clicks += 1;
  props.value = '';
  requestAnimationFrame(() => {
    settle();
    const hits = [...document.querySelectorAll('.g-results .g-open')].filter(
      (button) => button.dataset.doc === id,
    );
    const back = hits.includes(window.graceOpener) ? window.graceOpener : hits[0];
    if (back) back.focus({ preventScroll: true });
  });
};

// Gradio changes the page where it differs: another passage would come into the dialog of the one before, with all that was
// noted on it. A copy is a new dialog.
const renewed = (open) => {
  const copy = open.cloneNode(true);
  open.replaceWith(copy);
  const current = copy.querySelector('.g-passages [aria-current]');
  if (current) current.focus({ preventScroll: true });
  return copy;
};

const settle = () => {
  let open = overlay();
  const openDoc = open && open.dataset.doc;
  if (open && open.graceReady && open.graceReady !== openDoc) open = renewed(open);
  document.body.classList.toggle('g-locked', !!open);
  document.querySelectorAll('.g-opening').forEach((card) => card.classList.remove('g-opening'));
  window.graceSync && window.graceSync();
  if (open && !open.graceReady) {
    open.graceReady = openDoc;
    begin(open);
  }
  if (open && !open.contains(document.activeElement))
    open.querySelector('.g-close').focus({ preventScroll: true });
};
watch('value', () => requestAnimationFrame(settle));

element.addEventListener('click', (event) => {
  if (!event.target.closest('.g-to-map')) return;
  window.graceToMap(JSON.parse(overlay().dataset.view), overlay().dataset.doc);
  close();
  trigger('tomap', {});
});
// Another passage of the same document: asked for like a hit.
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-passage]');
  if (!button || button.getAttribute('aria-current')) return;
  button.classList.add('g-asked');
  window.graceOpenHit(overlay().dataset.view, button.dataset.passage);
});
// The list of passages is one stop of the Tab key: in it the arrow keys move, Enter or a click opens.
element.addEventListener('keydown', (event) => {
  const from = event.target.closest('[data-passage]');
  if (!from) return;
  const all = [...from.closest('.g-passages').querySelectorAll('[data-passage]')];
  const at = all.indexOf(from),
    last = all.length - 1;
  const places = {
    ArrowDown: at + 1,
    ArrowUp: at - 1,
    PageDown: at + 10,
    PageUp: at - 10,
    Home: 0,
    End: last,
  };
  if (!(event.key in places)) return;
  event.preventDefault();
  const to = all[Math.min(last, Math.max(0, places[event.key]))];
  from.tabIndex = -1;
  to.tabIndex = 0;
  to.focus();
});
element.addEventListener('click', (event) => {
  if (event.target.closest('.g-close') || event.target.classList.contains('g-overlay')) close();
});
document.addEventListener('keydown', (event) => {
  const open = overlay();
  if (!open) return;
  if (event.key === 'Escape') {
    event.preventDefault();
    if (event.target.matches('textarea'))
      event.target.blur(); // an edit in progress is left first
    else close();
    return;
  }
  if (event.key !== 'Tab') return;
  // the page behind the dialog is out of reach: past its last control comes the first
  const all = [...open.querySelectorAll('button, select, textarea, input, [tabindex="0"]')].filter(reachable);
  const first = all[0],
    last = all[all.length - 1],
    at = document.activeElement;
  if (!open.contains(at) || (event.shiftKey ? at === first : at === last)) {
    event.preventDefault();
    (event.shiftKey ? last : first).focus();
  }
});
// Of radio buttons the Tab key reaches the chosen one.
const reachable = (one) =>
  !one.disabled && one.tabIndex >= 0 && one.offsetParent !== null && !(one.type === 'radio' && !one.checked);

// The views. What stands open is kept on the overlay, from where the address takes it.
const show = (open, name) => {
  open.querySelectorAll('[role=tab]').forEach((tab) => {
    tab.setAttribute('aria-selected', String(tab.dataset.panel === name));
    tab.tabIndex = tab.dataset.panel === name ? 0 : -1;
  });
  open.querySelectorAll('.g-panel').forEach((panel) => {
    panel.hidden = panel.id !== `g-panel-${name}`;
  });
  redraw(open);
};
// The column of the hit that was clicked; after a link the first one with rationales.
const openedIn = (open) => {
  const hit = window.graceOpener && window.graceOpener.isConnected && window.graceOpener.closest('.g-hit');
  if (hit && hit.dataset.hit === open.dataset.doc) return hit.closest('.g-column-b') ? 'b' : 'a';
  const [a, b] = columnsOf(open);
  return a.rationale || !b.rationale ? 'a' : 'b';
};
const turnTo = (open, name) => {
  show(open, name);
  const against = open.graceWhy && open.graceWhy.against ? open.graceWhy.against.id : '';
  const side = open.dataset.why || open.dataset.whatif || open.graceSide || openedIn(open);
  if (name === 'why') openWhy(open, side, open.dataset.vs || against);
  else if (name === 'whatif') startWhatIf(open, side);
  else stands(open, {});
};
// The passage that was found, in the middle of its document; the rest of the page stays where it is.
const showPassage = (open) => {
  const lit = open.querySelector('#g-passage');
  if (!lit) return;
  const box = lit.closest('.g-whole');
  box.scrollTop += lit.getBoundingClientRect().top - box.getBoundingClientRect().top - box.clientHeight / 4;
  const row = open.querySelector('.g-passages [aria-current]');
  if (row) row.closest('.g-passages').scrollTop = row.offsetTop - 40;
};
const begin = (open) => {
  drawBlocks(open);
  showPassage(open);
  let width = 0;
  new ResizeObserver(([{ contentRect }]) => {
    if (Math.abs(contentRect.width - width) > 1) {
      width = contentRect.width;
      redraw(open);
    }
  }).observe(open.querySelector('.g-dialog'));
  const asked = ['why', 'whatif'].find((name) => open.dataset[name]);
  if (asked) turnTo(open, asked);
};
element.addEventListener('click', (event) => {
  const tab = event.target.closest('[role=tab]');
  if (tab) turnTo(overlay(), tab.dataset.panel);
});
element.addEventListener('keydown', (event) => {
  const way = { ArrowRight: 1, ArrowLeft: -1 }[event.key],
    tab = event.target.closest('[role=tab]');
  if (!way || !tab) return;
  const tabs = [...tab.parentElement.children],
    next = tabs[(tabs.indexOf(tab) + way + tabs.length) % tabs.length];
  event.preventDefault();
  next.focus();
  turnTo(overlay(), next.dataset.panel);
});
