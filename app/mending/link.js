// Buttons that lead to the Mend tab. That tab may not be drawn yet, so what is asked for is left on the window.
element.addEventListener('click', (event) => {
  const one = event.target.closest('[data-mend]');
  if (!one) return;
  window.graceMend = JSON.parse(one.dataset.mend);
  const close = document.querySelector('.g-overlay .g-close');
  if (close) close.click();
  trigger('tomend', {});
});
