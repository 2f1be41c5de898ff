// The list of runs: ticks them, reports when the tab is opened and left, and updates the address while it is
// open.
let visible = false;

const sync = () => {
  const root = element.querySelector('.g-training');
  if (visible && (!root || root.hasAttribute('data-keep'))) return;
  putInAddress('training', visible ? JSON.parse(root.dataset.view) : null);
};
let drawn = false;
watch('value', () =>
  requestAnimationFrame(() => {
    sync();
    const list = element.querySelector('.g-runs'),
      first = element.querySelector('.g-run:not(.g-run-off)');
    // the run of an address may be far down the list
    if (!drawn && first) list.scrollTop = first.offsetTop - list.offsetTop - 8;
    drawn = drawn || !!first;
  }),
);

element.addEventListener('click', (event) => {
  if (String(getSelection()).length) return;
  const box = event.target.closest('.g-run') && event.target.closest('.g-run').querySelector('[data-set]');
  if (box) trigger('select', { set: box.dataset.set, value: box.dataset.value });
});

const parts = ['#g-curves .g-curves', '#g-probes'];
inSight((now) => {
  visible = now;
  sync();
  if (visible) setTimeout(whenDrawn, 0, parts, () => visible);
  else trigger('hidden', {});
});
