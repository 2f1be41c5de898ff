// The opened document: a modal dialog. Closing needs no server.
const overlay = () => element.querySelector('.g-overlay');

// Answers to quick clicks may come in any order: an older one than what is shown is put back.
let newest = { ticket: 0, html: '' };
const arrived = () => {
  const open = overlay();
  const ticket = open ? Number(open.dataset.ticket) : newest.ticket;
  if (ticket < newest.ticket) props.value = newest.html;
  else newest = { ticket, html: props.value };
  requestAnimationFrame(settle);
};

const close = () => {
  if (!overlay()) return;
  const id = overlay().dataset.doc;
  props.value = '';
  newest = { ticket: window.graceTicket || 0, html: '' };
  requestAnimationFrame(() => {
    settle();
    const hits = [...document.querySelectorAll('.g-results .g-open')].filter((button) => button.dataset.doc === id);
    const back = hits.includes(window.graceOpener) ? window.graceOpener : hits[0];
    if (back) back.focus({ preventScroll: true });
  });
};

const settle = () => {
  const open = overlay();
  document.body.classList.toggle('g-locked', !!open);
  document.querySelectorAll('.g-opening').forEach((card) => card.classList.remove('g-opening'));
  window.graceSync && window.graceSync();
  if (open && !open.contains(document.activeElement)) open.querySelector('.g-close').focus({ preventScroll: true });
};
watch('value', () => requestAnimationFrame(arrived));

element.addEventListener('click', (event) => {
  if (event.target.closest('.g-close') || event.target.classList.contains('g-overlay')) close();
});
document.addEventListener('keydown', (event) => {
  const open = overlay();
  if (!open) return;
  if (event.key === 'Escape') { event.preventDefault(); close(); }
  if (event.key !== 'Tab') return;
  // the close button is the dialog's only control, so that is where the focus stays
  event.preventDefault();
  open.querySelector('.g-close').focus();
});
