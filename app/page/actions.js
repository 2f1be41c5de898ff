element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-action]');
  if (!button || button.disabled) return;
  trigger('select', {
    action: button.dataset.action,
    collection: button.dataset.collection || '',
    model: button.dataset.model || '',
  });
});
