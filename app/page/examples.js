element.addEventListener('click', (event) => {
  const chip = event.target.closest('[data-query]');
  if (chip) trigger('select', { query: chip.dataset.query });
});
