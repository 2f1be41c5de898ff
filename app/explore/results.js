// The results: opening a hit, lighting up its twin, and keeping the address in step with what is shown.
// One address for the page: results tell the search, the opened document adds itself.

window.graceSync = () => {
  const root = document.querySelector('.g-results');
  if (!root || root.hasAttribute('data-keep') || !root.dataset.view) return;
  let view;
  try {
    view = JSON.parse(root.dataset.view);
  } catch {
    return;
  }
  changeAddress((address) => {
    PARAMETERS.explore.forEach((key) => address.delete(key));
    if (!view.q || [...view.q, ...(view.where || '')].length > LONGEST_IN_ADDRESS) return;
    const open = document.querySelector('.g-overlay'); // the opened document
    PARAMETERS.explore.forEach((key) => {
      const value = view[key] || (open && open.dataset[key]);
      if (value) address.set(key, value);
    });
  });
};

const follow = () => {
  window.graceSync();
  element.querySelectorAll('.g-rationale').forEach((box) => {
    const text = box.querySelector('.g-rationale-text');
    if (box.dataset.state === 'writing') text.scrollTop = text.scrollHeight;
    else if (box.graceState === 'writing') text.scrollTop = 0;
    box.graceState = box.dataset.state;
  });
};
watch('value', () => requestAnimationFrame(follow));

// The map is told what to show by the page, as it may not be there yet: it looks when it is shown.
window.graceToMap = (view, doc) => {
  const find = view.where ? `where: ${view.where}` : '';
  window.graceMap = {
    corpus: view.collection,
    left: view.a,
    right: view.b,
    star: view.q || '',
    point: doc,
    find,
  };
};
element.addEventListener('click', (event) => {
  if (!event.target.closest('.g-to-map')) return;
  window.graceToMap(JSON.parse(element.querySelector('.g-results').dataset.view), '');
  trigger('tomap', {});
});

element.addEventListener('click', (event) => {
  const card = event.target.closest('.g-hit[data-hit]');
  if (!card || String(getSelection()).length) return;
  const root = element.querySelector('.g-results');
  window.graceOpener = card.querySelector('.g-open');
  card.classList.add('g-opening');
  window.graceOpenHit(root.dataset.view, card.dataset.hit);
});

const twins = (event, on) => {
  const card = event.target.closest && event.target.closest('.g-hit[data-hit]');
  if (!card) return;
  element.querySelectorAll('.g-hit[data-hit]').forEach((other) => {
    other.classList.toggle('g-twin', on && other !== card && other.dataset.hit === card.dataset.hit);
  });
};
['mouseover', 'focusin'].forEach((name) => element.addEventListener(name, (event) => twins(event, true)));
['mouseout', 'focusout'].forEach((name) => element.addEventListener(name, (event) => twins(event, false)));

const controls = [
  '#g-query textarea',
  '#g-collection input',
  '#g-a input',
  '#g-b input',
  '#g-k input',
  '#g-where',
  '#g-facets',
  '#g-examples',
  '#g-note',
  '#g-detail',
];
requestAnimationFrame(() => whenDrawn(controls, () => true, 'ready'));

// Coming back to a page that was opened: to its head, from however far down another tab. There may be other
// collections now.
inSight((there) => {
  if (there && element.querySelector('.g-results')) {
    scrollTo(0, 0);
    trigger('shown', {});
  }
});
