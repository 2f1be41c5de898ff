// Facets: ticking one tells it; whether the rows are unfolded, and where the focus is, outlast the new counts.
let unfolded = null;
let focused = null;
element.addEventListener(
  'toggle',
  (event) => {
    unfolded = event.target.open;
  },
  true,
);
element.addEventListener('click', (event) => {
  const box = event.target.closest('[data-facet]');
  if (!box || box.disabled) return;
  focused = [box.dataset.facet, box.dataset.value];
  unfolded = true;
  trigger('select', { column: box.dataset.facet, value: box.dataset.value });
});
watch('value', () =>
  requestAnimationFrame(() => {
    const rows = element.querySelector('details');
    if (rows && unfolded !== null) rows.open = unfolded;
    const boxes =
      focused && document.activeElement === document.body
        ? [...element.querySelectorAll('[data-facet]')]
        : [];
    const box = boxes.find((one) => one.dataset.facet === focused[0] && one.dataset.value === focused[1]);
    if (box) box.focus();
  }),
);
