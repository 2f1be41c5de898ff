// The runs: ticking them, telling when the tab comes and goes, and keeping the address in step while it is
// there.
const KEYS = ['tab', 'run', 'of', 'probe', 'from', 'step'];
let there = false;

const sync = () => {
  const root = element.querySelector('.g-training');
  if (there && (!root || root.hasAttribute('data-keep'))) return;
  const address = new URLSearchParams(location.search);
  KEYS.forEach((key) => address.delete(key));
  if (there)
    Object.entries(JSON.parse(root.dataset.view)).forEach(([key, value]) => {
      if (value) address.set(key, value);
    });
  const query = address.toString();
  history.replaceState(history.state, '', location.pathname + (query ? '?' + query : ''));
};
let drawn = false;
watch('value', () =>
  requestAnimationFrame(() => {
    sync();
    const list = element.querySelector('.g-runs'),
      first = element.querySelector('.g-run:not(.g-run-off)');
    // an address may ask for one far down
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
  there = now;
  sync();
  if (there) setTimeout(whenDrawn, 0, parts, () => there);
  else trigger('hidden', {});
});
