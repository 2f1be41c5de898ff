// Groups of buttons of which one is chosen: by click, or by the arrow keys, which take the focus along.
const choose = (button) => {
  if (button.getAttribute('aria-checked') !== 'true')
    trigger('select', { set: button.dataset.set, value: button.dataset.value });
};
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-set]');
  if (button) choose(button);
});
element.addEventListener('keydown', (event) => {
  const way = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  const button = event.target.closest('[role=radio]');
  if (!way || !button) return;
  event.preventDefault();
  const group = [...button.closest('[role=radiogroup]').querySelectorAll('[role=radio]')];
  const next = group[(group.indexOf(button) + way + group.length) % group.length];
  next.focus();
  choose(next);
});

// A long row of evaluations begins where the chosen one is seen.
let last = '';
watch('value', () =>
  requestAnimationFrame(() => {
    const chosen = element.querySelector('[data-set=step][aria-checked=true]');
    const now = chosen ? chosen.dataset.value : '';
    if (now && now !== last) {
      const line = element.querySelector('.g-timeline');
      const [inner, outer] = [chosen.getBoundingClientRect(), line.getBoundingClientRect()];
      if (inner.left < outer.left || inner.right > outer.right)
        line.scrollLeft += inner.left - outer.left - outer.width / 2;
    }
    last = now;
  }),
);
